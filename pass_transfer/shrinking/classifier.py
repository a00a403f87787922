"""A new classifier for a task, started from its class means.

Linear discriminant analysis on the network's own features: in closed form, what a
linear probe would need many steps for.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pass_transfer.masking import batch_statistics
from pass_transfer.networks import classifier_of, kind_of, set_classifier
from pass_transfer.networks.network import Network
from pass_transfer.random_streams import stream
from pass_transfer.tasks import Split
from pass_transfer.training.batches import Batches, batches, to_images
from pass_transfer.training.processes import Processes
from pass_transfer.training.runtime import Runtime

# 200 for each of 100 classes: the means of 512 features are then known to 0.07 standard deviations.
IMAGES = 20_000
SHRINKAGE = 0.1  # of the covariance towards a multiple of the identity
SEARCH_IMAGES = 4096  # for the classifier of a search, which learns along or is only measured with
BATCH = 256
# Norm of a classifier's rows before training; calibrated ones have 10 to 20, and their
# gradients tear the backbone up.
TRAINING_NORM = 2.0
TEMPERATURES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)


def some_batches(split: Split, images: int, seed: int, processes: Processes) -> Batches:
    """Batches of `images` images of a split, rounded up to whole batches; at most all of them.

    Several processes share them out.
    """
    order = torch.randperm(len(split), generator=stream(seed, "classifier")).split(BATCH)
    return batches(split, BATCH, order=processes.mine(order[: math.ceil(images / BATCH)]))


@torch.no_grad()
def class_features(
    network: Network,
    split: Split,
    runtime: Runtime,
    images: int = IMAGES,
    seed: int = 0,
    view: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the classifier sees of up to `images` images of a split, through a view.

    Returns:
        Features (N, D) float32 and labels (N,).
    """
    caught: list[torch.Tensor] = []
    layer = classifier_of(network.backbone)
    kind = kind_of(layer)
    handle = layer.register_forward_pre_hook(
        lambda _, args: caught.append(kind.features(args[0]).float().cpu())
    )
    network.eval()
    kept = []
    try:
        for pixels, labels in some_batches(split, images, seed, runtime.processes):
            seen = to_images(pixels, runtime.device)
            with runtime.autocast():
                network(view(seen) if view else seen)
            kept.append(labels)
    finally:
        handle.remove()
    made = runtime.processes.gathered(list(zip(caught, kept)))
    return torch.cat([features for features, _ in made]), torch.cat([labels for _, labels in made])


def class_mean_head(features: torch.Tensor, labels: torch.Tensor, classes: int) -> nn.Linear:
    """Linear discriminant with a shared, shrunken covariance and a fitted temperature.

    Args:
        features: (N, D).
        labels: (N,) in 0..classes-1; a class without an image gets a zero row.

    Returns:
        Linear(D, classes) whose logits are calibrated on these features.
    """
    x = features.double()
    weight, bias = ClassMoments.of(x, labels, classes).discriminant(SHRINKAGE)
    logits = x @ weight.T + bias
    losses = [torch.nn.functional.cross_entropy(t * logits, labels).item() for t in TEMPERATURES]
    best = TEMPERATURES[losses.index(min(losses))]
    return linear_head(best * weight, best * bias)


@dataclass(frozen=True)
class ClassMoments:
    """What a linear discriminant is made from: (classes, D) means, (D, D) covariance inside them.

    All float64. The mean of a class without an image is zero.
    """

    means: torch.Tensor
    covariance: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor, labels: torch.Tensor, classes: int) -> ClassMoments:
        """Moments of features (N, D) float64 with labels (N,) in 0..classes-1."""
        one_hot = torch.nn.functional.one_hot(labels, classes).double()
        counts = one_hot.sum(0)
        means = one_hot.T @ x / counts.clamp(min=1)[:, None]
        centred = x - means[labels]
        return cls(means, centred.T @ centred / max(1, len(x) - classes))

    def discriminant(self, shrinkage: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (classes, D) and bias (classes,), not calibrated; zeros where no image was.

        Args:
            shrinkage: of the covariance towards a multiple of the identity, 0 to 1.
        """
        identity = torch.eye(len(self.covariance), dtype=self.covariance.dtype)
        scale = self.covariance.diagonal().mean()
        shrunk = (1 - shrinkage) * self.covariance + (shrinkage * scale + 1e-8) * identity
        weight = torch.linalg.solve(shrunk, self.means.T).T
        return weight, -0.5 * (weight * self.means).sum(1)

    def head(self, shrinkage: float, temperature: float) -> nn.Linear:
        """The discriminant as a classifier whose logits are scaled by a temperature."""
        weight, bias = self.discriminant(shrinkage)
        return linear_head(temperature * weight, temperature * bias)


def linear_head(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """A classifier with these weights (classes, D) and biases (classes,)."""
    head = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head


def tempered(head: nn.Linear, norm: float = TRAINING_NORM) -> nn.Linear:
    """The same predictions, less surely.

    Logits are scaled in place so that the mean norm of a row is at most `norm`.
    """
    with torch.no_grad():
        scale = (norm / head.weight.norm(dim=1).mean()).clamp(max=1.0)
        head.weight.mul_(scale)
        head.bias.mul_(scale)
    return head


def fit_head(network: Network, split: Split, classes: int, runtime: Runtime, seed: int = 0) -> None:
    """Give a network that will be trained a new, tempered classifier from a split's class means."""
    features, labels = class_features(network, split, runtime, seed=seed)
    set_classifier(
        network.backbone, runtime.place(tempered(class_mean_head(features, labels, classes)))
    )


def with_task_head(
    network: Network,
    split: Split,
    classes: int,
    runtime: Runtime,
    seed: int,
    view: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Network:
    """A frozen copy of a network with a calibrated classifier for a task.

    It is for use with batch statistics.
    """
    own = runtime.place(copy.deepcopy(network)).requires_grad_(False)
    with batch_statistics(own.backbone):
        features, labels = class_features(own, split, runtime, SEARCH_IMAGES, seed, view)
    set_classifier(
        own.backbone,
        runtime.place(class_mean_head(features, labels, classes)).requires_grad_(False),
    )
    return own
