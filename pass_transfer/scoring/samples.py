"""Images of a task that channels are measured on, and the two measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from pass_transfer.networks import ChannelGroups
from pass_transfer.networks.network import Network
from pass_transfer.random_streams import stream
from pass_transfer.scoring.forward_selection import forward_selection
from pass_transfer.scoring.judge import Loss, View, summed_loss
from pass_transfer.scoring.taylor import taylor
from pass_transfer.tasks import Split
from pass_transfer.training import Runtime, batches, to_images

BATCH = 128
PIXELS = 32 * 224**2  # of a batch: gradients of more take more memory than a laptop has


@dataclass(frozen=True)
class Samples:
    """Batches of images (B, 3, S, S) in [0, 1] and labels (B,), on the runtime's device.

    Fields:
        split: training images of the task.
        images: how many of them.
        seed: which of them.
        view: how images are seen, if not as they are.
        size: side of an image in pixels, by which batches are as large as memory allows.
        shown: whether progress over them is shown.
        shared_out: whether several processes share them out; else each sees all of them.
    """

    split: Split
    runtime: Runtime
    images: int
    seed: int
    view: View | None = None
    size: int = 64
    shown: bool = True
    shared_out: bool = True

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This process's share of the batches, or all of them."""
        order = self._order()
        return self._read(self.runtime.processes.mine(order) if self.shared_out else order)

    def with_glimpses(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, bool]]:
        """Every batch, and whether it is this process's own (Processes.shares)."""
        shares = self.runtime.processes.shares(self._order())
        read = self._read([share.positions for share in shares])
        for share, (images, labels) in zip(shares, read):
            yield images, labels, share.mine

    def _order(self) -> Sequence[torch.Tensor]:
        shuffled = torch.randperm(len(self.split), generator=stream(self.seed, "importance"))
        return shuffled[: self.images].split(min(BATCH, PIXELS // self.size**2))

    def _read(self, order: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        device = self.runtime.device
        looked_at = batches(self.split, BATCH, order=order)
        for pixels, labels in looked_at.shown("measuring channels") if self.shown else looked_at:
            seen = to_images(pixels, device)
            yield self.view(seen) if self.view else seen, labels.to(device)


def task_importance(
    task_network: Network, groups: ChannelGroups, samples: Samples, loss: Loss = summed_loss
) -> dict[str, torch.Tensor]:
    """Taylor importance (width,) of every channel group for a task.

    Args:
        task_network: the frozen dense network with a classifier made from the task's class
            means, under the statistics of its own batches (with_task_head). An importance
            that is measured with another kind of classifier differs more than that of
            another task does.
        loss: logits and labels to the loss, summed over the batch (Judge.loss).
    """
    forward, others = forward_of(task_network, samples.runtime), samples.runtime.processes
    return taylor(task_network.backbone, groups, samples, forward, loss, others)


def task_selection(
    task_network: Network, groups: ChannelGroups, samples: Samples, loss: Loss = summed_loss
) -> dict[str, torch.Tensor]:
    """The order of forward selection, as scores (width,); arguments as of task_importance."""
    forward = forward_of(task_network, samples.runtime)
    places = stream(samples.seed, "forward selection places")
    return forward_selection(
        task_network.backbone,
        groups,
        samples.with_glimpses(),
        forward,
        places,
        loss,
        samples.runtime.processes,
    )


def forward_of(network: Network, runtime: Runtime) -> Callable[[torch.Tensor], torch.Tensor]:
    """A network on images in [0, 1], in the runtime's precision."""

    def forward(seen: torch.Tensor) -> torch.Tensor:
        with runtime.autocast():
            return network(seen)

    return forward
