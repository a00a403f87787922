"""What the operators refuse when they run in plain torch, before anything is computed.

The kernels' own checks (csrc) are the same. A mask's values and an order's are looked at on
the CPU alone: on a GPU that would wait for the device, and while torch.compile traces there
are none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pass_transfer.errors import KernelError, MaskError
from pass_transfer.ops.arguments import MaskedLayer, Sides, Window

HALVES = (torch.bfloat16, torch.float16)
FLOATING = (*HALVES, torch.float32, torch.float64)


def check_selection(scores: Tensor, offsets: Tensor, k: int, floors: Tensor) -> None:
    """Raises MaskError where global_topk_mask's arguments do not belong together."""
    if scores.ndim != 1 or not scores.is_floating_point():
        raise MaskError(f"scores is {named(scores)}; it must be one floating vector")
    for name, values in (("offsets", offsets), ("floors", floors)):
        if values.ndim != 1 or values.dtype != torch.int64:
            raise MaskError(f"{name} is {named(values)}; it must be an int64 vector")
        if values.device != scores.device:
            raise MaskError(f"{name} is on {values.device}, scores on {scores.device}")
    if len(offsets) != len(floors) + 1:
        raise MaskError(f"{len(offsets)} offsets and {len(floors)} floors do not belong together")
    widths = offsets.diff()
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(scores):
        raise MaskError(
            f"offsets go from {int(offsets[0])} to {int(offsets[-1])}; "
            f"they must go from 0 to {len(scores)}, the number of scores"
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
    """Raises KernelError where a mask does not go with x (B, C, ...).

    It is (C,) or (B, C), floating or bool.
    """
    if x.ndim < 2:
        raise KernelError(f"x has shape {tuple(x.shape)}; it must be (batch, channels, ...)")
    check_floating("x", x)
    if mask.shape not in (x.shape[1:2], x.shape[:2]):
        raise KernelError(
            f"mask has shape {tuple(mask.shape)}; "
            f"it must be ({x.shape[1]},) or {tuple(x.shape[:2])}"
        )
    if mask.device != x.device:
        raise KernelError(f"mask is on {mask.device}, x on {x.device}")
    if mask.dtype != torch.bool:
        check_floating("mask", mask)


def check_vectors(x: Tensor, **vectors: tuple[Tensor | None, int]) -> None:
    """Raises KernelError where a number for each channel is not a floating vector where x is.

    A mask is one; each comes with how many channels it has to have.
    """
    for name, (values, channels) in vectors.items():
        if values is None:
            continue
        if values.shape != (channels,):
            raise KernelError(f"{name} has shape {tuple(values.shape)}; it must be ({channels},)")
        if values.device != x.device:
            raise KernelError(f"{name} is on {values.device}, x on {x.device}")
        check_floating(name, values)


def check_binary(**masks: Tensor | None) -> None:
    """Raises KernelError where a mask holds other values than 0 and 1."""
    for name, mask in masks.items():
        if mask is not None and readable(mask) and not bool(((mask == 0) | (mask == 1)).all()):
            raise KernelError(f"{name} holds other values than 0 and 1")


def check_layer(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raises KernelError where x, weight (O, ...) and bias (O,) are not of one floating dtype."""
    check_floating("x", x)
    if weight.dtype != x.dtype:
        raise KernelError(
            f"x is {short(x)} and weight {short(weight)}; they must be of one floating dtype"
        )
    check_vectors(x, bias=(bias, len(weight)))
    if bias is not None and bias.dtype != x.dtype:
        raise KernelError(f"bias is {short(bias)}, x {short(x)}")


def check_masked(layer: MaskedLayer, ins: int) -> None:
    """Raises KernelError where a layer's dtypes, bias or masks do not fit its `ins` inputs."""
    x, masks, outs = layer.x, layer.masks, len(layer.weight)
    check_layer(x, layer.weight, layer.bias)
    widths = {
        "in_mask": ins,
        "out_mask": outs,
        "support": outs,
        "in_margin": ins,
        "out_margin": outs,
    }
    vectors = masks.tensors()
    check_vectors(x, **{name: (vectors[name], width) for name, width in widths.items()})
    check_binary(**vectors)


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
            f"x has {x.shape[1]} channels, weight {tuple(weight.shape)}, groups is {groups}; "
            "they do not fit"
        )


def check_window(x: Tensor, weight: Tensor, window: Window) -> list[int]:
    """The height and width of a convolution's output; the window has pairs.

    Raises KernelError where the weight is larger than the padded x.
    """
    sides = []
    steps = zip(*(_pair(side) for side in (window.stride, window.padding, window.dilation)))
    for side, kernel, (stride, padding, dilation) in zip(x.shape[2:], weight.shape[2:], steps):
        left = side + 2 * padding - dilation * (kernel - 1) - 1
        if side < 1 or kernel < 1 or left < 0:
            raise KernelError("weight is larger than the padded x, or x has no positions")
        sides.append(left // stride + 1)
    return sides


def _pair(value: Sides) -> Sequence[int]:
    return (value, value) if isinstance(value, int) else value


def check_pool(sides: Sequence[int], pool: Sequence[int]) -> None:
    """Raises KernelError where a pooling is larger than what it is given.

    It is kernel, stride and padding; empty for none.
    """
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


def check_floating(name: str, values: Tensor) -> None:
    """Raises KernelError for integers."""
    if not values.is_floating_point():
        raise KernelError(f"{name} is {short(values)}; it must be floating")


def readable(values: Tensor) -> bool:
    """Whether values can be looked at without waiting for a device."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def short(values: Tensor) -> str:
    """A tensor's dtype in a message."""
    return str(values.dtype).removeprefix("torch.")


def named(values: Tensor) -> str:
    """A tensor's dtype and shape in a message."""
    return f"{short(values)} {tuple(values.shape)}"
