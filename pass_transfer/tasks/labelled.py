"""Labelled images that a finished network is evaluated on: a task's test images, or new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pass_transfer.errors import TaskError
from pass_transfer.preprocessing import Preprocessing
from pass_transfer.tasks.left_out import unread_images
from pass_transfer.tasks.record import DataRecord, difference
from pass_transfer.tasks.registry import check_task, source_of
from pass_transfer.tasks.source import UNSPLIT, Source
from pass_transfer.tasks.splits import GivenSplits, contents, cut_test, decoded_splits
from pass_transfer.tasks.task import Split

ORDER = ("test", "val", UNSPLIT, "train")  # which images are taken, the first that are there


@dataclass(frozen=True)
class LabelledImages:
    """Images with the class numbers of the network that is evaluated.

    Fields:
        name: of the task.
        split: the images.
        which: of the task's images, in words.
        learned: how many of them the network was trained on or chosen by.
        missing: its classes that none of them is of.
        skipped: images that could not be read.
    """

    name: str
    split: Split
    which: str
    learned: int
    missing: tuple[str, ...]
    skipped: int

    def warnings(self) -> list[str]:
        """What to know before their accuracy is believed."""
        said = []
        if self.learned:
            said.append(
                f"{self.learned} of the {len(self.split)} images were used to train or choose "
                "this network, so the accuracy flatters"
            )
        if self.missing:
            names = ", ".join(self.missing[:3]) + (", ..." if len(self.missing) > 3 else "")
            said.append(f"no image is of {len(self.missing)} of the classes: {names}")
        return said


def load_labelled(
    name: str,
    size: int | Preprocessing,
    class_names: Sequence[str],
    data_dir: str | Path | None = None,
    data: Mapping[str, np.ndarray] | None = None,
) -> LabelledImages:
    """The images to evaluate a network on.

    They are the task's test images; where it has none, those to choose by. Images in no split
    are all taken, unless the network was made from just these: then the part that was its test.

    Args:
        name, size, data_dir: see load_task.
        class_names: the classes that the network knows, in the order of its outputs.
        data: the images it was made from (record.read_data).

    Raises:
        UsageError: unknown name.
        TaskError: nothing there, or classes that the network does not know; they are named.
    """
    preprocessing = check_task(name, size, data_dir)
    names, sources = source_of(name).load(name, data_dir)
    key = next(key for key in ORDER if key in sources)
    _check_known(name, _used(names, sources[key]), class_names)
    given = decoded_splits(name, names, {key: sources[key]}, preprocessing)
    split, which = _chosen(key, given, names, data or {})
    hashes = contents(split, given.opened[key])
    learned = np.isin(hashes, (data or {}).get("learned", np.empty(0, np.int64)))
    numbers = {known: number for number, known in enumerate(class_names)}
    place = np.asarray([numbers.get(one, -1) for one in names], np.int64)
    split = replace(split, labels=place[split.labels])
    there = set(split.labels.tolist())
    missing = [one for one in class_names if numbers[one] not in there]
    skipped = unread_images(given.left_out)
    return LabelledImages(name, split, which, int(learned.sum()), tuple(missing), skipped)


def _used(names: Sequence[str], source: Source) -> list[str]:
    """The classes that have an image."""
    return [names[label] for label in np.unique(source.labels)]


def _check_known(name: str, found: Sequence[str], class_names: Sequence[str]) -> None:
    unknown = [one for one in found if one not in class_names]
    if not unknown:
        return
    more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
    raise TaskError(
        f"{name} has classes that the model was not made for: {', '.join(unknown[:3])}{more}. It "
        f"knows {len(class_names)}: {', '.join(class_names[:3])}"
        f"{', ...' if len(class_names) > 3 else ''}"
    )


def _chosen(
    key: str, given: GivenSplits, names: Sequence[str], data: Mapping[str, np.ndarray]
) -> tuple[Split, str]:
    """The images to take of a split, and which they are in words."""
    split = given.splits[key]
    if key in ("test", "val"):
        return split, f"{key} images"
    record = DataRecord({key: given.records[key]}, np.empty(0, np.int64))
    cut = f"{key}.names" in data and "test.names" not in data
    if cut and not difference(_only(key, data), record):
        return cut_test(split, names)[1], "test images"
    return split, "images"


def _only(key: str, data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: part for name, part in data.items() if name.startswith(f"{key}.")}
