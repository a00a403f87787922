"""Where a network errs most, from its confusion matrix: counts of test images, a row for each true class."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Confused:
    """`count` of a class's `images` were taken for another class."""

    label: int
    prediction: int
    count: int
    images: int


@dataclass(frozen=True)
class ClassAccuracy:
    """Per cent of a class's `images` that were recognised, and what the others were taken for most often (None: there are no others)."""

    label: int
    images: int
    top1: float
    worst: Confused | None


def confused_pairs(confusion: torch.Tensor, most: int) -> list[Confused]:
    """The pairs with the most images, the earlier classes first among equals."""
    images = confusion.sum(1)
    wrong = confusion.clone().fill_diagonal_(0)
    order = torch.sort(wrong.flatten(), descending=True, stable=True).indices[:most].tolist()
    places = [divmod(place, len(confusion)) for place in order]
    return [Confused(i, j, int(wrong[i, j]), int(images[i])) for i, j in places if wrong[i, j]]


def lowest_classes(confusion: torch.Tensor, most: int) -> list[ClassAccuracy]:
    """The classes of the lowest accuracy, lowest first; classes without test images are left out."""
    images = confusion.sum(1).tolist()
    found = [
        ClassAccuracy(label, n, 100 * int(confusion[label, label]) / n, _worst(confusion, label))
        for label, n in enumerate(images)
        if n
    ]
    return sorted(found, key=lambda c: c.top1)[:most]


def classes_to_show(confusion: torch.Tensor, most: int) -> list[int]:
    """All classes where they are few enough; else those of the most confused pairs, partners beside each other."""
    if len(confusion) <= most:
        return list(range(len(confusion)))
    both = confusion + confusion.T
    pairs = sorted(
        confused_pairs(confusion, most * most),
        key=lambda pair: -int(both[pair.label, pair.prediction]),
    )
    shown: dict[int, None] = {}
    for pair in pairs:
        if len({*shown, pair.label, pair.prediction}) <= most:
            shown |= {pair.label: None, pair.prediction: None}
    return list(shown)


def _worst(confusion: torch.Tensor, label: int) -> Confused | None:
    row = confusion[label].clone()
    row[label] = 0
    other = int(row.argmax())
    return (
        Confused(label, other, int(row[other]), int(confusion[label].sum())) if row[other] else None
    )
