"""How a public function reaches an implementation: tensors are looked at, errors named."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from pass_transfer.errors import KernelError, PassTransferError
from pass_transfer.ops import checks, kernels, reference
from pass_transfer.ops.arguments import GRADIENTS, Sides, Window

REQUIRED = ("x", "weight", "mask", "scores", "offsets", "floors")
LARGEST = 2**31


def call(
    name: str,
    tensors: Mapping[str, Tensor | None],
    *arguments: Any,
    module: ModuleType | None = None,
) -> Any:
    """An operator of these arguments, on the implementation for the device of its tensors.

    Args:
        tensors: those among the arguments, by name; the first one says the device.
        module: another implementation than the device's.

    Raises:
        KernelError: it names the argument that does not fit.
    """
    check_tensors(tensors)
    (first, x), *rest = [(n, t) for n, t in tensors.items() if t is not None]
    for argument, value in rest:
        if value.device != x.device:
            raise KernelError(f"{argument} is on {value.device}, {first} on {x.device}")
    module = module or kernels.module(x)
    if module is not reference and not torch.compiler.is_compiling():
        _refuse_forward_mode(name, tensors)
    try:
        return getattr(module, name)(*arguments)
    except PassTransferError:
        raise
    except (ValueError, TypeError) as error:
        raise KernelError(_first_line(error)) from None


def _refuse_forward_mode(name: str, tensors: Mapping[str, Tensor | None]) -> None:
    for value in tensors.values():
        if value is not None and unpack_dual(value).tangent is not None:
            raise KernelError(
                f"{name} has no forward-mode derivatives when it is compiled; "
                f"{kernels.VARIABLE}=reference runs it in plain torch"
            )


def check_tensors(tensors: Mapping[str, Tensor | None]) -> None:
    """Raises KernelError for what is no dense tensor of a common dtype; None: not given."""
    for name, value in tensors.items():
        if value is None and name not in REQUIRED:
            continue
        if not isinstance(value, Tensor):
            raise KernelError(f"{name} is {type(value).__name__}; it must be a tensor")
        uncommon = value.is_floating_point() and value.dtype not in checks.FLOATING
        if value.layout != torch.strided or uncommon:
            raise KernelError(
                f"{name} is {value.dtype} in layout {value.layout}; "
                "it must be dense, of 16, 32 or 64 bits"
            )


def check_integer(name: str, value: object) -> None:
    """Raises KernelError for what is no integer, or one that is too large."""
    if isinstance(value, torch.SymInt):
        return
    fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    if not fits:
        raise KernelError(f"{name} is {value!r}; it must be an integer below 2**31")


def check_gradient(gradient: str) -> None:
    """Raises KernelError for a name that is none of GRADIENTS."""
    if gradient not in GRADIENTS:
        raise KernelError(f"gradient is {gradient!r}; choose one of {', '.join(GRADIENTS)}")


def check_pool(pool: object) -> list[int]:
    """Kernel, stride and padding of a pooling, or nothing; raises KernelError for others."""
    values: list = list(pool) if isinstance(pool, (tuple, list)) else [pool]
    if not values or _is_pool(values):
        return values
    raise KernelError(
        f"pool is {pool!r}; it must be kernel (1 to 15), stride (1 or more) and padding "
        "(up to half of the kernel), or empty"
    )


def _is_pool(values: list) -> bool:
    if len(values) != 3 or any(not isinstance(v, int) for v in values):
        return False
    kernel, stride, padding = values
    return 1 <= kernel < 16 and stride >= 1 and 0 <= 2 * padding <= kernel


def in_pairs(window: Window) -> Window:
    """The window with two values a side; raises KernelError for one that cannot be."""
    check_integer("groups", window.groups)
    return Window(
        _pair("stride", window.stride, 1),
        _pair("padding", window.padding, 0),
        _pair("dilation", window.dilation, 1),
        window.groups,
    )


def _pair(name: str, value: Sides, least: int) -> list[int]:
    pair: list[int] = list(value) if isinstance(value, (tuple, list)) else [value, value]
    fits = [isinstance(v, int) and least <= v < LARGEST for v in pair]
    if len(pair) != 2 or not all(fits):
        raise KernelError(
            f"{name} is {value!r}; it must be one or two integers of at least {least}, below 2**31"
        )
    return pair


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
