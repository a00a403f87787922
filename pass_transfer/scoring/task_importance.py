"""What each channel is worth to a task, measured the same way for source tasks and new ones.

The classifier is made from the task's class means, under the statistics of its own
batches, also where the source has a trained one: an importance measured with another
kind of classifier differs more than one of another task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from pass_transfer.networks import ChannelGroups
from pass_transfer.networks.network import Network
from pass_transfer.scoring.forward_selection import forward_selection
from pass_transfer.scoring.taylor import taylor
from pass_transfer.shrinking.classifier import with_task_head
from pass_transfer.tasks import Split
from pass_transfer.training import Runtime, batches, to_images
from pass_transfer.training.batches import generator

BATCH = 128


View = Callable[[torch.Tensor], torch.Tensor]


def task_importance(
    network: Network,
    groups: ChannelGroups,
    split: Split,
    classes: int,
    runtime: Runtime,
    images: int,
    seed: int,
    view: View | None = None,
) -> dict[str, torch.Tensor]:
    """Taylor importance (width,) of every channel group for a task.

    Args:
        network: the dense network, left as it is.
        split: training images of the task, labels in 0..classes-1.
        images: how many of them to measure on.
        view: how images (B, 3, S, S) in [0, 1] are seen, if not as they are.
    """
    return taylor(*_measured_on(network, groups, split, classes, runtime, images, seed, view))


def task_selection(
    network: Network,
    groups: ChannelGroups,
    split: Split,
    classes: int,
    runtime: Runtime,
    images: int,
    seed: int,
) -> dict[str, torch.Tensor]:
    """The order of forward selection, as scores (width,) of every channel group, for a task; arguments as of task_importance."""
    return forward_selection(
        *_measured_on(network, groups, split, classes, runtime, images, seed), generator(seed, 13)
    )


def _measured_on(
    network: Network,
    groups: ChannelGroups,
    split: Split,
    classes: int,
    runtime: Runtime,
    images: int,
    seed: int,
    view: View | None = None,
):
    """A backbone with the task's classifier, its groups, batches of images and labels, and how it runs on them."""
    own = with_task_head(network, split, classes, runtime, seed, view)
    chosen = torch.randperm(len(split), generator=generator(seed, 3))[:images]

    def samples() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for pixels, labels in batches(split, BATCH, order=chosen.split(BATCH)):
            seen = to_images(pixels, runtime.device)
            yield view(seen) if view else seen, labels.to(runtime.device)

    def forward(seen: torch.Tensor) -> torch.Tensor:
        with runtime.autocast():
            return own(seen)

    return own.backbone, groups, samples(), forward
