"""Who judges a task's images while channels are measured: the dense network with a classifier.

Importance is a gradient of the loss, and a classifier that knows the images by heart has none
to speak of. So where images are few, shrinkage and temperature are chosen on images left out,
and every image is judged by a classifier that was made from others (cross-fitting).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pass_transfer.masking import batch_statistics
from pass_transfer.networks import set_classifier
from pass_transfer.networks.network import Network
from pass_transfer.progress import say
from pass_transfer.shrinking.classifier import (
    SEARCH_IMAGES,
    class_features,
    linear_head,
    with_task_head,
)
from pass_transfer.shrinking.cross_validation import CrossValidated, cross_validate
from pass_transfer.tasks import Split, Task
from pass_transfer.training import Runtime

AUTO, FIXED, CROSS_VALIDATED = "auto", "fixed", "cross-validated"
MEASURING = (AUTO, FIXED, CROSS_VALIDATED)
# Training images a class below which a fixed shrinkage is worse than a chosen one
# (benchmarks/measuring_classifier.py).
FEW = 64

View = Callable[[torch.Tensor], torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def summed_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of logits (B, classes) and labels (B,), summed over the batch."""
    return nn.functional.cross_entropy(logits, labels, reduction="sum")


@dataclass(frozen=True)
class Judge:
    """A frozen dense network, and the images that it judges.

    Its classifier has the classes' rows once, or once for each of several classifiers, one
    after the other.

    Fields:
        network: with that classifier, for use with batch statistics.
        split: training images; the label of each is the row that is right for it.
        classes: of the task.
        network_of_all: the same network with the classifier made from all images, to learn with.
        about: its classifiers, in words.
    """

    network: Network
    split: Split
    classes: int
    network_of_all: Network
    about: str = ""

    def loss(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Summed cross-entropy of logits (B, rows), each image's by its own classifier."""
        if logits.shape[1] == self.classes:
            return summed_loss(logits, rows)
        by_classifier = logits.view(len(logits), -1, self.classes)
        image = torch.arange(len(logits), device=logits.device)
        return summed_loss(by_classifier[image, rows // self.classes], rows % self.classes)


def choose_measuring(wanted: str, task: Task) -> str:
    """How a task's classifier is made: "fixed" or "cross-validated"; "auto" goes by its images."""
    if wanted != AUTO:
        return wanted
    return CROSS_VALIDATED if len(task.train) < FEW * task.classes else FIXED


def task_judge(network: Network, task: Task, runtime: Runtime, seed: int, measuring: str) -> Judge:
    """The judge of a task's training images.

    Args:
        network: the dense network, left as it is.
        seed: of the images that the classifier is made from, and of the folds.
        measuring: one of MEASURING.
    """
    if choose_measuring(measuring, task) == CROSS_VALIDATED:
        judge = cross_fitted(network, task.train, task.classes, runtime, seed)
        if judge is not None:
            say(f"channels are measured with a classifier of {judge.about}")
            return judge
    own = with_task_head(network, task.train, task.classes, runtime, seed)
    return Judge(own, task.train, task.classes, own)


def cross_fitted(
    network: Network,
    train: Split,
    classes: int,
    runtime: Runtime,
    seed: int,
    view: View | None = None,
) -> Judge | None:
    """A judge with a classifier for each fold; None where no image can be left out.

    Args:
        network, seed: as of task_judge.
        view: how images are seen, if not as they are.
    """
    own = runtime.place(copy.deepcopy(network)).requires_grad_(False)
    numbered = dataclasses.replace(train, labels=np.arange(len(train)))
    with batch_statistics(own.backbone):
        features, positions = class_features(own, numbered, runtime, SEARCH_IMAGES, seed, view)
    labels = torch.from_numpy(train.labels)[positions]
    found = cross_validate(features, labels, classes, seed)
    if found is None:
        return None
    judging = copy.deepcopy(own)
    _set_head(own, found.whole, runtime)
    _set_head(judging, _one_after_the_other(found), runtime)
    about = (
        f"shrinkage {found.shrinkage:g} and temperature {found.temperature:g}: {found.top1:.1f} % "
        f"and a loss of {found.loss:.2f} on images left out"
    )
    return Judge(judging, _with_rows(train, positions, found, classes), classes, own, about)


def _set_head(network: Network, head: nn.Linear, runtime: Runtime) -> None:
    set_classifier(network.backbone, runtime.place(head).requires_grad_(False))


def _one_after_the_other(found: CrossValidated) -> nn.Linear:
    """The folds' classifiers and the whole one as one of many rows."""
    heads = [*found.of_folds, found.whole]
    weight = torch.cat([head.weight.detach() for head in heads])
    return linear_head(weight, torch.cat([head.bias.detach() for head in heads]))


def _with_rows(train: Split, positions: torch.Tensor, found: CrossValidated, classes: int) -> Split:
    """The images with the rows that are right for them.

    An image of a fold has the row of its fold's classifier, any other one that of the whole,
    which stands behind those of the folds.
    """
    classifier = np.full(len(train), len(found.of_folds))
    classifier[positions.numpy()] = found.folds.numpy()
    return dataclasses.replace(train, labels=classifier * classes + train.labels)
