"""A class-mean classifier whose shrinkage and temperature are chosen on images left out.

With few images of a class a covariance that is hardly shrunken knows its own images by heart:
its loss on them is next to nothing, and on others above that of chance. So both are chosen by
cross-validation. The features are computed once, and each fold is solved in closed form
(regularised discriminant analysis, Friedman 1989, with the loss of the left-out images in place
of their errors).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pass_transfer.random_streams import stream
from pass_transfer.shrinking.classifier import ClassMoments

FOLDS = 5
SHRINKAGES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.8, 0.9, 0.95)
# A discriminant of few images needs to be far less sure than one of many.
TEMPERATURES = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class CrossValidated:
    """A classifier and those of its folds, all of the shrinkage and temperature that were chosen.

    Fields:
        shrinkage, temperature: with the least loss on the images that were left out.
        loss, top1: mean cross-entropy and per cent right, of the left-out images.
        folds: (N,), the fold of each image, 0 to FOLDS - 1; FOLDS for one that is alone in its
            class, which no other fold knows.
        of_folds: of each fold, Linear(D, classes) made without its images.
        whole: Linear(D, classes) made from all images.
    """

    shrinkage: float
    temperature: float
    loss: float
    top1: float
    folds: torch.Tensor
    of_folds: list[nn.Linear]
    whole: nn.Linear


def cross_validate(
    features: torch.Tensor, labels: torch.Tensor, classes: int, seed: int = 0
) -> CrossValidated | None:
    """The class-mean classifier with the least loss on images that it was not made from.

    Args:
        features: (N, D).
        labels: (N,) in 0..classes-1.
        seed: of the folds.

    Returns:
        None where no class has two images, so that none can be left out.
    """
    x, folds = features.double(), deal(labels, seed)
    parts = _parts(x, labels, folds, classes)
    if not parts:
        return None
    best, least = (SHRINKAGES[0], TEMPERATURES[0]), (float("inf"), 0.0)
    truth = torch.cat([part.labels for part in parts])
    for shrinkage in SHRINKAGES:
        logits = torch.cat([part.logits(shrinkage) for part in parts])
        for temperature in TEMPERATURES:
            loss = nn.functional.cross_entropy(temperature * logits, truth).item()
            if loss < least[0]:
                right = logits.argmax(1).eq(truth).double().mean().item()
                best, least = (shrinkage, temperature), (loss, 100 * right)
    of_folds = [part.moments.head(*best) for part in parts]
    whole = ClassMoments.of(x, labels, classes).head(*best)
    alone = torch.bincount(labels, minlength=classes)[labels] == 1
    return CrossValidated(*best, *least, folds.masked_fill(alone, FOLDS), of_folds, whole)


def deal(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """A fold for each image (N,): each class is shuffled and dealt out, one after the other."""
    shuffled = torch.randperm(len(labels), generator=stream(seed, "folds"))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    folds = torch.empty(len(labels), dtype=torch.int64)
    folds[by_class] = torch.arange(len(labels)) % FOLDS
    return folds


@dataclass(frozen=True)
class _Part:
    """One fold: what the other folds' images say, and those of its own that are judged by it."""

    moments: ClassMoments
    features: torch.Tensor
    labels: torch.Tensor

    def logits(self, shrinkage: float) -> torch.Tensor:
        """Of the judged images (M, classes), not calibrated."""
        weight, bias = self.moments.discriminant(shrinkage)
        return self.features @ weight.T + bias


def _parts(x: torch.Tensor, labels: torch.Tensor, folds: torch.Tensor, classes: int) -> list[_Part]:
    """The folds; none where no image is judged, as no class has two images.

    An image is judged where its class has others in the other folds.
    """
    parts, count = [], 0
    for fold in range(FOLDS):
        known = folds != fold
        judged = ~known & torch.isin(labels, labels[known])
        moments = ClassMoments.of(x[known], labels[known], classes)
        parts.append(_Part(moments, x[judged], labels[judged]))
        count += int(judged.sum())
    return parts if count else []
