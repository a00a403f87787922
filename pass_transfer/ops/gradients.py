"""Gradients of the compiled operators, registered with torch's autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pass_transfer.errors import KernelError
from pass_transfer.ops.schemas import ARGUMENTS, KERNELS, arguments_of, in_order, results_of

Gradients = tuple[Tensor | None, ...]


class _Once(torch.autograd.Function):
    """Gradients that cannot be differentiated again.

    The kernels have no second derivatives, and a silent zero would be wrong.
    """

    @staticmethod
    def forward(ctx: Any, _: Tensor, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(g.view_as(g) for g in gradients)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise KernelError(
            "the compiled operators have no second derivatives; PASS_TRANSFER_KERNELS=reference has"
        )


def _gradients(name: str, **arguments: Any) -> dict[str, Tensor]:
    """What a backward operator returns, refused when it is differentiated (create_graph)."""
    operator = getattr(KERNELS, name)
    if not torch.is_grad_enabled():
        return results_of(name, operator(**arguments))
    with torch.no_grad():
        found = operator(**arguments)
    return results_of(name, _Once.apply(torch.ones((), requires_grad=True), *found))


def _differentiate(name: str, backward: Callable, save: Callable) -> None:
    torch.library.register_autograd(f"pass_transfer::{name}", backward, setup_context=save)


def _save(ctx: Any, tensors: dict[str, Tensor | None], **settings: Any) -> None:
    """Keeps what the backward operator is given, under its arguments' names."""
    ctx.save_for_backward(*tensors.values())
    ctx.names, ctx.settings = tuple(tensors), settings


def _saved(ctx: Any) -> dict[str, Any]:
    return {**dict(zip(ctx.names, ctx.saved_tensors)), **ctx.settings}


def _wants(ctx: Any, name: str, arguments: Sequence[str]) -> dict[str, bool]:
    """Which of an operator's arguments want a gradient."""
    needs = dict(zip(ARGUMENTS[name], ctx.needs_input_grad))
    return {argument: bool(needs[argument]) for argument in arguments}


def _backward(ctx: Any, name: str, grad: Tensor | None, wants: dict[str, bool]) -> Gradients:
    """The gradients to those arguments that want one, by the operator's backward operator."""
    if grad is None:
        return in_order(name)
    needs = {f"needs_{argument}": wanted for argument, wanted in wants.items()}
    found = _gradients(f"{name}_backward", grad=grad, **_saved(ctx), **needs)
    named = {argument: found[f"grad_{argument}"] for argument in wants if wants[argument]}
    return in_order(name, **named)


# global_topk_mask


def _save_selection(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    # Of outputs without a gradient, zeros would be made, and in full size.
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])


def _selection_backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> Gradients:
    return in_order("global_topk_mask", scores=grad)


_differentiate("global_topk_mask", _selection_backward, _save_selection)


# mask_channels


def _save_product(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _product_backward(ctx: Any, grad: Tensor) -> Gradients:
    given = arguments_of("mask_channels", ctx.saved_tensors)
    wants = _wants(ctx, "mask_channels", ("x", "mask"))
    if not wants["mask"]:
        return in_order("mask_channels", x=_masked_again(grad, given.mask))
    found = _gradients("mask_channels_backward", grad=grad, x=given.x, mask=given.mask)
    to_x = found["grad_x"] if wants["x"] else None
    return in_order("mask_channels", x=to_x, mask=found["grad_mask"])


def _masked_again(grad: Tensor, mask: Tensor) -> Tensor:
    """grad * mask; as for all gradients here, not to be differentiated again."""
    if not torch.is_grad_enabled():
        return KERNELS.mask_channels(x=grad, mask=mask)
    with torch.no_grad():
        found = KERNELS.mask_channels(x=grad, mask=mask)
    return _Once.apply(torch.ones((), requires_grad=True), found)[0]


_differentiate("mask_channels", _product_backward, _save_product)


# masked_conv2d


def _save_convolution(ctx: Any, inputs: Sequence[Any], output: tuple[Tensor, Tensor]) -> None:
    given, (y, before) = arguments_of("masked_conv2d", inputs), output
    unmasked = y if given.gradient == "kept" and given.out_mask is not None else before
    tensors = {
        "x": given.x,
        "weight": given.weight,
        "in_mask": given.in_mask,
        "out_mask": given.out_mask,
        "before": unmasked,
        "support": given.support,
        "in_margin": given.in_margin,
        "out_margin": given.out_margin,
    }
    window = {"stride": given.stride, "padding": given.padding, "dilation": given.dilation}
    _save(ctx, tensors, **window, groups=given.groups, gradient=given.gradient)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(before)


def _convolution_backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> Gradients:
    arguments = ("x", "weight", "bias", "in_mask", "out_mask")
    wants = _wants(ctx, "masked_conv2d", arguments)
    return _backward(ctx, "masked_conv2d", grad, wants)


_differentiate("masked_conv2d", _convolution_backward, _save_convolution)


# masked_conv_norm_act


def _save_fused(ctx: Any, inputs: Sequence[Any], output: Sequence[Tensor]) -> None:
    given = arguments_of("masked_conv_norm_act", inputs)
    results = results_of("masked_conv_norm_act", output)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*[t for name, t in results.items() if name != "out"])
    results.pop("out_dropped")
    tensors = {
        "x": given.x,
        "dropped": given.dropped,
        "in_mask": given.in_mask,
        "in_order": given.in_order,
        "weight": given.weight,
        "out_order": given.out_order,
        **results,
    }
    window = {"stride": given.stride, "padding": given.padding, "dilation": given.dilation}
    added = given.residual is not None
    _save(ctx, tensors, **window, added=added, relu=given.relu, pool=given.pool)


def _fused_backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> Gradients:
    wants = _wants(ctx, "masked_conv_norm_act", ("x", "in_mask", "residual"))
    return _backward(ctx, "masked_conv_norm_act", grad, wants)


_differentiate("masked_conv_norm_act", _fused_backward, _save_fused)
