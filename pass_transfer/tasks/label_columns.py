"""Class names and numbers from the label column of a table, whatever kind of labels it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pass_transfer.errors import TaskError

if TYPE_CHECKING:
    from datasets import Dataset


def read_labels(
    parts: Mapping[str, Dataset], column: str, titles: Mapping[str, str]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The class names, and the class numbers (N,) of each part.

    A column with class names holds their numbers, from 0. Otherwise the classes are the labels
    that "train" has, sorted: whole numbers from anywhere, or texts.

    Raises:
        TaskError: an image without a label, or with one that is no class.
    """
    values = {split: _values(part, column, titles[split]) for split, part in parts.items()}
    names = getattr(parts["train"].features[column], "names", None)
    if names is None:
        classes = sorted(set(values["train"]))
        numbers = {label: number for number, label in enumerate(classes)}
        shown = [str(label) for label in classes]
    else:
        numbers = {number: number for number in range(len(names))}
        shown = list(names)
    labels = {
        split: _numbers(part, numbers, column, titles[split]) for split, part in values.items()
    }
    return shown, labels


def _values(table: Dataset, column: str, title: str) -> list[Any]:
    """The labels, all whole numbers or all texts. Raises TaskError."""
    values = table.with_format("arrow")[:][column].to_pylist()
    missing = sum(value is None for value in values)
    numbers = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
    missing += sum(value < 0 for value in numbers)
    if missing:
        raise TaskError(
            f"{title}: {missing} images have no label (the column {column} is empty or negative)"
        )
    if len(numbers) == len(values) or all(isinstance(value, str) for value in values):
        return values
    raise TaskError(
        f"{title}: the column {column} does not hold a class number, or a class name, for every "
        "image"
    )


def _numbers(values: list[Any], numbers: Mapping[Any, int], column: str, title: str) -> np.ndarray:
    unknown = sorted({value for value in values if value not in numbers})
    if unknown:
        raise TaskError(
            f"{title}: the column {column} holds {unknown[0]!r}, which is none of the "
            f"{len(numbers)} classes ({_some(list(numbers))})"
        )
    return np.asarray([numbers[value] for value in values], np.int64)


def _some(labels: list[Any]) -> str:
    shown = ", ".join(map(str, labels[:3]))
    return shown if len(labels) <= 3 else f"{shown}, ... {labels[-1]}"
