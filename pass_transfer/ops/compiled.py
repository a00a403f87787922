"""The compiled operators: importing this loads the extension, and gives its operators shapes for tracing and gradients.

Raises ImportError where the extension is missing, or was built with another PyTorch.
"""

from __future__ import annotations

import importlib
import importlib.machinery
from pathlib import Path

import torch
from torch import Tensor

from pass_transfer.errors import KernelError
from pass_transfer.ops.autocast import as_autocast
from pass_transfer.ops.checks import check_pool
from pass_transfer.ops.layout import layout_of

PACKAGE = Path(__file__).resolve().parent.parent


def _load():
    """Import pass_transfer._C; a module built with another torch is named as that, instead of crashing on a symbol."""
    if not any(
        (PACKAGE / f"_C{suffix}").exists() for suffix in importlib.machinery.EXTENSION_SUFFIXES
    ):
        raise ImportError("the extension is not built")
    built = PACKAGE / "_C.torch-version"
    if (
        built.exists()
        and (version := built.read_text(encoding="utf-8").strip()) != torch.__version__
    ):
        raise ImportError(
            f"the extension was built with torch {version}, this is {torch.__version__}; "
            "build it again: pip install --no-build-isolation --force-reinstall --no-deps pass-transfer"
        )
    return importlib.import_module("pass_transfer._C")


HAS_CUDA: bool = _load().cuda
_kernels = torch.ops.pass_transfer


def _fake(name: str):
    return torch.library.register_fake(f"pass_transfer::{name}")


def _differentiate(name: str, backward, setup_context) -> None:
    torch.library.register_autograd(f"pass_transfer::{name}", backward, setup_context=setup_context)


def _like(x: Tensor, *shape) -> Tensor:
    """An empty tensor in x's dtype and layout."""
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))


class _Once(torch.autograd.Function):
    """Gradients that cannot be differentiated again: the kernels have no second derivatives, and a silent zero would be wrong."""

    @staticmethod
    def forward(ctx, _, *gradients: Tensor):
        return tuple(g.view_as(g) for g in gradients)

    @staticmethod
    def backward(ctx, *_):
        raise KernelError(
            "the compiled operators have no second derivatives; PASS_TRANSFER_KERNELS=reference has"
        )


def _gradients(operator, *arguments) -> tuple[Tensor, ...]:
    """What a backward operator returns, refused when it is differentiated (create_graph)."""
    if not torch.is_grad_enabled():
        return operator(*arguments)
    with torch.no_grad():
        found = operator(*arguments)
    return _Once.apply(torch.ones((), requires_grad=True), *found)


def _sides(x: Tensor, weight: Tensor, stride, padding, dilation) -> list:
    return [
        (x.shape[2 + d] + 2 * padding[d] - dilation[d] * (weight.shape[2 + d] - 1) - 1) // stride[d]
        + 1
        for d in range(2)
    ]


def _sums(x: Tensor) -> torch.dtype:
    """The dtype that sums over x are kept in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# global_topk_mask


@_fake("global_topk_mask")
def _(scores, offsets, k, floors):
    return (
        torch.empty_like(scores),
        scores.new_empty(()),
        torch.empty_like(floors),
        offsets.new_empty(scores.shape),
    )


def _save_selection(ctx, inputs, output) -> None:
    ctx.set_materialize_grads(
        False
    )  # of outputs without a gradient, zeros would be made, and in full size
    ctx.mark_non_differentiable(*output[1:])


_differentiate("global_topk_mask", lambda ctx, mask, *_: (mask, None, None, None), _save_selection)


# mask_channels


@_fake("mask_channels")
def _(x, mask):
    return _like(x, *x.shape)


@_fake("mask_channels_backward")
def _(grad, x, mask):
    return _like(x, *x.shape), torch.empty_like(mask)


def _save_product(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _product_backward(ctx, grad):
    x, mask = ctx.saved_tensors
    if not ctx.needs_input_grad[1]:
        return _gradients(lambda *given: (_kernels.mask_channels(*given),), grad, mask)[0], None
    dx, dmask = _gradients(_kernels.mask_channels_backward, grad, x, mask)
    return dx if ctx.needs_input_grad[0] else None, dmask


_differentiate("mask_channels", _product_backward, _save_product)


# masked_conv2d


@_fake("masked_conv2d")
def _(
    x,
    weight,
    bias,
    in_mask,
    out_mask,
    stride,
    padding,
    dilation,
    groups,
    gradient,
    support,
    in_margin,
    out_margin,
):
    y = _like(x, x.shape[0], len(weight), *_sides(x, weight, stride, padding, dilation))
    return y, torch.empty_like(y) if out_mask is not None and gradient != "kept" else x.new_empty(0)


@_fake("masked_conv2d_backward")
def _(
    grad,
    x,
    weight,
    in_mask,
    out_mask,
    before,
    stride,
    padding,
    dilation,
    groups,
    gradient,
    support,
    in_margin,
    out_margin,
    needs,
):
    made = (
        lambda: _like(x, *x.shape),
        lambda: torch.empty_like(weight),
        lambda: x.new_empty(len(weight)),
        None if in_mask is None else lambda: torch.empty_like(in_mask),
        None if out_mask is None else lambda: torch.empty_like(out_mask),
    )
    return tuple(make() if need and make else x.new_empty(0) for need, make in zip(needs, made))


def _save_convolution(ctx, inputs, output) -> None:
    x, weight, _, in_mask, out_mask, *ctx.settings, support, in_margin, out_margin = inputs
    y, before = output
    ctx.save_for_backward(
        x,
        weight,
        in_mask,
        out_mask,
        y if ctx.settings[-1] == "kept" and out_mask is not None else before,
        support,
        in_margin,
        out_margin,
    )
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(before)


def _convolution_backward(ctx, grad, _):
    if grad is None:
        return (None,) * 13
    x, weight, in_mask, out_mask, before, *sets = ctx.saved_tensors
    needs = [bool(n) for n in ctx.needs_input_grad[:5]]
    found = _gradients(
        _kernels.masked_conv2d_backward,
        grad,
        x,
        weight,
        in_mask,
        out_mask,
        before,
        *ctx.settings,
        *sets,
        needs,
    )
    return *(g if need else None for g, need in zip(found, needs)), *[None] * 8


_differentiate("masked_conv2d", _convolution_backward, _save_convolution)


# masked_conv_norm_act


@_fake("masked_conv_norm_act")
def _(
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
    relu,
    stride,
    padding,
    dilation,
    pool,
):
    y = _like(x, x.shape[0], out_count, *_sides(x, weight, stride, padding, dilation))
    none, normed = x.new_empty(0), out_count if norm_weight is not None else 0
    affine = [
        x.new_empty(normed, dtype=kind)
        for kind in (_sums(x), torch.float64, torch.float64, _sums(x))
    ]  # mean, invstd, scale, shift
    sides = (
        [(side + 2 * pool[2] - pool[0]) // pool[1] + 1 for side in y.shape[2:]]
        if pool
        else y.shape[2:]
    )
    places = (
        _like(y, x.shape[0], out_kept, *sides).byte() if pool else x.new_empty(0, dtype=torch.uint8)
    )
    if norm_weight is None and not relu and residual is None and out_kept == out_count:
        return y, none, x.new_empty(0), *affine, places
    shadow_out = (
        _like(y, x.shape[0], out_count - out_kept, *sides) if out_kept < out_count else none
    )
    return (
        _like(y, x.shape[0], out_kept, *sides),
        shadow_out,
        y if norm_weight is not None else x.new_empty(0),
        *affine,
        places,
    )


@_fake("masked_conv_norm_act_backward")
def _(
    grad,
    x,
    shadow,
    in_mask,
    in_order,
    weight,
    a,
    y,
    mean,
    invstd,
    scale,
    shift,
    places,
    added,
    out_order,
    relu,
    stride,
    padding,
    dilation,
    pool,
    needs,
):
    shadows = shadow.shape[1] if shadow is not None and needs[1] else 0
    dx = (
        _like(x, x.shape[0], x.shape[1] + shadows, *x.shape[2:]).narrow(1, 0, x.shape[1])
        if needs[0]
        else x.new_empty(0)
    )
    dmask = (
        torch.empty_like(in_mask)
        if in_mask is not None and needs[1]
        else (x if in_mask is None else in_mask).new_empty(0)
    )
    return dx, dmask, _like(a, *a.shape) if needs[2] else x.new_empty(0)


def _save_block(ctx, inputs, output) -> None:
    (
        x,
        shadow,
        in_mask,
        in_order,
        weight,
        _,
        _,
        _,
        _,
        residual,
        _,
        out_order,
        _,
        _,
        *ctx.settings,
    ) = inputs
    a, shadow_out, y, *affine = output
    ctx.added = residual is not None
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(shadow_out, y, *affine)
    ctx.save_for_backward(x, shadow, in_mask, in_order, weight, a, y, *affine, out_order)


def _block_backward(ctx, grad, *_):
    if grad is None:
        return (None,) * 19
    needs = [ctx.needs_input_grad[0], ctx.needs_input_grad[2], ctx.needs_input_grad[9]]
    *saved, out_order = ctx.saved_tensors
    found = _gradients(
        _kernels.masked_conv_norm_act_backward,
        grad,
        *saved,
        ctx.added,
        out_order,
        *ctx.settings,
        needs,
    )
    dx, dmask, dresidual = (g if need else None for g, need in zip(found, needs))
    return dx, None, dmask, *[None] * 6, dresidual, *[None] * 9


_differentiate("masked_conv_norm_act", _block_backward, _save_block)


def global_topk_mask(
    scores: Tensor, offsets: Tensor, k: int, floors: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ops.global_topk_mask by the compiled kernel."""
    return _kernels.global_topk_mask(scores, offsets, k, floors)


def mask_channels(x: Tensor, mask: Tensor) -> Tensor:
    """ops.mask_channels by the compiled kernel."""
    return _kernels.mask_channels(x, mask)


def masked_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, *rest) -> Tensor:
    """ops.masked_conv2d by the compiled kernel."""
    return _kernels.masked_conv2d(*as_autocast(x, weight, bias), *rest)[0]


def masked_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *rest) -> Tensor:
    """ops.masked_linear by the compiled kernel."""
    return _kernels.masked_linear(*as_autocast(x, weight, bias), *rest)


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
    *rest,
) -> tuple[Tensor, Tensor | None]:
    """ops.masked_conv_norm_act by the compiled kernel."""
    x, bias, shadow, residual, residual_shadow = as_autocast(
        x, bias, shadow, residual, residual_shadow
    )  # weights are rounded while they are gathered
    *rest, pool = rest
    fused = pool if pool and x.is_cuda and norm_weight is not None and residual is None else []
    a, rest_of_a, *_ = _kernels.masked_conv_norm_act(
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
        *rest,
        fused,
    )
    rest_of_a = rest_of_a if rest_of_a.numel() or rest[1] < rest[2] else None
    if pool and not fused:
        check_pool(a.shape[2:], pool)
        a, rest_of_a = (
            None if t is None else torch.nn.functional.max_pool2d(t, *pool) for t in (a, rest_of_a)
        )
    return a, rest_of_a
