"""A task of a study: its images, how many of each class are used, and for how many epochs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ALL = "all"  # images of a class, in a study's file
Axis = int | None | Sequence[int | None]


@dataclass(frozen=True)
class StudyTask:
    """What is compared on.

    Fields:
        name: see load_task.
        data: the folder of its data, or None.
        images_per_class: training images of each class, drawn by a cell's seed
            (tasks/few_images.py); None for all.
        epochs: of fine-tuning; None for the study's. 0 measures the network as it is before.
        family: what tasks share that differ in images or epochs; empty for one that stands alone.
        search: what its searches are called, which tasks share that differ in epochs alone; empty
            for the task's own name.
    """

    name: str
    data: str | None = None
    images_per_class: int | None = None
    epochs: int | None = None
    family: str = ""
    search: str = ""

    def identity(self, called: str, epochs: int) -> dict[str, Any]:
        """What decides a cell's result: for a task of its own name and all images, its data.

        Args:
            called: by the study.
            epochs: of the study.
        """
        found: dict[str, Any] = {"data": self.data}
        found["epochs"] = epochs if self.epochs is None else self.epochs
        if self.name != called:
            found["of_task"] = self.name
        if self.images_per_class is not None:
            found["images_per_class"] = self.images_per_class
        return found


def variants(task: StudyTask, images: Axis, epochs: Axis) -> dict[str, StudyTask]:
    """A task with each number of images a class and of epochs, by names that tell which.

    Args:
        task: what they share.
        images, epochs: a number or None for all variants, or a list with one for each.
    """
    found = {}
    for count, how_many in _named(images, "-{}-a-class", f"-{ALL}"):
        for passes, how_long in _named(epochs, "-{}-epochs", ""):
            search = f"{task.family}{how_many}"
            found[f"{search}{how_long}"] = dataclasses.replace(
                task, images_per_class=count, epochs=passes, search=search
            )
    return found


def _named(axis: Axis, words: str, none: str) -> list[tuple[int | None, str]]:
    """The values of an axis, each with what it adds to a name: nothing where there is one."""
    if not isinstance(axis, Sequence):
        return [(axis, "")]
    return [(value, none if value is None else words.format(value)) for value in axis]
