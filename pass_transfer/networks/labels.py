"""Labels: numbers that say of every element of a tensor which channel it belongs to.

A label tensor has the shape of the tensor that it is of. An element that depends on no channel,
such as one of the image, has the label NONE. Labels of channels count up from 0; those of a
network's own tensors, such as a table of biases, count down from -1.
Labels that were tied stand for channels that must be kept or removed together.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

NONE = -(1 << 62)


class Ties:
    """Labels that have been given out, and which of them belong together."""

    def __init__(self) -> None:
        self.count, self.own_count = 0, 0
        self._pairs: list[Tensor] = []
        self._met: list[Tensor] = []  # (own label, label of a channel)

    def new(self, count: int) -> Tensor:
        """Labels (count,) of new channels."""
        first, self.count = self.count, self.count + count
        return torch.arange(first, self.count)

    def new_own(self, count: int) -> Tensor:
        """Labels (count,) of the elements of a network's own tensor."""
        first, self.own_count = self.own_count, self.own_count + count
        return -1 - torch.arange(first, self.own_count)

    def tie(self, one: Tensor, other: Tensor) -> None:
        """Tie two label tensors of one shape, element by element.

        An element of an own tensor is only noted: it may serve several channels.
        """
        one, other = together((one, other))
        one, other = one.reshape(-1), other.reshape(-1)
        apart = (one != other) & (one != NONE) & (other != NONE)
        if not bool(apart.any()):
            return
        pairs = _distinct(one[apart], other[apart])
        mixed = (pairs < 0).sum(0) == 1
        if bool(mixed.any()):
            self._met.append(pairs[:, mixed].sort(dim=0).values)
        if not bool(mixed.all()):
            self._pairs.append(pairs[:, ~mixed])

    def tie_along(self, labels: Tensor, axes: Iterable[int]) -> None:
        """Tie the labels of each line along some axes."""
        for axis in axes:
            if labels.shape[axis] > 1 and labels.stride(axis) != 0:
                self.tie(labels, labels.amax(axis, keepdim=True).expand(labels.shape))

    def tie_all(self, labels: Tensor) -> None:
        """Tie all labels of a tensor."""
        known = torch.unique(together((labels,))[0])
        known = known[known != NONE]
        self.tie(known[:-1], known[1:])

    def classes(self) -> Classes:
        """What belongs together.

        An element of an own tensor joins the channels that it serves, if these are one class.
        """
        root = torch.arange(self.count + self.own_count)
        if self._pairs:
            pairs = torch.cat(self._pairs, dim=1)
            root = _least_tied(root, *torch.where(pairs < 0, pairs + len(root), pairs))
        if self._met:
            met = torch.cat(self._met, dim=1)
            own, served = _distinct(*root[torch.where(met < 0, met + len(root), met)])
            name, times = torch.unique(own, return_counts=True)
            once = torch.isin(own, name[times == 1])
            joined_to = torch.arange(len(root))
            joined_to[own[once]] = served[once]
            root = joined_to[root]
        return Classes(root)


class Classes:
    """Of each label a number that it shares with those that it is tied to."""

    def __init__(self, root: Tensor):
        self._root = torch.cat([root, torch.tensor([NONE])])
        self.count = len(root)

    def of(self, labels: Tensor) -> Tensor:
        """The classes (0 to count) of labels; NONE of NONE."""
        place = torch.where(labels < 0, labels + self.count, labels)
        return self._root[torch.where(labels == NONE, self.count, place)]


def _distinct(one: Tensor, other: Tensor) -> Tensor:
    """Pairs of labels (2, N), each once."""
    half = 1 << 30  # more labels than a network has
    keys = torch.unique((one + half) * (2 * half) + other + half)
    return torch.stack([keys // (2 * half) - half, keys % (2 * half) - half])


def _least_tied(root: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """The least number that each is tied to, in however many steps."""
    while True:
        before = root
        root = root.clone()
        least = torch.minimum(before[one], before[other])
        root.scatter_reduce_(0, before[one], least, "amin")
        root.scatter_reduce_(0, before[other], least, "amin")
        root = root[root]
        if torch.equal(root, before):
            return root


def together(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Tensors of one shape with those axes at length 1 along which none of them changes."""
    found = list(tensors)
    for axis, length in enumerate(found[0].shape):
        if length > 1 and all(tensor.stride(axis) == 0 for tensor in found):
            found = [tensor.narrow(axis, 0, 1) for tensor in found]
    return found


def varies(labels: Tensor, axis: int) -> bool:
    """Whether there are several labels on some line along an axis."""
    if labels.stride(axis) == 0:
        return False
    most = labels.amax(axis, keepdim=True)
    return bool((torch.where(labels == NONE, most, labels) != most).any())


def joined(parts: Iterable[Tensor], shape: torch.Size) -> Tensor:
    """The labels (shape) of what is computed from several tensors.

    Of each element the first channel's, else the first own one.
    """
    found: Tensor | None = None
    for part in parts:
        wide = part.expand(shape)
        if found is None:
            found = wide
            continue
        small = together((found, wide))
        one, other = small
        later = (one == NONE) | ((one < 0) & (other >= 0))
        found = torch.where(later, other, one).expand(shape)
    return torch.full((1,), NONE).expand(shape) if found is None else found


def collapsed(labels: Tensor, axes: Iterable[int], keep: bool) -> Tensor:
    """The labels of what is computed along some axes together: one for each line."""
    for axis in sorted((axis % labels.ndim for axis in axes), reverse=True):
        if labels.stride(axis) == 0:
            labels = labels.narrow(axis, 0, 1)
        else:
            labels = labels.amax(axis, keepdim=True)
        if not keep:
            labels = labels.squeeze(axis)
    return labels


def none(shape: torch.Size) -> Tensor:
    """Labels of a tensor without channels."""
    return torch.full((1,), NONE).expand(shape)
