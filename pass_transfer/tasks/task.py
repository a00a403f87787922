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

from pass_transfer.errors import TaskError

HELD_OUT_SHARE = 0.1
HELD_OUT_MOST = (
    5000  # images; 5,000 resolve half a point of accuracy, more would only cost training data
)
UNMIRRORED = ("digits",)
SPLIT_SEED = 0  # the held-out images never depend on a run's seed, so that runs stay comparable


class Images(Protocol):
    """Square RGB images, all of one size, read by index."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """uint8 images (B, 3, S, S) for these indices."""


@dataclass(frozen=True)
class Split:
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
        """A batch: uint8 images (B, 3, S, S) and labels (B,)."""
        positions = np.asarray(positions)
        return self.images.read(self.indices[positions]), torch.from_numpy(self.labels[positions])

    def subset(self, positions: np.ndarray) -> Split:
        """The same split with only these positions, in this order."""
        return Split(self.images, self.indices[positions], self.labels[positions])


@dataclass(frozen=True)
class Task:
    """A classification task at one image size.

    train is what networks are fitted to, held_out (from train) selects, test is
    used once. `skipped` counts images that could not be decoded.
    """

    name: str
    class_names: tuple[str, ...]
    size: int
    train: Split
    held_out: Split
    test: Split
    skipped: int = 0

    @property
    def mirrored(self) -> bool:
        """Whether a mirrored image is as good as the image (not for digits), so that training may flip it."""
        return self.name not in UNMIRRORED

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def with_train(self, images: int) -> Task:
        """The same task with about so many training images, in equal shares of the classes and at least one of each; always the same ones."""
        share, generator = min(1.0, images / len(self.train)), np.random.default_rng(SPLIT_SEED)
        members = [
            generator.permutation(np.flatnonzero(self.train.labels == c))
            for c in range(self.classes)
        ]
        chosen = np.sort(
            np.concatenate([own[: max(1, round(share * len(own)))] for own in members])
        )
        return dataclasses.replace(self, train=self.train.subset(chosen))


def hold_out(labels: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Split positions into (train, held out): a tenth of each class, 5,000 images at most.

    The choice depends on the labels alone. Every class keeps at least one image on
    both sides; raises TaskError for a class with fewer than two.
    """
    counts = np.bincount(labels, minlength=len(names))
    if counts.min() < 2:
        raise TaskError(
            f"the class {names[int(counts.argmin())]!r} has {int(counts.min())} training image(s); every class "
            f"needs at least 2, one to train on and one to select by"
        )
    share = min(HELD_OUT_SHARE, HELD_OUT_MOST / len(labels))
    generator = np.random.default_rng(SPLIT_SEED)
    held = [
        generator.permutation(np.flatnonzero(labels == c))[: max(1, round(share * counts[c]))]
        for c in range(len(names))
    ]
    held_out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out
