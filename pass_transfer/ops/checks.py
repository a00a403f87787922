"""What the operators refuse when they run in plain torch, before anything is computed; the kernels' own checks (csrc) are the same.

A mask's values and an order's are looked at on the CPU alone: on a GPU that would wait for
the device, and while torch.compile traces there are none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pass_transfer.errors import KernelError, MaskError

HALVES = (torch.bfloat16, torch.float16)
FLOATING = (*HALVES, torch.float32, torch.float64)


def check_selection(scores: Tensor, offsets: Tensor, k: int, floors: Tensor) -> None:
    """Raises MaskError where global_topk_mask's arguments do not belong together."""
    if scores.ndim != 1 or not scores.is_floating_point():
        raise MaskError(f"scores is {_named(scores)}; it must be one floating vector")
    for name, values in (("offsets", offsets), ("floors", floors)):
        if values.ndim != 1 or values.dtype != torch.int64:
            raise MaskError(f"{name} is {_named(values)}; it must be an int64 vector")
        if values.device != scores.device:
            raise MaskError(f"{name} is on {values.device}, scores on {scores.device}")
    if len(offsets) != len(floors) + 1:
        raise MaskError(f"{len(offsets)} offsets and {len(floors)} floors do not belong together")
    widths = offsets.diff()
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(scores):
        raise MaskError(
            f"offsets go from {int(offsets[0])} to {int(offsets[-1])}; they must go from 0 to {len(scores)}, the number of scores"
        )
    if bool((widths < 0).any()):
        raise MaskError("offsets must not fall")
    if bool(((floors < 0) | (floors > widths)).any()):
        raise MaskError(f"floors are {floors.tolist()}; the layers have {widths.tolist()} channels")
    if not int(floors.sum()) <= k <= len(scores):
        raise MaskError(
            f"cannot keep {k} of {len(scores)} channels with floors that sum to {int(floors.sum())}"
        )
    if not bool(torch.isfinite(scores).all()):
        raise MaskError("channel scores hold NaN or infinite values")


def check_channels(x: Tensor, mask: Tensor) -> None:
    """Raises KernelError where mask (C,) or (B, C), floating or bool, does not go with x (B, C, ...)."""
    if x.ndim < 2:
        raise KernelError(f"x has shape {tuple(x.shape)}; it must be (batch, channels, ...)")
    _check_floating("x", x)
    if mask.shape not in (x.shape[1:2], x.shape[:2]):
        raise KernelError(
            f"mask has shape {tuple(mask.shape)}; it must be ({x.shape[1]},) or {tuple(x.shape[:2])}"
        )
    if mask.device != x.device:
        raise KernelError(f"mask is on {mask.device}, x on {x.device}")
    if mask.dtype != torch.bool:
        _check_floating("mask", mask)


def check_vectors(x: Tensor, **vectors: tuple[Tensor | None, int]) -> None:
    """Raises KernelError where a mask, or another number for each channel, is not a floating vector of so many channels where x is."""
    for name, (values, channels) in vectors.items():
        if values is None:
            continue
        if values.shape != (channels,):
            raise KernelError(f"{name} has shape {tuple(values.shape)}; it must be ({channels},)")
        if values.device != x.device:
            raise KernelError(f"{name} is on {values.device}, x on {x.device}")
        _check_floating(name, values)


def check_binary(**masks: Tensor | None) -> None:
    """Raises KernelError where a mask holds other values than 0 and 1."""
    for name, mask in masks.items():
        if mask is not None and _readable(mask) and not bool(((mask == 0) | (mask == 1)).all()):
            raise KernelError(f"{name} holds other values than 0 and 1")


def check_layer(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raises KernelError where x, weight (O, ...) and bias are not of one floating dtype, or bias is not (O,)."""
    _check_floating("x", x)
    if weight.dtype != x.dtype:
        raise KernelError(
            f"x is {_short(x)} and weight {_short(weight)}; they must be of one floating dtype"
        )
    check_vectors(x, bias=(bias, len(weight)))
    if bias is not None and bias.dtype != x.dtype:
        raise KernelError(f"bias is {_short(bias)}, x {_short(x)}")


def check_images(x: Tensor, weight: Tensor) -> None:
    """Raises KernelError where x or weight does not have four dimensions."""
    for name, values, shape in (
        ("x", x, "batch, channels, height, width"),
        ("weight", weight, "out, in / groups, height, width"),
    ):
        if values.ndim != 4:
            raise KernelError(f"{name} has shape {tuple(values.shape)}; it must be ({shape})")
    if 0 in weight.shape[:2]:
        raise KernelError(
            f"weight has shape {tuple(weight.shape)}; it must have outputs and inputs"
        )


def check_groups(x: Tensor, weight: Tensor, groups: int) -> None:
    """Raises KernelError where weight (O, I / groups, kh, kw) does not take x's channels."""
    if groups < 1 or x.shape[1] != weight.shape[1] * groups or len(weight) % groups:
        raise KernelError(
            f"x has {x.shape[1]} channels, weight {tuple(weight.shape)}, groups is {groups}; they do not fit"
        )


def check_window(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """The height and width of a convolution's output; raises KernelError where the weight is larger than the padded x."""
    sides = []
    for side, kernel, step, edge, spread in zip(
        x.shape[2:], weight.shape[2:], stride, padding, dilation
    ):
        room = side + 2 * edge - spread * (kernel - 1) - 1
        if side < 1 or kernel < 1 or room < 0:
            raise KernelError("weight is larger than the padded x, or x has no positions")
        sides.append(room // step + 1)
    return sides


def check_pool(sides: Sequence[int], pool: Sequence[int]) -> None:
    """Raises KernelError where a pooling (kernel, stride, padding; empty for none) is larger than what it is given."""
    if pool and any(side + 2 * pool[2] < pool[0] for side in sides):
        raise KernelError(f"pool is {list(pool)}, larger than what it is given, {list(sides)}")


def check_linear(x: Tensor, weight: Tensor) -> None:
    """Raises KernelError where weight is not (out, in) for x (..., in)."""
    if x.ndim < 1:
        raise KernelError("x is a single number; it must be (..., in)")
    if weight.ndim != 2:
        raise KernelError(f"weight has shape {tuple(weight.shape)}; it must be (out, in)")
    if x.shape[-1] != weight.shape[1]:
        raise KernelError(f"x has {x.shape[-1]} features, weight takes {weight.shape[1]}")


def check_block(
    x: Tensor,
    shadow: Tensor | None,
    in_mask: Tensor | None,
    in_order: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    residual: Tensor | None,
    residual_shadow: Tensor | None,
    out_order: Tensor | None,
    out_kept: int,
    out_count: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    pool: Sequence[int],
) -> None:
    """Raises KernelError where masked_conv_norm_act's arguments do not fit."""
    check_images(x, weight)
    _check_floating("x", x)
    if weight.dtype != x.dtype and not (weight.dtype == torch.float32 and x.dtype in HALVES):
        raise KernelError(
            f"x is {_short(x)} and weight {_short(weight)}; they must be of one floating dtype, or weight float32 and x of 16 bits"
        )
    if shadow is not None and (
        shadow.ndim != 4 or shadow.shape[:1] + shadow.shape[2:] != x.shape[:1] + x.shape[2:]
    ):
        raise KernelError(f"shadow has shape {tuple(shadow.shape)}; x has {tuple(x.shape)}")
    if x.shape[1] < 1:
        raise KernelError(f"x has shape {tuple(x.shape)}; it must have a channel to compute with")
    ins = x.shape[1] + (0 if shadow is None else shadow.shape[1])
    if ins > weight.shape[1]:
        raise KernelError(f"x and shadow have {ins} channels, weight takes {weight.shape[1]}")
    check_vectors(x, in_mask=(in_mask, ins))
    if shadow is not None and in_mask is None:
        raise KernelError("shadow is given without in_mask")
    if shadow is not None and _readable(in_mask) and bool((in_mask[x.shape[1] :] != 0).any()):
        raise KernelError("in_mask is not zero for shadow's channels")
    if not 0 < out_kept <= out_count <= len(weight):
        raise KernelError(
            f"out_kept is {out_kept} and out_count {out_count}; weight has {len(weight)} outputs"
        )
    _check_order("in_order", in_order, ins, weight.shape[1])
    _check_order("out_order", out_order, out_count, len(weight))
    check_vectors(
        x,
        bias=(bias, len(weight)),
        norm_weight=(norm_weight, len(weight)),
        norm_bias=(norm_bias, len(weight)),
    )
    if norm_weight is not None and not eps > 0:
        raise KernelError(f"eps is {eps}; it must be positive")
    if (norm_weight is None) != (norm_bias is None):
        raise KernelError("norm_weight and norm_bias come together")
    if residual is None and residual_shadow is not None:
        raise KernelError("residual_shadow is given without residual")
    sides = check_window(x, weight, stride, padding, dilation)
    for name, values, channels in (
        ("residual", residual, out_kept),
        ("residual_shadow", residual_shadow, out_count - out_kept),
    ):
        if values is not None and values.shape != (x.shape[0], channels, *sides):
            raise KernelError(
                f"{name} has shape {tuple(values.shape)}; it must be {(x.shape[0], channels, *sides)}"
            )
    for name, values in (
        ("shadow", shadow),
        ("residual", residual),
        ("residual_shadow", residual_shadow),
    ):
        if values is not None and values.dtype != x.dtype:
            raise KernelError(f"{name} is {_short(values)}, x {_short(x)}")
    check_pool(sides, pool)


def _check_order(name: str, order: Tensor | None, count: int, width: int) -> None:
    if order is None:
        return
    if order.ndim != 1 or order.dtype != torch.int64:
        raise KernelError(f"{name} is {_named(order)}; it must be an int64 vector")
    if len(order) < count:
        raise KernelError(f"{name} has {len(order)} entries, at least {count} are needed")
    if not _readable(order):
        return
    values = order[:count]
    if count and not 0 <= int(values.min()) <= int(values.max()) < width:
        raise KernelError(
            f"{name} names channels {int(values.min())} to {int(values.max())}; the weight has {width}"
        )
    if len(values.unique()) < count:
        raise KernelError(f"{name} names a channel twice")


def _check_floating(name: str, values: Tensor) -> None:
    if not values.is_floating_point():
        raise KernelError(f"{name} is {_short(values)}; it must be floating")


def _readable(values: Tensor) -> bool:
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def _short(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


def _named(values: Tensor) -> str:
    return f"{_short(values)} {tuple(values.shape)}"
