"""One call of an operator of torch, on tensors whose channels are labelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.flop_counter import flop_registry

from pass_transfer.networks.labels import none


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
    def macs(self) -> int:
        """Multiply-accumulates, as torch counts them."""
        count = flop_registry.get(self.function.overloadpacket)
        if count is None:
            return 0
        made = self.results[0] if len(self.results) == 1 else self.results
        return int(count(*self.args, **self.kwargs, out_val=made)) // 2

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


def plain_name(function: Any) -> str:
    """An operator's name, without its namespace and the underscore of an in-place one."""
    name = function._schema.name.rpartition(":")[2]
    return name if name == "copy_" else name.rstrip("_")


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors among values, also inside of lists and dicts."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (list, tuple)):
        return []
    return [tensor for value in values for tensor in tensors_in(value)]
