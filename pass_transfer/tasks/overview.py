"""What was understood of a task's data: classes, counts, what was left out and what was done."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pass_transfer.tasks.decoding import DEEP, LONG, TRANSPARENT, TURNED
from pass_transfer.tasks.left_out import LeftOut, unread_images

TREATED = {
    TURNED: "turned upright by their orientation tag",
    TRANSPARENT: "with transparency, shown on white (on black, where all of it is light)",
    DEEP: "of more than 8 bits, scaled to 8",
    LONG: "more than twice as long as wide, of which the centre alone is seen",
}


@dataclass(frozen=True)
class SplitCounts:
    """Images of a split, and the classes with the fewest and the most of them."""

    images: int
    smallest: tuple[str, int]
    largest: tuple[str, int]

    @classmethod
    def of(cls, labels: np.ndarray, class_names: Sequence[str]) -> SplitCounts:
        """From class numbers (N,)."""
        counts = np.bincount(labels, minlength=len(class_names))
        least, most = int(counts.argmin()), int(counts.argmax())
        ends = (class_names[least], int(counts[least])), (class_names[most], int(counts[most]))
        return cls(len(labels), *ends)

    def __str__(self) -> str:
        (least, few), (most, many) = self.smallest, self.largest
        if few == many:
            return f"{self.images} images, {few} of each class"
        return f"{self.images} images, from {few} of {least} to {many} of {most}"


@dataclass(frozen=True)
class Overview:
    """What was understood of a task's data.

    Fields:
        task: its name.
        class_names: in the order of their numbers.
        splits: counts of train, held_out and test.
        left_out: files that are not used, by reason.
        treated: how many images were turned, made opaque, or scaled to 8 bits.
        copies: how many images of each pair of splits have the same content: a network is then
            tested on what it was trained on.
    """

    task: str
    class_names: tuple[str, ...]
    splits: Mapping[str, SplitCounts]
    left_out: tuple[LeftOut, ...] = ()
    treated: Mapping[str, int] = field(default_factory=dict)
    copies: Mapping[str, int] = field(default_factory=dict)

    @property
    def skipped(self) -> int:
        """Images that could not be read."""
        return unread_images(self.left_out)

    def lines(self) -> list[str]:
        """All of it in words."""
        said = [f"{self.task}: {len(self.class_names)} classes"]
        said += [f"  {SPLITS.get(name, name)}: {counts}" for name, counts in self.splits.items()]
        for part in self.left_out:
            said.append(f"  {part.said()}")
        for what, count in self.treated.items():
            said.append(f"  images {TREATED.get(what, what)}: {count}")
        for pair, count in self.copies.items():
            said.append(f"  warning: images that {pair} both have: {count}")
        return said

    def saved(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        splits = {}
        for name, counts in self.splits.items():
            ends = {"smallest": list(counts.smallest), "largest": list(counts.largest)}
            splits[name] = {"images": counts.images} | ends
        return {
            "classes": len(self.class_names),
            "splits": splits,
            "left_out": [part.saved() for part in self.left_out],
            "treated": dict(self.treated),
            "copies": dict(self.copies),
        }


SPLITS = {"train": "train", "held_out": "held out", "test": "test"}


def copies_across(contents: Mapping[str, np.ndarray]) -> dict[str, int]:
    """How many images of the second of two splits are in the first too, by content (N,) int64."""
    found = {}
    for (first, one), (second, other) in itertools.combinations(contents.items(), 2):
        count = int(np.isin(other, one).sum())
        if count:
            found[f"{SPLITS.get(first, first)} and {SPLITS.get(second, second)}"] = count
    return found
