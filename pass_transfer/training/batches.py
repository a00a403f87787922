"""Batches in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from pass_transfer.errors import TaskError
from pass_transfer.progress import progress_bar
from pass_transfer.random_streams import stream
from pass_transfer.tasks import Split
from pass_transfer.tasks.readers import StreamedImages


class _Order:
    """Batch sampler: index lists of one epoch, from a start step on; one process's share."""

    def __init__(self, chunks: Sequence[torch.Tensor], start: int, rank: int, world: int):
        self.lists = [chunk[rank::world].tolist() for chunk in chunks][start:]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.lists)

    def __len__(self) -> int:
        return len(self.lists)


class Batches:
    """What a loader reads, without batches of which nothing can be read any more."""

    def __init__(self, loader: DataLoader):
        self.loader = loader

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Raises TaskError at the end where nothing at all could be read."""
        read = 0
        for images, labels in self.loader:
            if len(labels):
                read += len(labels)
                yield images, labels
        if len(self) and not read:
            raise TaskError("the images can no longer be read; is their folder still there?")

    def __len__(self) -> int:
        return len(self.loader)

    def shown(self, title: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The same, with progress on stderr."""
        lists: Any = self.loader.batch_sampler
        with progress_bar(title, sum(map(len, lists)), "images") as bar:
            for images, labels in self:
                yield images, labels
                bar.advance(len(labels))


def batches(
    split: Split,
    size: int,
    *,
    seed: int | None = None,
    epoch: int = 0,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    order: Sequence[torch.Tensor] | None = None,
) -> Batches:
    """Batches of (uint8 images (B, 3, S, S), labels (B,)).

    Args:
        size: images in a batch, over all processes.
        seed: shuffles (and drops a short last batch); None keeps the order and every image.
        start: steps to leave out, when resuming within an epoch.
        rank, world: this process's number and how many there are. Each takes its share of
            every batch.
        order: the positions of every batch, where the caller chooses them.
    """
    if order is None:
        order = _epoch_order(len(split), size, seed, epoch)
    workers = 2 if isinstance(split.images, StreamedImages) else 0
    loader = DataLoader(
        split,
        batch_sampler=_Order(order, start, rank, world),
        collate_fn=_as_read,
        num_workers=workers,
        worker_init_fn=_leave_interrupts,
    )
    return Batches(loader)


def _epoch_order(images: int, size: int, seed: int | None, epoch: int) -> Sequence[torch.Tensor]:
    """The positions of every batch of an epoch."""
    if seed is None:
        return torch.arange(images).split(size)
    return shuffled(images, size, stream(seed, "order", epoch))


def shuffled(images: int, size: int, draw: torch.Generator) -> Sequence[torch.Tensor]:
    """The positions of batches in a random order; a short last one is left out, if not alone."""
    order = torch.randperm(images, generator=draw).split(size)
    last_is_short = len(order[-1]) < size
    return order[:-1] if last_is_short and len(order) > 1 else order


def _as_read(batch: Any) -> Any:
    """A batch as the split gives it. It has a name, so that spawned processes find it."""
    return batch


def _leave_interrupts(_: int) -> None:
    """Ctrl-C reaches a worker too; it goes on until the main process has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def to_images(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 (B, 3, S, S) to float32 in [0, 1] on the device, channels_last."""
    return pixels.to(device).to(torch.float32, memory_format=torch.channels_last).div_(255.0)
