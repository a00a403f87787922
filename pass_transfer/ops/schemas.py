"""Names of the registered operators' arguments and results, as csrc/library.cpp has them.

The extension has to be loaded before this is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pass_transfer.ops.operators import OPERATORS

KERNELS = torch.ops.pass_transfer


def _names(words: Sequence[Any]) -> tuple[str, ...]:
    return tuple(word.name for word in words)


_SCHEMAS = {name: getattr(KERNELS, name).default._schema for name in OPERATORS}
ARGUMENTS = {name: _names(schema.arguments) for name, schema in _SCHEMAS.items()}
RESULTS = {name: _names(schema.returns) for name, schema in _SCHEMAS.items()}


def arguments_of(name: str, values: Sequence[Any]) -> SimpleNamespace:
    """Values in the order of an operator's arguments, by name."""
    return SimpleNamespace(**dict(zip(ARGUMENTS[name], values)))


def results_of(name: str, values: Sequence[Tensor]) -> dict[str, Tensor]:
    """What an operator returned, by name."""
    return dict(zip(RESULTS[name], values))


def in_order(name: str, **gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients to an operator's arguments in their order; None for those that are not named."""
    return tuple(gradients.get(argument) for argument in ARGUMENTS[name])


Shapes = Tensor | list[Tensor] | Mapping[str, Tensor]


def without_data(name: str) -> Callable[[Callable[[Any], Shapes]], None]:
    """Registers what an operator returns before it runs.

    The decorated function takes the arguments as attributes and returns a tensor, a list of
    them, or the results by name.
    """

    def register(function: Callable[[Any], Shapes]) -> None:
        def fake(*values: Any, **by_name: Any) -> Tensor | list[Tensor] | tuple[Tensor, ...]:
            given = arguments_of(name, values)
            vars(given).update(by_name)
            found = function(given)
            if isinstance(found, (Tensor, list)):
                return found
            return tuple(found[result] for result in RESULTS[name])

        torch.library.register_fake(f"pass_transfer::{name}", fake)

    return register
