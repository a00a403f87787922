"""A task: class names and three splits of square uint8 images.

The test split is the published one and is looked at once. A part of the training
images is held out, the same part every time, to choose epochs and settings by.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from pass_transfer.preprocessing import Preprocessing
from pass_transfer.tasks.overview import Overview
from pass_transfer.tasks.record import DataRecord

SPLIT_SEED = 0  # the held-out images never depend on a run's seed, so that runs stay comparable


class Images(Protocol):
    """Square RGB images, all of one size, read by index."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """uint8 images (B, 3, S, S) for indices (B,)."""

    def read_whole(self, indices: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """uint8 images for those of indices (B,) that can be read, and their positions."""

    def uncropped(self) -> Images:
        """The same images with all that training crops them from."""


@dataclass(frozen=True)
class Split(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Some images of a task. As a map-style dataset it hands whole batches to a DataLoader.

    `indices` (N,) points into `images`; `labels` (N,) are class numbers.
    """

    images: Images
    indices: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, positions: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch: uint8 images (B, 3, S, S) and labels (B,).

        What can no longer be read is left out.
        """
        chosen = np.asarray(positions)
        images, whole = self.images.read_whole(self.indices[chosen])
        return images, torch.from_numpy(self.labels[chosen[whole]])

    def whole(self) -> np.ndarray:
        """The positions of the images that could be read whenever they were asked for."""
        lost = getattr(self.images, "lost", None)
        if lost is None:
            return np.arange(len(self))
        return np.flatnonzero(~lost.numpy()[self.indices])

    def subset(self, positions: np.ndarray) -> Split:
        """The same split with only these positions, in this order."""
        return Split(self.images, self.indices[positions], self.labels[positions])

    def uncropped(self) -> Split:
        """The same split with all that is kept of its images (Preprocessing.kept)."""
        return dataclasses.replace(self, images=self.images.uncropped())


@dataclass(frozen=True)
class Task:
    """A classification task with its images as a network sees them.

    Fields:
        preprocessing: how that is.
        train: what networks are fitted to.
        held_out: training images that epochs and settings are chosen by.
        test: what the result is measured on, once.
        overview: what was understood of the data, and what was left out.
        record: which images they are.
        mirrored: whether a mirrored image is as good as the image (not for digits), so that
            training may flip it.
    """

    name: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    train: Split
    held_out: Split
    test: Split
    overview: Overview
    record: DataRecord
    mirrored: bool = True

    @property
    def size(self) -> int:
        """Side of an image in pixels."""
        return self.preprocessing.size

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def skipped(self) -> int:
        """Images that could not be read, when the task was loaded or since."""
        splits = (self.train, self.held_out, self.test)
        return self.overview.skipped + sum(len(split) - len(split.whole()) for split in splits)

    def with_train(self, images: int) -> Task:
        """The same task with about so many training images, always the same ones.

        Every class gives an equal share of its images, and at least one.
        """
        share = min(1.0, images / len(self.train))
        _, chosen = cut_share(self.train.labels, self.classes, share)
        return dataclasses.replace(self, train=self.train.subset(chosen))


def cut_share(labels: np.ndarray, classes: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions as (rest, part), both in order: the part has a share of each class, at least one.

    The choice depends on the labels alone.
    """
    generator = np.random.default_rng(SPLIT_SEED)
    part = []
    for label in range(classes):
        members = generator.permutation(np.flatnonzero(labels == label))
        part.append(members[: max(1, round(share * len(members)))])
    chosen = np.sort(np.concatenate(part))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen
