"""Layers under channel masks, compiled or in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from pass_transfer.errors import KernelError
from pass_transfer.ops import reference
from pass_transfer.ops.arguments import (
    Epilogue,
    FusedLayer,
    Inputs,
    MaskedLayer,
    Masks,
    Norm,
    Outputs,
    Window,
)
from pass_transfer.ops.calls import (
    call,
    check_gradient,
    check_integer,
    check_pool,
    check_tensors,
    in_pairs,
)

UNMASKED = Masks()
STEP_BY_STEP = Window()
ALL_INPUTS = Inputs()
ALL_OUTPUTS = Outputs()
NO_NORM = Norm()
RELU = Epilogue()


def mask_channels(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, C, ...) times mask (C,), or (B, C) for a mask of each sample's own.

    The mask is bool or floating. Its gradient is <x_c, dL/dy_c>, also where it is zero.

    Raises:
        KernelError: shapes, dtypes or devices that do not fit; it names the argument.
    """
    shared = isinstance(mask, Tensor) and mask.ndim == 1 and mask.is_floating_point()
    module = None if shared else reference
    return call("mask_channels", {"x": x, "mask": mask}, x, mask, module=module)


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    masks: Masks = UNMASKED,
    window: Window = STEP_BY_STEP,
) -> Tensor:
    """out_mask * conv2d(in_mask * x, weight, bias), without dropped channels' arithmetic.

    Args:
        x: (B, I, H, W), NCHW or channels_last; float32, bfloat16 or float64.
        weight: (O, I / groups, kh, kw).
        bias: (O,).

    Returns:
        (B, O, H', W') in x's layout.

    Raises:
        KernelError: shapes, dtypes, devices or values that do not fit; it names the argument.
    """
    check_gradient(masks.gradient)
    layer = MaskedLayer(x, weight, bias, masks, in_pairs(window))
    return call("masked_conv2d", layer.tensors(), layer)


def masked_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, masks: Masks = UNMASKED
) -> Tensor:
    """out_mask * linear(in_mask * x, weight, bias) for x (..., I) and weight (O, I).

    Raises:
        KernelError: shapes, dtypes, devices or values that do not fit; it names the argument.
    """
    check_gradient(masks.gradient)
    layer = MaskedLayer(x, weight, bias, masks, STEP_BY_STEP)
    return call("masked_linear", layer.tensors(), layer)


def masked_conv_norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    inputs: Inputs = ALL_INPUTS,
    outputs: Outputs = ALL_OUTPUTS,
    window: Window = STEP_BY_STEP,
    norm: Norm = NO_NORM,
    epilogue: Epilogue = RELU,
) -> tuple[Tensor, Tensor | None]:
    """A convolution of kept channels with what follows it, fused.

    That is batch normalisation by the batch's statistics, a residual, ReLU and a maximum
    pooling. Channels come in an order: of a group's channels, those that are kept first.
    Only they are computed with, and get a gradient. Weights must be frozen.

    Args:
        x: (B, i, H, W), the first channels of the inputs' order.
        weight: (O, I, kh, kw), whole, in x's dtype, or in float32 with an x of 16 bits.
        bias: (O,).

    Returns:
        The kept outputs (B, kept, H', W'), and the dropped ones (B, count - kept, H', W') or
        None, which have no gradient.

    Raises:
        KernelError: shapes, dtypes, devices or values that do not fit; it names the argument.
    """
    check_tensors({"x": x, "weight": weight})
    kept, count = outputs.numbers(len(weight))
    check_integer("out_kept", kept)
    check_integer("out_count", count)
    if not isinstance(norm.eps, (int, float)):
        raise KernelError(f"eps is {norm.eps!r}; it must be a number")
    if window.groups != 1:
        raise KernelError(f"groups is {window.groups!r}; a fused layer has one")
    _check_frozen(weight=weight, bias=bias, norm_weight=norm.weight, norm_bias=norm.bias)
    pool = check_pool(epilogue.pool)
    layer = FusedLayer(
        x,
        weight,
        bias,
        inputs,
        Outputs(outputs.order, kept, count),
        in_pairs(window),
        norm,
        Epilogue(epilogue.residual, epilogue.residual_dropped, epilogue.relu, pool),
    )
    return call("masked_conv_norm_act", layer.tensors(), layer)


def _check_frozen(**parameters: Tensor | None) -> None:
    """Raises KernelError for a parameter that wants a gradient."""
    if not torch.is_grad_enabled():
        return
    for name, parameter in parameters.items():
        if isinstance(parameter, Tensor) and parameter.requires_grad:
            raise KernelError(
                f"{name} requires a gradient, which this operator does not compute; freeze it"
            )
