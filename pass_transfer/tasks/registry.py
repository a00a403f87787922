"""Tasks by name. A new source of tasks is a file beside this one and a line in SOURCES.

`load_task("cifar100")` downloads from the hub; `data_dir` points at a folder with
the same parquet files instead. `load_task("folder:PATH")` reads one's own images.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pass_transfer.arguments import check_is, check_path
from pass_transfer.errors import TaskError, UsageError
from pass_transfer.preprocessing import Preprocessing
from pass_transfer.progress import say
from pass_transfer.surroundings import as_guest
from pass_transfer.tasks.digits import DIGITS
from pass_transfer.tasks.folders import FOLDERS
from pass_transfer.tasks.overview import Overview, SplitCounts, copies_across
from pass_transfer.tasks.parquet import PARQUET
from pass_transfer.tasks.record import DataRecord
from pass_transfer.tasks.source import UNSPLIT, TaskSource
from pass_transfer.tasks.splits import (
    GivenSplits,
    check_classes,
    contents,
    decoded_splits,
    with_all_splits,
)
from pass_transfer.tasks.task import Split, Task

# The first source that matches a name serves it; names are listed in this order.
SOURCES: tuple[TaskSource, ...] = (DIGITS, PARQUET, FOLDERS)


def task_names() -> tuple[str, ...]:
    """The names load_task knows, apart from folder:PATH."""
    return tuple(itertools.chain.from_iterable(source.names for source in SOURCES))


@as_guest
def load_task(name: str, size: int | Preprocessing, data_dir: str | Path | None = None) -> Task:
    """Load a classification task with its images as a network sees them.

    Args:
        name: one of task_names(), or "folder:PATH" for PATH/CLASS/image files, with or
            without train/, val/ and test/ above the classes.
        size: side in pixels of the centre that is taken of each image; or how a network sees
            images, as `hypernet.spec.preprocessing` says it.
        data_dir: a folder with the dataset's parquet files, instead of downloading it.

    Returns:
        The task; its held-out images are the same in every run.

    Raises:
        UsageError: unknown name.
        TaskError: nothing there, not two classes, or a class without enough images.
    """
    preprocessing = check_task(name, size, data_dir)
    source = source_of(name)
    names, sources = source.load(name, data_dir)
    if not {"train", UNSPLIT} & set(sources):
        raise TaskError(
            f"{name} has {' and '.join(sources)} images and none to train on; "
            "add train/CLASS/image files"
        )
    if len(names) < 2:
        raise TaskError(
            f"{name} has {len(names)} class(es) ({', '.join(names) or 'none'}); "
            "a task needs at least two"
        )
    given = decoded_splits(name, names, sources, preprocessing)
    check_classes(name, names, given.splits.get("train") or given.splits[UNSPLIT])
    parts = with_all_splits(name, names, given.splits)
    task = _task(name, names, preprocessing, given, parts, source.mirrored)
    for line in task.overview.lines():
        say(line)
    return task


def _task(
    name: str,
    names: Sequence[str],
    preprocessing: Preprocessing,
    given: GivenSplits,
    parts: Mapping[str, Split],
    mirrored: bool,
) -> Task:
    splits = {"train": parts["train"], "held_out": parts["val"], "test": parts["test"]}
    found = {part: contents(split, given.opened_of(split)) for part, split in splits.items()}
    learned = np.concatenate([found["train"], found["held_out"]])
    overview = Overview(
        name,
        tuple(names),
        {part: SplitCounts.of(split.labels, names) for part, split in splits.items()},
        given.left_out,
        given.treated,
        copies_across(found),
    )
    record = DataRecord(given.records, learned)
    return Task(
        name,
        tuple(names),
        preprocessing,
        **splits,
        overview=overview,
        record=record,
        mirrored=mirrored,
    )


def check_task(name: object, size: object, data_dir: object) -> Preprocessing:
    """How images are seen. Raises UsageError for what can be no argument of load_task."""
    check_is("task", name, str, "a name, such as 'digits', or 'folder:PATH'")
    preprocessing = Preprocessing.of(size)
    if data_dir is not None:
        check_path("data_dir", data_dir)
    return preprocessing


def check_name(name: str) -> None:
    """Raises UsageError for what is neither a task's name nor folder:PATH."""
    source_of(name)


def source_of(name: str) -> TaskSource:
    """Where a task of this name comes from. Raises UsageError for an unknown name."""
    for source in SOURCES:
        if source.matches(name):
            return source
    near = difflib.get_close_matches(name, task_names(), 1)
    hint = f"Did you mean {near[0]}? " if near else ""
    known = ", ".join(task_names())
    others = " or ".join(source.others for source in SOURCES if source.others)
    raise UsageError(f"unknown task {name!r}. {hint}Known: {known}, or {others}.")
