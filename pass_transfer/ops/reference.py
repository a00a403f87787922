"""The operators in plain torch: what a kernel of the same signature has to compute.

They run everywhere, are differentiable as they stand, and are what the kernels are tested
against. Docstrings are those of the public functions (ops/__init__.py).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pass_transfer.ops import checks
from pass_transfer.ops.autocast import as_autocast
from pass_transfer.ops.layout import layout_of


class _StraightThrough(torch.autograd.Function):
    """A mask whose gradient goes to the scores as it is."""

    @staticmethod
    def forward(ctx, scores: Tensor, mask: Tensor) -> Tensor:
        return mask.to(scores.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None


def select(scores: Tensor, offsets: Tensor, k: int, floors: Tensor) -> Tensor:
    """Which of the scores (n,) are kept, bool: every layer's floor, then the best of what is left; the lower index among equals."""
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
    order = (
        torch.cat(
            [
                torch.cat([layer.nonzero().flatten(), (~layer).nonzero().flatten()])
                for layer in layers
            ]
        )
        if layers
        else offsets[:0]
    )
    threshold = scores.detach()[chosen].min() if k else scores.new_tensor(float("inf"))
    return _StraightThrough.apply(scores, chosen), threshold, kept, order


class _MaskChannels(torch.autograd.Function):
    """x times a mask, whose gradient is a sum over positions in a wider type: what is left where it cancels is not its rounding."""

    @staticmethod
    def forward(ctx, x: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(x, mask)
        return x * _over_positions(mask.to(x.dtype), x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, mask = ctx.saved_tensors
        to_x = gradient * _over_positions(mask.to(x.dtype), x) if ctx.needs_input_grad[0] else None
        to_mask = None
        if ctx.needs_input_grad[1]:
            products, positions = gradient * x, [*range(2 - mask.ndim), *range(2, x.ndim)]
            to_mask = (
                products.sum(positions, dtype=torch.promote_types(_wide(x), torch.float32))
                if positions
                else products
            ).to(mask.dtype)
        return to_x, to_mask


def _over_positions(mask: Tensor, x: Tensor) -> Tensor:
    """A mask (C,) or (B, C) in the shape that goes with x (B, C, ...)."""
    return mask.view(*([1] * (2 - mask.ndim)), *mask.shape, *[1] * (x.ndim - 2))


def _wide(x: Tensor) -> torch.dtype:
    """The type that sums over x are made in: float64 for float32, but on a GPU, which is slow at it."""
    return torch.float64 if x.dtype == torch.float32 and x.device.type == "cpu" else x.dtype


def mask_channels(x: Tensor, mask: Tensor) -> Tensor:
    """ops.mask_channels in plain torch."""
    checks.check_channels(x, mask)
    return _MaskChannels.apply(x, mask)


def _heard(mask: Tensor, gradient: str, margin: Tensor | None) -> Tensor:
    """The mask with its gradient taken from the channels that do not get one."""
    if gradient == "exact":
        return mask
    share = (
        mask.detach()
        if margin is None or gradient == "kept"
        else torch.maximum(mask.detach(), margin.to(mask.dtype))
    )
    return share * mask + (1 - share) * mask.detach()


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_mask: Tensor | None,
    out_mask: Tensor | None,
    stride,
    padding,
    dilation,
    groups: int,
    gradient: str,
    support: Tensor | None,
    in_margin: Tensor | None,
    out_margin: Tensor | None,
) -> Tensor:
    """ops.masked_conv2d in plain torch."""
    x, weight, bias = as_autocast(x, weight, bias)
    checks.check_images(x, weight)
    checks.check_groups(x, weight, groups)
    checks.check_window(x, weight, stride, padding, dilation)
    _check_masked(x, weight, bias, x.shape[1], in_mask, out_mask, support, in_margin, out_margin)
    if in_mask is not None:
        x = mask_channels(x, _heard(in_mask, gradient, in_margin))
    y = functional.conv2d(x, weight, bias, stride, padding, dilation, groups).contiguous(
        memory_format=layout_of(x)
    )
    return y if out_mask is None else mask_channels(y, _heard(out_mask, gradient, out_margin))


def masked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_mask: Tensor | None,
    out_mask: Tensor | None,
    gradient: str,
    support: Tensor | None,
    in_margin: Tensor | None,
    out_margin: Tensor | None,
) -> Tensor:
    """ops.masked_linear in plain torch."""
    x, weight, bias = as_autocast(x, weight, bias)
    checks.check_linear(x, weight)
    _check_masked(x, weight, bias, x.shape[-1], in_mask, out_mask, support, in_margin, out_margin)
    if in_mask is not None:
        x = x * _heard(in_mask, gradient, in_margin).to(x.dtype)
    y = functional.linear(x, weight, bias)
    return y if out_mask is None else y * _heard(out_mask, gradient, out_margin).to(y.dtype)


def _check_masked(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ins: int,
    in_mask: Tensor | None,
    out_mask: Tensor | None,
    support: Tensor | None,
    in_margin: Tensor | None,
    out_margin: Tensor | None,
) -> None:
    """Raises KernelError where a layer's dtypes, bias or masks do not fit."""
    checks.check_layer(x, weight, bias)
    checks.check_vectors(
        x,
        in_mask=(in_mask, ins),
        out_mask=(out_mask, len(weight)),
        support=(support, len(weight)),
        in_margin=(in_margin, ins),
        out_margin=(out_margin, len(weight)),
    )
    checks.check_binary(
        in_mask=in_mask,
        out_mask=out_mask,
        support=support,
        in_margin=in_margin,
        out_margin=out_margin,
    )


def masked_conv_norm_act(
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
    relu: bool,
    stride,
    padding,
    dilation,
    pool=(),
) -> tuple[Tensor, Tensor | None]:
    """ops.masked_conv_norm_act in plain torch."""
    x, bias, shadow, residual, residual_shadow = as_autocast(
        x, bias, shadow, residual, residual_shadow
    )
    checks.check_block(
        x,
        shadow,
        in_mask,
        in_order,
        weight,
        bias,
        norm_weight,
        norm_bias,
        eps,
        residual,
        residual_shadow,
        out_order,
        out_kept,
        out_count,
        stride,
        padding,
        dilation,
        pool,
    )
    if shadow is not None:
        x = torch.cat([x, shadow.detach()], 1)
    if in_mask is not None:
        x = mask_channels(x, in_mask)
    rows = slice(out_count) if out_order is None else out_order[:out_count]
    columns = slice(x.shape[1]) if in_order is None else in_order[: x.shape[1]]
    part, (offsets, scale, shift) = (
        weight[rows][:, columns].to(x.dtype),
        (None if t is None else t[rows] for t in (bias, norm_weight, norm_bias)),
    )
    # Normalisation takes a bias out again; what it rounded away would stay.
    y = functional.conv2d(
        x,
        part,
        offsets.to(x.dtype) if offsets is not None and scale is None else None,
        stride,
        padding,
        dilation,
    ).contiguous(memory_format=layout_of(x))
    if scale is not None:
        scale, shift = (t.to(torch.promote_types(_wide(y), torch.float32)) for t in (scale, shift))
        y = functional.batch_norm(
            y.to(_wide(y)), None, None, scale, shift, training=True, eps=eps
        ).to(y.dtype)
    kept, rest = y[:, :out_kept], y[:, out_kept:].detach()
    if residual is not None:
        kept = kept + residual
    if residual_shadow is not None:
        rest = rest + residual_shadow.detach()
    if relu:
        kept, rest = kept.relu(), rest.relu()
    rest = rest if out_kept < out_count else None
    return tuple(
        functional.max_pool2d(t, *pool) if pool and t is not None else t for t in (kept, rest)
    )
