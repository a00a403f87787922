"""Batches in an order that depends on (seed, epoch) alone, and their augmentation."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from pass_transfer.errors import TaskError
from pass_transfer.random_streams import stream
from pass_transfer.tasks import Split
from pass_transfer.tasks.images import StreamedImages

CROP_SHARE = 1 / 8  # padding for random crops, as a share of the side: 4 pixels at 32, 8 at 64


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


def augment(pixels: torch.Tensor, draw: torch.Generator, flip: bool = True) -> torch.Tensor:
    """A random crop and a horizontal flip of each image.

    Before the crop the image is padded by reflection, by an eighth of its side.

    Args:
        pixels: uint8 (B, 3, S, S), channels_last, on any device.
        draw: the source of randomness, on the CPU, so that a seed has the same crops everywhere.
        flip: leave flips out where left and right matter (digits).
    """
    count, _, side, _ = pixels.shape
    pad = max(1, round(side * CROP_SHARE))
    rows = torch.arange(side) + torch.randint(0, 2 * pad + 1, (count, 1), generator=draw) - pad
    columns = torch.arange(side) + torch.randint(0, 2 * pad + 1, (count, 1), generator=draw) - pad
    if flip:
        mirrored = torch.rand(count, 1, generator=draw) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = _reflect(rows, side), _reflect(columns, side)
    device = pixels.device
    sample = torch.arange(count)[:, None, None].to(device)
    rows, columns = rows[:, :, None].to(device), columns[:, None, :].to(device)
    channels_last = pixels.permute(0, 2, 3, 1)
    return channels_last[sample, rows, columns].permute(0, 3, 1, 2)


def augmented(
    pixels: torch.Tensor, draw: torch.Generator, flip: bool, device: torch.device
) -> torch.Tensor:
    """What a training step sees of uint8 images (B, 3, S, S).

    They are augmented on the device and come as to_images gives them.
    """
    return to_images(augment(pixels.to(device), draw, flip), device)


def _reflect(index: torch.Tensor, side: int) -> torch.Tensor:
    index = index.abs()
    return torch.where(index >= side, 2 * (side - 1) - index, index)
