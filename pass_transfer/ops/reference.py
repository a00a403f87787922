"""The operators in plain torch: what a kernel of the same signature has to compute.

They run everywhere, are differentiable as they stand, and are what the kernels are tested
against. What they take and return is said by the public functions (layers.py, selection.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pass_transfer.ops import checks
from pass_transfer.ops.arguments import FusedLayer, MaskedLayer
from pass_transfer.ops.fused_checks import check_fused
from pass_transfer.ops.layout import layout_of
from pass_transfer.ops.radix_select import global_topk_weights as global_topk_weights


class _StraightThrough(torch.autograd.Function):
    """A mask whose gradient goes to the scores as it is."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, mask: Tensor) -> Tensor:
        return mask.to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def select(scores: Tensor, offsets: Tensor, k: int, floors: Tensor) -> Tensor:
    """Which of the scores (n,) are kept, bool.

    They are every layer's floor, then the best of what is left; the lower index among equals.
    """
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for layer, (start, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist())):
        order = torch.sort(scores[start:end], descending=True, stable=True).indices
        mask[start + order[: int(floors[layer])]] = True
    left = k - int(mask.sum())
    order = torch.sort(
        scores.detach().masked_fill(mask, float("-inf")), descending=True, stable=True
    ).indices
    mask[order[:left]] = True
    return mask


def global_topk_mask(
    scores: Tensor, offsets: Tensor, k: int, floors: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ops.global_topk_mask in plain torch."""
    checks.check_selection(scores, offsets, k, floors)
    chosen = select(scores.detach(), offsets, k, floors)
    layers = chosen.split(offsets.diff().tolist())
    kept = torch.stack([layer.sum() for layer in layers]) if layers else floors.clone()
    order = torch.cat([_kept_first(layer) for layer in layers]) if layers else offsets[:0]
    threshold = scores.detach()[chosen].min() if k else scores.new_tensor(float("inf"))
    return _StraightThrough.apply(scores, chosen), threshold, kept, order


def _kept_first(layer: Tensor) -> Tensor:
    """The numbers of a layer's channels, those that are kept in front."""
    return torch.cat([layer.nonzero().flatten(), (~layer).nonzero().flatten()])


class _MaskChannels(torch.autograd.Function):
    """x times a mask, whose gradient is a sum over positions in a wider type.

    Where the sum cancels, what is left of it is then not its rounding.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(x, mask)
        return x * _over_positions(mask.to(x.dtype), x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, mask = ctx.saved_tensors
        to_x = gradient * _over_positions(mask.to(x.dtype), x) if ctx.needs_input_grad[0] else None
        to_mask = None
        if ctx.needs_input_grad[1]:
            to_mask = gradient * x
            positions = [*range(2 - mask.ndim), *range(2, x.ndim)]
            if positions:
                sums = torch.promote_types(_wide(x), torch.float32)
                to_mask = to_mask.sum(positions, dtype=sums)
            to_mask = to_mask.to(mask.dtype)
        return to_x, to_mask


def _over_positions(mask: Tensor, x: Tensor) -> Tensor:
    """A mask (C,) or (B, C) in the shape that goes with x (B, C, ...)."""
    return mask.view(*([1] * (2 - mask.ndim)), *mask.shape, *[1] * (x.ndim - 2))


def _wide(x: Tensor) -> torch.dtype:
    """The type that sums over x are made in.

    It is float64 for float32, but on a GPU, which is slow at it.
    """
    return torch.float64 if x.dtype == torch.float32 and x.device.type == "cpu" else x.dtype


def mask_channels(x: Tensor, mask: Tensor) -> Tensor:
    """ops.mask_channels in plain torch."""
    checks.check_channels(x, mask)
    return _MaskChannels.apply(x, mask)


def _learning(mask: Tensor, gradient: str, margin: Tensor | None) -> Tensor:
    """The mask with its gradient taken from the channels that do not get one."""
    if gradient == "exact":
        return mask
    share = mask.detach()
    if margin is not None and gradient != "kept":
        share = torch.maximum(share, margin.to(mask.dtype))
    return share * mask + (1 - share) * mask.detach()


def masked_conv2d(layer: MaskedLayer) -> Tensor:
    """ops.masked_conv2d in plain torch."""
    layer = layer.in_autocast()
    x, weight, bias, masks = layer.x, layer.weight, layer.bias, layer.masks
    window = layer.window
    checks.check_images(x, weight)
    checks.check_groups(x, weight, window.groups)
    checks.check_window(x, weight, window)
    checks.check_masked(layer, x.shape[1])
    if masks.in_mask is not None:
        x = mask_channels(x, _learning(masks.in_mask, masks.gradient, masks.in_margin))
    sides = window.stride, window.padding, window.dilation
    y = functional.conv2d(x, weight, bias, *sides, window.groups)
    y = y.contiguous(memory_format=layout_of(x))
    if masks.out_mask is None:
        return y
    return mask_channels(y, _learning(masks.out_mask, masks.gradient, masks.out_margin))


def masked_linear(layer: MaskedLayer) -> Tensor:
    """ops.masked_linear in plain torch."""
    layer = layer.in_autocast()
    x, masks = layer.x, layer.masks
    checks.check_linear(x, layer.weight)
    checks.check_masked(layer, x.shape[-1])
    if masks.in_mask is not None:
        x = x * _learning(masks.in_mask, masks.gradient, masks.in_margin).to(x.dtype)
    y = functional.linear(x, layer.weight, layer.bias)
    if masks.out_mask is None:
        return y
    return y * _learning(masks.out_mask, masks.gradient, masks.out_margin).to(y.dtype)


def masked_conv_norm_act(layer: FusedLayer) -> tuple[Tensor, Tensor | None]:
    """ops.masked_conv_norm_act in plain torch."""
    layer = layer.in_autocast()
    check_fused(layer)
    kept, count = layer.outputs.numbers(len(layer.weight))
    y = _normalised(layer, _convolved(layer, count), count)
    out, dropped = y[:, :kept], y[:, kept:].detach()
    epilogue = layer.epilogue
    if epilogue.residual is not None:
        out = out + epilogue.residual
    if epilogue.residual_dropped is not None:
        dropped = dropped + epilogue.residual_dropped.detach()
    if epilogue.relu:
        out, dropped = out.relu(), dropped.relu()
    if epilogue.pool:
        out = functional.max_pool2d(out, *epilogue.pool)
    if kept == count:
        return out, None
    if epilogue.pool:
        dropped = functional.max_pool2d(dropped, *epilogue.pool)
    return out, dropped


def _convolved(layer: FusedLayer, count: int) -> Tensor:
    """The convolution of all input channels to the outputs that are made."""
    x, inputs, window = layer.x, layer.inputs, layer.window
    if inputs.dropped is not None:
        x = torch.cat([x, inputs.dropped.detach()], 1)
    if inputs.mask is not None:
        x = mask_channels(x, inputs.mask)
    columns = slice(x.shape[1]) if inputs.order is None else inputs.order[: x.shape[1]]
    rows = _made(layer, count)
    part = layer.weight[rows][:, columns].to(x.dtype)
    # Normalisation takes a bias out again; what it rounded away would stay.
    added = layer.bias is not None and layer.norm.weight is None
    bias = layer.bias[rows].to(x.dtype) if layer.bias is not None and added else None
    y = functional.conv2d(x, part, bias, window.stride, window.padding, window.dilation)
    return y.contiguous(memory_format=layout_of(x))


def _normalised(layer: FusedLayer, y: Tensor, count: int) -> Tensor:
    norm, rows = layer.norm, _made(layer, count)
    if norm.weight is None or norm.bias is None:
        return y
    wide = torch.promote_types(_wide(y), torch.float32)
    scale, shift = norm.weight[rows].to(wide), norm.bias[rows].to(wide)
    found = functional.batch_norm(
        y.to(_wide(y)), None, None, scale, shift, training=True, eps=norm.eps
    )
    return found.to(y.dtype)


def _made(layer: FusedLayer, count: int) -> slice | Tensor:
    """Which of the weight's outputs are made."""
    return slice(count) if layer.outputs.order is None else layer.outputs.order[:count]
