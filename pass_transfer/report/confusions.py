"""Where a network errs most, from its confusion matrix.

A confusion matrix counts test images, with a row for each true class and a column for each
predicted one.
"""

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
    """How well one class is recognised.

    Fields:
        label: the class.
        images: its test images.
        top1: per cent of them that were recognised.
        worst: what the others were taken for most often; None where there are no others.
    """

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
    """The classes of the lowest accuracy, lowest first.

    Classes without test images are left out.
    """
    found = []
    for label, images in enumerate(confusion.sum(1).tolist()):
        if images:
            top1 = 100 * int(confusion[label, label]) / images
            found.append(ClassAccuracy(label, images, top1, _worst(confusion, label)))
    return sorted(found, key=lambda c: c.top1)[:most]


def classes_to_show(confusion: torch.Tensor, most: int) -> list[int]:
    """All classes where they are few enough; else those of the most confused pairs.

    The two classes of a pair stand beside each other.
    """
    if len(confusion) <= most:
        return list(range(len(confusion)))
    both_ways = confusion + confusion.T
    pairs = sorted(
        confused_pairs(confusion, most * most),
        key=lambda pair: -int(both_ways[pair.label, pair.prediction]),
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
    if not row[other]:
        return None
    return Confused(label, other, int(row[other]), int(confusion[label].sum()))
