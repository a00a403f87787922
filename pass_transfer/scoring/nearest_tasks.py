"""How near tasks are to each other: by the means of their classes' features."""

from __future__ import annotations

import copy

import torch

from pass_transfer.masking import batch_statistics
from pass_transfer.networks.network import Network
from pass_transfer.scoring.judge import View
from pass_transfer.shrinking.classifier import SEARCH_IMAGES, class_features
from pass_transfer.tasks import Split
from pass_transfer.training import Runtime


def class_means(
    network: Network, split: Split, runtime: Runtime, seed: int, view: View | None = None
) -> torch.Tensor:
    """The mean feature (classes, D) of each class that a split has images of.

    Args:
        network: the dense network, left as it is; it is seen under batch statistics.
        seed: of the images, where there are more than SEARCH_IMAGES.
        view: how images are seen, if not as they are.
    """
    own = runtime.place(copy.deepcopy(network)).requires_grad_(False)
    with batch_statistics(own.backbone):
        features, labels = class_features(own, split, runtime, SEARCH_IMAGES, seed, view)
    return torch.stack([features[labels == label].mean(0) for label in labels.unique()])


def distance(task: torch.Tensor, source: torch.Tensor) -> float:
    """How far the classes of a task (C, D) are from the nearest ones of a source task (S, D).

    The mean over the task's classes of the Euclidean distance.
    """
    return torch.cdist(task.double(), source.double()).min(1).values.mean().item()
