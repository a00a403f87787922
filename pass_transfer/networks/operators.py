"""What torch's operators do to channels: one rule for each family of them.

A rule is given an operator's tensors as labels (networks/labels.py) and gives its results' labels.
Operators that only move values move labels with themselves.
Where elements of several channels become one value, these channels live or die together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pass_transfer.networks.calls import Call, plain_name, tensors_in
from pass_transfer.networks.labels import NONE, Ties, collapsed, joined, none, together

AS_IS = {
    "clone", "_to_copy", "detach", "alias", "contiguous", "copy", "lift_fresh", "dropout",
    "native_dropout", "bernoulli", "_conj",
}  # fmt: skip
BY_SHAPE = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
MOVES = {"permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "cat", "stack", "repeat"}
# These take some places of an axis, or put them in another order: the axes are an argument.
CUTS = {
    "slice", "select", "split", "split_with_sizes", "unbind", "narrow", "roll", "flip",
    "index_select",
}  # fmt: skip
INDEXING = {"index", "_unsafe_index"}
ALONG = {"_softmax", "_log_softmax", "cumsum", "_safe_softmax"}
POOLING = {
    "avg_pool2d", "max_pool2d", "max_pool2d_with_indices", "_adaptive_avg_pool2d",
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_nearest2d", "upsample_bilinear2d",
    "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    "reflection_pad2d", "replication_pad2d",
}  # fmt: skip
# Element by element, and not tagged so by torch.
POINTWISE = {"hardswish", "hardsigmoid", "hardtanh", "masked_fill", "where"}
NORMS = {"native_layer_norm", "_fused_rms_norm", "rms_norm"}
PRODUCTS = {"bmm", "baddbmm"}
NEW = {
    "new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like",
    "empty_like", "zero", "fill", "rand_like", "new_empty_strided",
}  # fmt: skip


@dataclass(frozen=True)
class Cut:
    """Places of some axes that were taken apart: no channels may lie on them.

    Fields:
        labels: of the tensor.
        axes: where it was taken apart. A tensor whose axis became several has its channels on
            one of them at most.
        most: on how many of these axes channels may lie, 0 or 1.
        beside: labels of a tensor that lay beside this one, element by element: no hindrance
            where both are the same channels.
    """

    labels: Tensor
    axes: tuple[int, ...]
    most: int
    beside: Tensor | None = None


@dataclass(frozen=True)
class Product:
    """A product of two activations: MACs for each item of its batch, and the item's label."""

    macs: int
    labels: Tensor


class Unfollowed(Exception):
    """An operator that has no rule."""


class Rules:
    """Applies the rules; what they find besides labels is kept here."""

    def __init__(self, ties: Ties):
        self.ties = ties
        self.cuts: list[Cut] = []
        self.products: list[Product] = []

    def results(self, call: Call) -> list[Tensor]:
        """Labels of an operator's results. Raises Unfollowed."""
        rule = self._rule(call.function)
        if rule is None:
            raise Unfollowed(call.name)
        found = rule(call)
        return [found] if isinstance(found, Tensor) else list(found)

    def _rule(self, function: Any) -> Callable[[Call], Any] | None:
        name, tags = plain_name(function), function.tags
        families: tuple[tuple[set[str], Callable[[Call], Any]], ...] = (
            (AS_IS, lambda call: call.given),
            (BY_SHAPE, self._reshape),
            (MOVES, self._move),
            (CUTS, self._cut),
            (INDEXING, self._index),
            ({"constant_pad_nd"}, self._pad),
            ({"copy_"}, self._elementwise),
            ({"as_strided"}, self._restride),
            (ALONG, self._along),
            (POOLING, self._pool),
            (NORMS, self._normalise),
            (PRODUCTS, self._product),
            (NEW, lambda call: [none(result.shape) for result in call.results]),
        )
        for names, rule in families:
            if name in names:
                return rule
        if name.startswith("_scaled_dot_product"):
            return self._attention
        if torch.Tag.pointwise in tags or name in POINTWISE:
            return self._elementwise
        if torch.Tag.reduction in tags or name == "linalg_vector_norm":
            return self._reduce
        return None

    def _reshape(self, call: Call) -> Tensor:
        found = call.given.reshape(call.results[0].shape)
        for axes in _split_axes(call.given.shape, found.shape):
            self.cuts.append(Cut(found, axes, 1))
        return found

    def _move(self, call: Call) -> Any:
        tensors = iter(call.labels)
        shapes = iter([t.shape for t in tensors_in(call.args)])

        def labels_of(argument: Any) -> Any:
            if isinstance(argument, Tensor):
                labels, shape = next(tensors), next(shapes)
                return none(shape) if labels is None else labels
            if isinstance(argument, (list, tuple)) and any(isinstance(a, Tensor) for a in argument):
                return [labels_of(inner) for inner in argument]
            return argument

        return call.function(*[labels_of(a) for a in call.args], **call.kwargs)

    def _restride(self, call: Call) -> Tensor:
        """A pooled map is given other strides for a side of length 1."""
        if call.results[0].shape != call.given.shape:
            raise Unfollowed(call.name)
        return call.given

    def _cut(self, call: Call) -> Any:
        found = self._move(call)
        parts = [found] if isinstance(found, Tensor) else list(found)
        reorders = call.name in ("roll", "flip")
        axes = tuple(call.argument("dims")) if reorders else (call.argument("dim", 0),)
        if reorders or parts[0].shape != call.given.shape:
            self.cuts.append(Cut(call.given, axes, 0))
        return found

    def _index(self, call: Call) -> Tensor:
        indices = call.argument("indices")
        axes = tuple(axis for axis, index in enumerate(indices) if index is not None)
        self.cuts.append(Cut(call.given, axes, 0))
        return torch.ops.aten.index(call.given, list(indices))

    def _pad(self, call: Call) -> Tensor:
        padding = call.argument("pad")
        axes = [
            call.given.ndim - 1 - place // 2 for place, width in enumerate(padding) if width != 0
        ]
        self.cuts.append(Cut(call.given, tuple(sorted(set(axes))), 0))
        return torch.nn.functional.pad(call.given, list(padding), value=NONE)

    def _along(self, call: Call) -> Tensor:
        self.ties.tie_along(call.given, (call.argument("dim"),))
        return call.given

    def _pool(self, call: Call) -> list[Tensor]:
        self.ties.tie_along(call.given, (-1, -2))
        one = collapsed(call.given, (-1, -2), keep=True)
        return [one.expand(result.shape) for result in call.results]

    def _normalise(self, call: Call) -> list[Tensor]:
        given = call.given
        axes = range(-len(call.argument("normalized_shape")), 0)
        self.ties.tie_along(given, axes)
        for part in call.labels[1:]:
            if part is not None:
                self.ties.tie(given, part.expand(given.shape))
        others = [none(result.shape) for result in call.results[1:]]
        return [given, *others]

    def _product(self, call: Call) -> Tensor:
        left, right = call.labels[-2:]
        made = call.results[0]
        if left is not None and right is not None:
            parts = [part for part in call.labels if part is not None]
            items = [_of_items(part.expand(len(made), *part.shape[1:]), 1) for part in parts]
            return self._contracted(call, items, made)
        if left is not None:
            return self._weighted(left, -1, made)
        return self._weighted(right if right is not None else call.given, -2, made)

    def _weighted(self, labels: Tensor, axis: int, made: Tensor) -> Tensor:
        """A product with constant numbers, over an axis."""
        self.cuts.append(Cut(labels, (0,), 0))
        self.ties.tie_along(labels, (axis,))
        return collapsed(labels, (axis,), keep=True).expand(made.shape)

    def _attention(self, call: Call) -> list[Tensor]:
        labels = [part for part in call.labels if part is not None]
        made = call.results[0]
        leading = made.shape[:2]
        items = [_of_items(part.expand(*leading, *part.shape[-2:]), 2) for part in labels]
        for tensor, part in zip(tensors_in([*call.args, *call.kwargs.values()]), call.labels):
            if part is None and max(tensor.shape[:-2]) > 1:
                self.cuts += [Cut(other, (0, 1), 0) for other in labels]
        found = self._contracted(call, items, made)
        others = [none(result.shape) for result in call.results[1:]]
        return [found, *others]

    def _contracted(self, call: Call, items: Sequence[Tensor], made: Tensor) -> Tensor:
        """Everything of one item of the batch, as of one head, becomes one."""
        ties, first = self.ties, []
        for part in items:
            ties.tie_along(part, (1,))
            first.append(collapsed(part, (1,), keep=False))
        of_item = self._tied(first, first[0].shape)
        self.products.append(Product(call.macs // len(of_item), of_item))
        leading = made.shape[:1] if made.ndim == 3 else made.shape[:2]
        return of_item.view(*leading, *[1] * (made.ndim - len(leading))).expand(made.shape)

    def _elementwise(self, call: Call) -> list[Tensor]:
        shape = call.results[0].shape
        parts = [part.expand(shape) for part in call.labels if part is not None]
        found = self._tied(parts, shape)
        for tensor, part in zip(tensors_in([*call.args, *call.kwargs.values()]), call.labels):
            self._beside(found, tensor.shape, part)
        return [found] * len(call.results)

    def _beside(self, labels: Tensor, shape: torch.Size, part: Tensor | None) -> None:
        """A tensor of a shape meets one with labels: where it has several places, so have they."""
        if part is not None and bool((together((part,))[0] >= 0).all()):
            return  # they are tied
        first = labels.ndim - len(shape)
        axes = tuple(first + axis for axis, length in enumerate(shape) if length > 1)
        if axes:
            other = none(shape) if part is None else part
            self.cuts.append(Cut(labels, axes, 0, other.expand(labels.shape)))

    def _tied(self, parts: Sequence[Tensor], shape: torch.Size) -> Tensor:
        """Labels of what is computed element by element."""
        found = joined(parts, shape)
        for part in parts:
            self.ties.tie(found, part)
        return found

    def _reduce(self, call: Call) -> list[Tensor]:
        given, result = call.given, call.results[0]
        axes = call.argument("dim")
        axes = range(given.ndim) if axes is None or axes == [] else axes
        axes = (axes,) if isinstance(axes, int) else tuple(axes)
        self.ties.tie_along(given, axes)
        return [collapsed(given, axes, keep=result.ndim == given.ndim)] * len(call.results)


def _of_items(labels: Tensor, leading: int) -> Tensor:
    """Labels (B, ...) with what follows the leading axes as one: (items, rest)."""
    (small,) = together((labels,))
    wide = small.expand(*labels.shape[:leading], *small.shape[leading:])
    return wide.flatten(leading).flatten(0, leading - 1)


def _split_axes(before: torch.Size, after: torch.Size) -> list[tuple[int, ...]]:
    """Axes of a new shape that were one axis, or several other ones, of the old shape."""
    found, old, new = [], 0, 0
    while new < len(after):
        first, length, others = new, after[new], 1
        new += 1
        while length != others:
            if length < others:
                length, new = length * after[new], new + 1
            else:
                others, old = others * before[old], old + 1
        axes = tuple(axis for axis in range(first, new) if after[axis] > 1)
        if len(axes) > 1:
            found.append(axes)
    return found
