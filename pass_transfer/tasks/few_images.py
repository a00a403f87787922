"""A task with few images of each class, as somebody with a small folder has it."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from pass_transfer.errors import TaskError, UsageError
from pass_transfer.progress import say
from pass_transfer.random_streams import stream
from pass_transfer.settings import shown, whole
from pass_transfer.tasks.overview import SplitCounts
from pass_transfer.tasks.task import Split, Task

PER_CLASS = whole(2)  # one image of a class does not say how images of it differ
TRAINED_ON = 9  # images for each one that is held out, as where a tenth of a folder is


def check_images_per_class(images: object) -> None:
    """Refuse what is no number of images a class. Raises UsageError; None is all of them."""
    if images is not None and not PER_CLASS.fits(images):
        message = f"images_per_class is {shown(images)}; it is {PER_CLASS.words}"
        raise UsageError(message, "images_per_class")


def few_images(task: Task, images: int | None, seed: int = 0) -> Task:
    """The same task with so many training images of each class, and a ninth as many held out.

    More images of a class contain fewer of the same seed. At least one is held out; the test
    images stay.

    Args:
        images: of each class, from 2; None for the whole task.
        seed: of which ones.

    Raises:
        TaskError: a class with fewer; it is named, with what it has.
    """
    if images is None:
        return task
    counts = np.bincount(task.train.labels, minlength=task.classes)
    if counts.min() < images:
        name, fewest = task.class_names[int(counts.argmin())], int(counts.min())
        most = f"give at most {fewest}" if PER_CLASS.fits(fewest) else "add images of it"
        raise TaskError(
            f"{task.name}: the class {name!r} has {fewest} training images, and {images} of each "
            f"class are asked for (images_per_class); {most}, or leave it out for all images"
        )
    train = _of_each_class(task.train, images, seed, "train")
    held_out = _of_each_class(task.held_out, max(1, images // TRAINED_ON), seed, "held out")
    say(f"  using {images} training images of each class; {len(held_out)} images are held out")
    return _with_parts(task, train, held_out)


def _of_each_class(split: Split, images: int, seed: int, which: str) -> np.ndarray:
    """Positions, in order, of so many images of each class, or of all it has."""
    chosen = []
    for label in np.unique(split.labels).tolist():
        members = np.flatnonzero(split.labels == label)
        draw = stream(seed, f"few images, {which}", label)
        chosen.append(members[torch.randperm(len(members), generator=draw)[:images].numpy()])
    return np.sort(np.concatenate(chosen))


def _with_parts(task: Task, train: np.ndarray, held_out: np.ndarray) -> Task:
    """The task with these positions of both splits, and what is known of them."""
    parts = {"train": task.train.subset(train), "held_out": task.held_out.subset(held_out)}
    counts = {name: SplitCounts.of(part.labels, task.class_names) for name, part in parts.items()}
    overview = dataclasses.replace(task.overview, splits={**task.overview.splits, **counts})
    learned = task.record.learned[np.concatenate([train, len(task.train) + held_out])]
    record = dataclasses.replace(task.record, learned=learned)
    return dataclasses.replace(
        task, train=parts["train"], held_out=parts["held_out"], overview=overview, record=record
    )
