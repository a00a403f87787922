"""What masked_conv_norm_act refuses in plain torch; the kernel's checks are the same."""

from __future__ import annotations

import torch
from torch import Tensor

from pass_transfer.errors import KernelError
from pass_transfer.ops.arguments import FusedLayer, Inputs
from pass_transfer.ops.checks import (
    HALVES,
    check_floating,
    check_images,
    check_pool,
    check_vectors,
    check_window,
    named,
    readable,
    short,
)


def check_fused(layer: FusedLayer) -> None:
    """Raises KernelError where masked_conv_norm_act's arguments do not fit."""
    x, weight = layer.x, layer.weight
    check_images(x, weight)
    check_floating("x", x)
    rounded = weight.dtype == torch.float32 and x.dtype in HALVES
    if weight.dtype != x.dtype and not rounded:
        raise KernelError(
            f"x is {short(x)} and weight {short(weight)}; "
            "they must be of one floating dtype, or weight float32 and x of 16 bits"
        )
    ins = _check_inputs(x, weight, layer.inputs)
    kept, count = layer.outputs.numbers(len(weight))
    if not 0 < kept <= count <= len(weight):
        raise KernelError(
            f"out_kept is {kept} and out_count {count}; weight has {len(weight)} outputs"
        )
    _check_order("in_order", layer.inputs.order, ins, weight.shape[1])
    _check_order("out_order", layer.outputs.order, count, len(weight))
    _check_parameters(layer)
    sides = check_window(x, weight, layer.window)
    _check_residuals(layer, sides)
    check_pool(sides, layer.epilogue.pool)


def _check_inputs(x: Tensor, weight: Tensor, inputs: Inputs) -> int:
    """How many input channels there are, kept and dropped."""
    dropped, mask = inputs.dropped, inputs.mask
    if x.shape[1] < 1:
        raise KernelError(f"x has shape {tuple(x.shape)}; it must have a channel to compute with")
    if dropped is None:
        ins = x.shape[1]
    else:
        if dropped.ndim != 4 or _around(dropped) != _around(x):
            shape = tuple(dropped.shape)
            raise KernelError(f"dropped has shape {shape}; x has {tuple(x.shape)}")
        _check_type("dropped", dropped, x)
        ins = x.shape[1] + dropped.shape[1]
    if ins > weight.shape[1]:
        raise KernelError(f"x and dropped have {ins} channels, weight takes {weight.shape[1]}")
    check_vectors(x, in_mask=(mask, ins))
    if dropped is not None:
        _check_dropped(mask, x.shape[1])
    return ins


def _around(images: Tensor) -> tuple[int, ...]:
    """The shape but for the channels."""
    return tuple(images.shape[:1] + images.shape[2:])


def _check_dropped(mask: Tensor | None, kept: int) -> None:
    if mask is None:
        raise KernelError("dropped is given without in_mask")
    if readable(mask) and bool((mask[kept:] != 0).any()):
        raise KernelError("in_mask is not zero for dropped's channels")


def _check_parameters(layer: FusedLayer) -> None:
    norm, outs = layer.norm, len(layer.weight)
    check_vectors(
        layer.x,
        bias=(layer.bias, outs),
        norm_weight=(norm.weight, outs),
        norm_bias=(norm.bias, outs),
    )
    if norm.weight is not None and not norm.eps > 0:
        raise KernelError(f"eps is {norm.eps}; it must be positive")
    if (norm.weight is None) != (norm.bias is None):
        raise KernelError("norm_weight and norm_bias come together")


def _check_residuals(layer: FusedLayer, sides: list[int]) -> None:
    """Raises KernelError for residuals that are not of the results' shape."""
    residual, dropped = layer.epilogue.residual, layer.epilogue.residual_dropped
    if residual is None and dropped is not None:
        raise KernelError("residual_dropped is given without residual")
    kept, count = layer.outputs.numbers(len(layer.weight))
    _check_residual("residual", residual, layer.x, (kept, *sides))
    _check_residual("residual_dropped", dropped, layer.x, (count - kept, *sides))


def _check_residual(name: str, values: Tensor | None, x: Tensor, made: tuple[int, ...]) -> None:
    if values is None:
        return
    shape = (x.shape[0], *made)
    if values.shape != shape:
        raise KernelError(f"{name} has shape {tuple(values.shape)}; it must be {shape}")
    _check_type(name, values, x)


def _check_type(name: str, values: Tensor, x: Tensor) -> None:
    if values.dtype != x.dtype:
        raise KernelError(f"{name} is {short(values)}, x {short(x)}")


def _check_order(name: str, order: Tensor | None, count: int, width: int) -> None:
    if order is None:
        return
    if order.ndim != 1 or order.dtype != torch.int64:
        raise KernelError(f"{name} is {named(order)}; it must be an int64 vector")
    if len(order) < count:
        raise KernelError(f"{name} has {len(order)} entries, at least {count} are needed")
    if not readable(order):
        return
    values = order[:count]
    if count == 0:
        return
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest >= width:
        raise KernelError(f"{name} names channels {lowest} to {highest}; the weight has {width}")
    if len(values.unique()) < count:
        raise KernelError(f"{name} names a channel twice")
