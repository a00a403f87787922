"""What each channel is worth to a task, measured the same way for source tasks and new ones.

The classifier is made from the task's class means, under the statistics of its own
batches, also where the source has a trained one: an importance measured with another
kind of classifier differs more than one of another task.
"""

from __future__ import annotations

import copy
from typing import Callable

import torch

from pass_transfer.backbones import ChannelGroups
from pass_transfer.baselines import taylor
from pass_transfer.masking import batch_statistics
from pass_transfer.network import Network
from pass_transfer.recipes.heads import class_features, class_mean_head, set_classifier
from pass_transfer.tasks import Split
from pass_transfer.training import Runtime, batches, to_images
from pass_transfer.training.batches import generator

HEAD_IMAGES = 4096  # that the classifier is made from
BATCH = 128


def with_own_head(network: Network, split: Split, classes: int, runtime: Runtime, seed: int,
                  view: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Network:
    """A frozen copy of a network with a calibrated classifier for a task, for use with batch statistics."""
    own = runtime.place(copy.deepcopy(network)).requires_grad_(False)
    with batch_statistics(own.backbone):
        features, labels = class_features(own, split, runtime, HEAD_IMAGES, seed, view)
    set_classifier(own.backbone, runtime.place(class_mean_head(features, labels, classes)).requires_grad_(False))
    return own


def task_importance(network: Network, groups: ChannelGroups, split: Split, classes: int, runtime: Runtime, images: int, seed: int,
                    view: Callable[[torch.Tensor], torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Taylor importance (width,) of every channel group for a task.

    Args:
        network: the dense network, left as it is.
        split: training images of the task, labels in 0..classes-1.
        images: how many of them to measure on.
        view: how images (B, 3, S, S) in [0, 1] are seen, if not as they are.
    """
    own = with_own_head(network, split, classes, runtime, seed, view)
    chosen = torch.randperm(len(split), generator=generator(seed, 3))[:images]

    def samples():
        for pixels, labels in batches(split, BATCH, order=chosen.split(BATCH)):
            seen = to_images(pixels, runtime.device)
            yield view(seen) if view else seen, labels.to(runtime.device)

    def forward(seen: torch.Tensor) -> torch.Tensor:
        with runtime.autocast():
            return own(seen)

    return taylor(own.backbone, groups, samples(), forward)
