"""What the compiled operators return, known before they run: shapes, dtypes and layouts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pass_transfer.ops.layout import layout_of
from pass_transfer.ops.schemas import Shapes, without_data


def _like(x: Tensor, *shape: Any) -> Tensor:
    """An empty tensor in x's dtype and layout."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))


def _sides(given: Any) -> list:
    """The height and width that a convolution gives."""
    sides = []
    for d in range(2):
        span = given.dilation[d] * (given.weight.shape[2 + d] - 1) + 1
        padded = given.x.shape[2 + d] + 2 * given.padding[d]
        sides.append((padded - span) // given.stride[d] + 1)
    return sides


def _pooled(sides: list, pool: list[int]) -> list:
    if not pool:
        return sides
    kernel, stride, padding = pool
    return [(side + 2 * padding - kernel) // stride + 1 for side in sides]


def _sums(x: Tensor) -> torch.dtype:
    """The dtype that sums over x are kept in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@without_data("global_topk_mask")
def _(given: Any) -> Shapes:
    return {
        "mask": torch.empty_like(given.scores),
        "threshold": given.scores.new_empty(()),
        "kept": torch.empty_like(given.floors),
        "order": given.offsets.new_empty(given.scores.shape),
    }


@without_data("global_topk_weights")
def _(given: Any) -> Shapes:
    return [part.new_empty(part.shape, dtype=torch.bool) for part in given.scores]


@without_data("mask_channels")
def _(given: Any) -> Shapes:
    return _like(given.x, *given.x.shape)


@without_data("mask_channels_backward")
def _(given: Any) -> Shapes:
    return {
        "grad_x": _like(given.x, *given.x.shape),
        "grad_mask": torch.empty_like(given.mask),
    }


@without_data("masked_conv2d")
def _(given: Any) -> Shapes:
    y = _like(given.x, given.x.shape[0], len(given.weight), *_sides(given))
    masked = given.out_mask is not None and given.gradient != "kept"
    return {"y": y, "before": torch.empty_like(y) if masked else given.x.new_empty(0)}


@without_data("masked_conv2d_backward")
def _(given: Any) -> Shapes:
    x, weight = given.x, given.weight
    none = x.new_empty(0)
    in_mask = none if given.in_mask is None else given.in_mask
    out_mask = none if given.out_mask is None else given.out_mask
    return {
        "grad_x": _like(x, *x.shape) if given.needs_x else none,
        "grad_weight": torch.empty_like(weight) if given.needs_weight else x.new_empty(0),
        "grad_bias": x.new_empty(len(weight) if given.needs_bias else 0),
        "grad_in_mask": torch.empty_like(in_mask) if given.needs_in_mask else x.new_empty(0),
        "grad_out_mask": torch.empty_like(out_mask) if given.needs_out_mask else x.new_empty(0),
    }


@without_data("masked_conv_norm_act")
def _(given: Any) -> Shapes:
    x, kept, count = given.x, given.out_kept, given.out_count
    y = _like(x, x.shape[0], count, *_sides(given))
    sides = _pooled(list(y.shape[2:]), given.pool)
    out, none = _like(y, x.shape[0], kept, *sides), x.new_empty(0)
    normed = given.norm_weight is not None
    width = count if normed else 0
    dropped = _like(y, x.shape[0], count - kept, *sides) if kept < count else none
    convolution_alone = not normed and not given.relu and given.residual is None
    if convolution_alone and kept == count:
        out = y
    return {
        "out": out,
        "out_dropped": dropped,
        "y": y if normed else x.new_empty(0),
        "mean": x.new_empty(width, dtype=_sums(x)),
        "invstd": x.new_empty(width, dtype=torch.float64),
        "scale": x.new_empty(width, dtype=torch.float64),
        "shift": x.new_empty(width, dtype=_sums(x)),
        "places": torch.empty_like(out, dtype=torch.uint8) if given.pool else none.byte(),
    }


@without_data("masked_conv_norm_act_backward")
def _(given: Any) -> Shapes:
    x, mask = given.x, given.in_mask
    channels = x.shape[1]
    if given.needs_in_mask and given.dropped is not None:
        channels += given.dropped.shape[1]
    inner = _like(x, x.shape[0], channels, *x.shape[2:]).narrow(1, 0, x.shape[1])
    to_mask = (x if mask is None else mask).new_empty(0)
    if mask is not None and given.needs_in_mask:
        to_mask = torch.empty_like(mask)
    out = given.out
    return {
        "grad_x": inner if given.needs_x else x.new_empty(0),
        "grad_in_mask": to_mask,
        "grad_residual": _like(out, *out.shape) if given.needs_residual else x.new_empty(0),
    }
