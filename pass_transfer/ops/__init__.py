"""Operators of the search: global top-k selection, and layers under channel masks.

Each has a compiled kernel and a twin in plain torch (reference.py); `kernels` says which
one runs and why. All are differentiable, and a mask's gradient is the true one for kept
and dropped channels alike, unless another is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from pass_transfer.errors import KernelError, MaskError, PassTransferError
from pass_transfer.ops import checks, kernels, reference
from pass_transfer.ops.ranking import ranking

__all__ = [
    "GRADIENTS",
    "TopK",
    "global_topk_mask",
    "kernels",
    "mask_channels",
    "masked_conv2d",
    "masked_conv_norm_act",
    "masked_linear",
    "ranking",
]

GRADIENTS = ("exact", "kept", "margin")
TENSORS = (
    "x",
    "mask",
    "weight",
    "bias",
    "in_mask",
    "out_mask",
    "support",
    "in_margin",
    "out_margin",
    "shadow",
    "in_order",
    "norm_weight",
    "norm_bias",
    "residual",
    "residual_shadow",
    "out_order",
    "scores",
    "offsets",
    "floors",
)


class TopK(NamedTuple):
    """What global_topk_mask returns.

    Fields:
        mask: (n,) ones and zeros in the scores' dtype, with a straight-through gradient.
        threshold: the lowest kept score, ().
        kept: ones of each layer, (layers,) int64.
        order: (n,) int64; layer by layer, its kept channels and then the others, each from
            the lowest to the highest, counted from the layer's start.
    """

    mask: Tensor
    threshold: Tensor
    kept: Tensor
    order: Tensor


def global_topk_mask(scores: Tensor, offsets: Tensor, k: int, floors: Tensor) -> TopK:
    """Keep the k highest scores over all layers, at least floors[l] of layer l.

    Args:
        scores: (n,), all layers' scores one after the other; finite.
        offsets: (layers + 1,) int64; layer l is scores[offsets[l]:offsets[l + 1]].
        k: number of ones, between the sum of floors and n.
        floors: (layers,) int64.

    Returns:
        TopK. d mask / d score is the identity, for every channel (arXiv 2407.17412,
        section 3). Ties go to the lower index, so the result does not depend on the device.

    Raises:
        MaskError: scores that are NaN or infinite, a k that cannot be met, or arguments that do not fit.
    """
    try:
        return TopK(
            *_call(
                "global_topk_mask",
                scores=scores,
                offsets=offsets,
                k=_integers(k=k)["k"],
                floors=floors,
            )
        )
    except KernelError as error:
        raise MaskError(str(error)) from None


def mask_channels(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, C, ...) times mask (C,), or (B, C) for a mask of each sample's own; bool or floating.

    The mask's gradient is <x_c, dL/dy_c>, also where the mask is zero.

    Raises:
        KernelError: shapes, dtypes or devices that do not fit; it names the argument.
    """
    shared = isinstance(mask, Tensor) and mask.ndim == 1 and mask.is_floating_point()
    return _call("mask_channels", None if shared else reference, x=x, mask=mask)


def masked_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    in_mask: Tensor | None = None,
    out_mask: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    gradient: str = "exact",
    support: Tensor | None = None,
    in_margin: Tensor | None = None,
    out_margin: Tensor | None = None,
) -> Tensor:
    """out_mask * conv2d(in_mask * x, weight, bias), without the arithmetic of dropped channels.

    Args:
        x: (B, I, H, W), NCHW or channels_last; float32, bfloat16 or float64.
        weight: (O, I / groups, kh, kw); bias: (O,).
        in_mask, out_mask: (I,) and (O,), zeros and ones in a floating dtype.
        gradient: which elements of the masks get their gradient: "exact" all of them,
            "kept" those that are one, "margin" also those where in_margin (I,) and
            out_margin (O,) are one (Top-KAST, arXiv 2106.03517, keeps such a set).
        support: (O,), ones where the gradient to the output can be other than zero, if
            that is known: where a later mask drops the others.

    Returns:
        (B, O, H', W') in x's layout.

    Raises:
        KernelError: shapes, dtypes, devices or values that do not fit; it names the argument.
    """
    if gradient not in GRADIENTS:
        raise KernelError(f"gradient is {gradient!r}; choose one of {', '.join(GRADIENTS)}")
    return _call(
        "masked_conv2d",
        x=x,
        weight=weight,
        bias=bias,
        in_mask=in_mask,
        out_mask=out_mask,
        **_pairs(stride=stride, padding=padding, dilation=dilation),
        **_integers(groups=groups),
        gradient=gradient,
        support=support,
        in_margin=in_margin,
        out_margin=out_margin,
    )


def masked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    in_mask: Tensor | None = None,
    out_mask: Tensor | None = None,
    gradient: str = "exact",
    support: Tensor | None = None,
    in_margin: Tensor | None = None,
    out_margin: Tensor | None = None,
) -> Tensor:
    """out_mask * linear(in_mask * x, weight, bias) for x (..., I) and weight (O, I); the rest as for masked_conv2d."""
    if gradient not in GRADIENTS:
        raise KernelError(f"gradient is {gradient!r}; choose one of {', '.join(GRADIENTS)}")
    return _call(
        "masked_linear",
        x=x,
        weight=weight,
        bias=bias,
        in_mask=in_mask,
        out_mask=out_mask,
        gradient=gradient,
        support=support,
        in_margin=in_margin,
        out_margin=out_margin,
    )


def masked_conv_norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    shadow: Tensor | None = None,
    in_mask: Tensor | None = None,
    in_order: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    residual_shadow: Tensor | None = None,
    out_order: Tensor | None = None,
    out_kept: int | None = None,
    out_count: int | None = None,
    relu: bool = True,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    pool: Sequence[int] = (),
) -> tuple[Tensor, Tensor | None]:
    """A convolution of kept channels, batch normalisation by the batch's statistics, a residual, ReLU and a maximum pooling in one.

    Channels come in an order: of a group's channels, those that are kept first. Only they
    are computed with, and get a gradient. `shadow` holds those that follow: the output does
    not depend on them, but in_mask's gradient does, which is why they are computed at all.

    Args:
        x: (B, i, H, W), the first channels of in_order.
        shadow: (B, s, H, W), those that follow in in_order; in_mask is zero there.
        weight: (O, I, kh, kw), whole, in x's dtype, or in float32 with an x of 16 bits;
            bias: (O,). Weights must be frozen.
        in_mask: (i + s,) in the order of the channels.
        in_order: (>= i + s,) int64, which of the weight's inputs they are, each once; None: as they are.
        norm_weight, norm_bias: (O,), or both None for no normalisation; eps: added to the variance.
        residual, residual_shadow: added before ReLU, in the shape of the results.
        out_order: (>= out_count,) int64, which of the weight's outputs are made, each once; None: as they are.
        out_kept, out_count: how many of them are kept, and made at all; all, if not given.
        pool: kernel, stride and padding of a square maximum pooling at the end; empty for none.

    Returns:
        The kept outputs (B, out_kept, H', W'), and the others (B, out_count - out_kept,
        H', W') or None, which have no gradient.

    Raises:
        KernelError: shapes, dtypes, devices or values that do not fit; it names the argument.
    """
    _check_tensors(x=x, weight=weight)
    out_count = (len(weight) if out_kept is None else out_kept) if out_count is None else out_count
    out_kept = out_count if out_kept is None else out_kept
    if not isinstance(eps, (int, float)):
        raise KernelError(f"eps is {eps!r}; it must be a number")
    if torch.is_grad_enabled():
        for name, parameter in (
            ("weight", weight),
            ("bias", bias),
            ("norm_weight", norm_weight),
            ("norm_bias", norm_bias),
        ):
            if isinstance(parameter, Tensor) and parameter.requires_grad:
                raise KernelError(
                    f"{name} requires a gradient, which this operator does not compute; freeze it"
                )
    return _call(
        "masked_conv_norm_act",
        x=x,
        shadow=shadow,
        in_mask=in_mask,
        in_order=in_order,
        weight=weight,
        bias=bias,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        eps=eps,
        residual=residual,
        residual_shadow=residual_shadow,
        out_order=out_order,
        **_integers(out_kept=out_kept, out_count=out_count),
        relu=relu,
        **_pairs(stride=stride, padding=padding, dilation=dilation),
        pool=_pooling(pool),
    )


def _pooling(pool: Sequence[int]) -> list[int]:
    values = list(pool) if isinstance(pool, (tuple, list)) else [pool]
    if values and (
        len(values) != 3
        or any(not isinstance(v, int) for v in values)
        or not 1 <= values[0] < 16
        or values[1] < 1
        or not 0 <= 2 * values[2] <= values[0]
    ):
        raise KernelError(
            f"pool is {pool!r}; it must be kernel (1 to 15), stride (1 or more) and padding (up to half of the kernel), or empty"
        )
    return values


def _call(name: str, module: ModuleType | None = None, **arguments):
    """An operator on the implementation for its first argument's device, or on `module`; arguments in the order of its signature."""
    _check_tensors(
        **{argument: value for argument, value in arguments.items() if argument in TENSORS}
    )
    (first, x), *rest = arguments.items()
    for argument, value in rest:
        if isinstance(value, Tensor) and value.device != x.device:
            raise KernelError(f"{argument} is on {value.device}, {first} on {x.device}")
    module = module or kernels.module(x)
    if (
        module is not reference
        and not torch.compiler.is_compiling()
        and any(
            isinstance(v, Tensor) and unpack_dual(v).tangent is not None for v in arguments.values()
        )
    ):
        raise KernelError(
            f"{name} has no forward-mode derivatives when it is compiled; {kernels.VARIABLE}=reference runs it in plain torch"
        )
    try:
        return getattr(module, name)(*arguments.values())
    except (ValueError, TypeError) as error:
        raise (
            error if isinstance(error, PassTransferError) else KernelError(_first_line(error))
        ) from None


def _check_tensors(**arguments: Tensor | None) -> None:
    """Raises KernelError for what is no dense tensor of a common dtype; None is one that is not given."""
    required = ("x", "weight", "mask", "scores", "offsets", "floors")
    for name, value in arguments.items():
        if value is None and name not in required:
            continue
        if not isinstance(value, Tensor):
            raise KernelError(f"{name} is {type(value).__name__}; it must be a tensor")
        if (
            value.layout != torch.strided
            or value.is_floating_point()
            and value.dtype not in checks.FLOATING
        ):
            raise KernelError(
                f"{name} is {value.dtype} in layout {value.layout}; it must be dense, of 16, 32 or 64 bits"
            )


def _integers(**values: int) -> dict[str, int]:
    for name, value in values.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, torch.SymInt))
            or not isinstance(value, torch.SymInt)
            and abs(value) >= 2**31
        ):
            raise KernelError(f"{name} is {value!r}; it must be an integer below 2**31")
    return values


def _pairs(**windows: int | Sequence[int]) -> dict[str, list[int]]:
    pairs = {}
    for name, value in windows.items():
        pair = list(value) if isinstance(value, (tuple, list)) else [value, value]
        least = 0 if name == "padding" else 1
        if len(pair) != 2 or any(not isinstance(v, int) or not least <= v < 2**31 for v in pair):
            raise KernelError(
                f"{name} is {value!r}; it must be one or two integers of at least {least}, below 2**31"
            )
        pairs[name] = pair
    return pairs


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
