"""What torch's operators do to channels: one rule for each family of them.

A rule is given an operator's tensors as labels (networks/labels.py) and gives its results' labels.
Operators that only move values move labels with themselves.
Where elements of several channels become one value, these channels live or die together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from pass_transfer.networks.labels import NONE, Ties, collapsed, joined, together

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
class Call:
    """One call of an operator on labelled tensors.

    Fields:
        name: without overload and the underscore of an in-place one.
        args, kwargs: as called.
        labels: of each tensor among the arguments, in order; None for one without.
        results: the tensors that it gave.
    """

    function: Any
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    labels: tuple[Tensor | None, ...]
    results: tuple[Tensor, ...]

    @property
    def given(self) -> Tensor:
        """Labels of the first tensor."""
        first = self.labels[0]
        return first if first is not None else none(tensors_in(self.args)[0].shape)

    @property
    def written(self) -> Tensor | None:
        """The tensor that is changed in place, if there is one."""
        for place, argument in enumerate(self.function._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                found = self.args[place] if place < len(self.args) else None
                return found if isinstance(found, Tensor) else None
        return None

    def argument(self, wanted: str, default: Any = None) -> Any:
        """An argument by its name in the operator's schema."""
        if wanted in self.kwargs:
            return self.kwargs[wanted]
        for place, argument in enumerate(self.function._schema.arguments):
            if argument.name == wanted:
                return self.args[place] if place < len(self.args) else argument.default_value
        return default


@dataclass(frozen=True)
class Cut:
    """Places of some axes that were taken apart: no channels may lie on them.

    Fields:
        labels: of the tensor.
        axes: where it was taken apart. A tensor whose axis became several has its channels on
            one of them at most.
        most: on how many of these axes channels may lie, 0 or 1.
    """

    labels: Tensor
    axes: tuple[int, ...]
    most: int


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

    def know(self, function: Any) -> bool:
        """Whether an operator has a rule."""
        return self._rule(function) is not None

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
        if call.name == "roll":
            axes = tuple(call.argument("dims"))
        elif call.name == "flip":
            axes = tuple(call.argument("dims"))
        else:
            axes = (call.argument("dim", 0),)
        if parts[0].shape != call.given.shape or call.name in ("roll", "flip"):
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
        self.ties.tie_along(labels, (axis,))
        return collapsed(labels, (axis,), keep=True).expand(made.shape)

    def _attention(self, call: Call) -> list[Tensor]:
        labels = [part for part in call.labels if part is not None]
        made = call.results[0]
        leading = made.shape[:2]
        items = [_of_items(part.expand(*leading, *part.shape[-2:]), 2) for part in labels]
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
        self.products.append(Product(_macs(call) // len(of_item), of_item))
        leading = made.shape[:1] if made.ndim == 3 else made.shape[:2]
        return of_item.view(*leading, *[1] * (made.ndim - len(leading))).expand(made.shape)

    def _elementwise(self, call: Call) -> list[Tensor]:
        shape = call.results[0].shape
        parts = [part.expand(shape) for part in call.labels if part is not None]
        return [self._tied(parts, shape)] * len(call.results)

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


def plain_name(function: Any) -> str:
    """An operator's name, without its namespace and the underscore of an in-place one."""
    name = function._schema.name.rpartition(":")[2]
    return name if name == "copy_" else name.rstrip("_")


def none(shape: torch.Size) -> Tensor:
    """Labels of a tensor without channels."""
    return torch.full((1,), NONE).expand(shape)


def _of_items(labels: Tensor, leading: int) -> Tensor:
    """Labels (B, ...) with what follows the leading axes as one: (items, rest)."""
    (small,) = together((labels,))
    wide = small.expand(*labels.shape[:leading], *small.shape[leading:])
    return wide.flatten(leading).flatten(0, leading - 1)


def _macs(call: Call) -> int:
    count = flop_registry.get(call.function.overloadpacket)
    if count is None:
        return 0
    made = call.results[0] if len(call.results) == 1 else call.results
    return int(count(*call.args, **call.kwargs, out_val=made)) // 2


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


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors among values, also inside of lists and dicts."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (list, tuple)):
        return []
    return [tensor for value in values for tensor in tensors_in(value)]
