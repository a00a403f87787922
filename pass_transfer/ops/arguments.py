"""What the operators are given, in parts that belong together.

`fields()` has each part under the names of the registered operators' schemas
(csrc/library.cpp); errors use these names too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pass_transfer.ops.autocast import autocast_dtype

GRADIENTS = ("exact", "kept", "margin")

Sides = int | tuple[int, ...] | list[int]


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


@dataclass(frozen=True)
class Window:
    """Where a convolution looks: one integer for both sides, or (height, width).

    Fields:
        stride, dilation: at least 1.
        padding: zeros around the image.
        groups: of channels; a fused layer has one.
    """

    stride: Sides = 1
    padding: Sides = 0
    dilation: Sides = 1
    groups: int = 1

    def fields(self) -> dict[str, Any]:
        """By the schemas' names, but for the groups."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}


@dataclass(frozen=True)
class Masks:
    """The masks of a layer that is not fused.

    Fields:
        in_mask, out_mask: (I,) and (O,), zeros and ones in a floating dtype; None: all ones.
        gradient: which elements of the masks get their gradient: "exact" all of them,
            "kept" those that are one, "margin" also those where in_margin (I,) and
            out_margin (O,) are one (Top-KAST, arXiv 2106.03517, keeps such a set).
        support: (O,), ones where the gradient to the output can be other than zero, if
            that is known: where a later mask drops the others.
    """

    in_mask: Tensor | None = None
    out_mask: Tensor | None = None
    gradient: str = "exact"
    support: Tensor | None = None
    in_margin: Tensor | None = None
    out_margin: Tensor | None = None

    def tensors(self) -> dict[str, Tensor | None]:
        """The masks by the schemas' names."""
        return {
            "in_mask": self.in_mask,
            "out_mask": self.out_mask,
            "support": self.support,
            "in_margin": self.in_margin,
            "out_margin": self.out_margin,
        }


@dataclass(frozen=True)
class Inputs:
    """A fused layer's input channels beside x, which holds the kept ones.

    Fields:
        dropped: (B, s, H, W), the channels that follow in the order. The output does not
            depend on them, but the mask's gradient does, which is why they are there.
        mask: (i + s,) in the order of the channels, zero for dropped ones; None: all ones.
        order: (>= i + s,) int64, which of the weight's inputs they are, each once; None: as
            they are.
    """

    dropped: Tensor | None = None
    mask: Tensor | None = None
    order: Tensor | None = None

    def tensors(self) -> dict[str, Tensor | None]:
        """By the schema's names."""
        return {"dropped": self.dropped, "in_mask": self.mask, "in_order": self.order}


@dataclass(frozen=True)
class Outputs:
    """A fused layer's output channels.

    Fields:
        order: (>= count,) int64, which of the weight's outputs are made, each once; None: as
            they are.
        kept: how many go on; all that are made, if it is not given.
        count: how many are made; those that are kept, or all, if it is not given.
    """

    order: Tensor | None = None
    kept: int | None = None
    count: int | None = None

    def numbers(self, width: int) -> tuple[int, int]:
        """How many of a weight's outputs are kept, and how many are made."""
        all_kept = width if self.kept is None else self.kept
        count = all_kept if self.count is None else self.count
        return count if self.kept is None else self.kept, count


@dataclass(frozen=True)
class Norm:
    """Batch normalisation by the batch's own statistics; none where weight and bias are None.

    Fields:
        weight, bias: (O,).
        eps: added to the variance.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5

    def tensors(self) -> dict[str, Tensor | None]:
        """By the schema's names."""
        return {"norm_weight": self.weight, "norm_bias": self.bias}


@dataclass(frozen=True)
class Epilogue:
    """What follows the normalisation in a fused layer.

    Fields:
        residual, residual_dropped: added before ReLU, in the shape of the kept outputs and of
            the dropped ones.
        relu: whether there is one.
        pool: kernel, stride and padding of a square maximum pooling at the end; empty for
            none.
    """

    residual: Tensor | None = None
    residual_dropped: Tensor | None = None
    relu: bool = True
    pool: tuple[int, ...] | list[int] = ()

    def tensors(self) -> dict[str, Tensor | None]:
        """By the schema's names."""
        return {"residual": self.residual, "residual_dropped": self.residual_dropped}


@dataclass(frozen=True)
class MaskedLayer:
    """All that masked_conv2d or masked_linear is given; the window has pairs."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    masks: Masks
    window: Window

    def tensors(self) -> dict[str, Tensor | None]:
        """By the schemas' names."""
        return {"x": self.x, "weight": self.weight, "bias": self.bias, **self.masks.tensors()}

    def fields(self) -> dict[str, Any]:
        """The arguments that both operators have, by the schemas' names."""
        return {**self.tensors(), "gradient": self.masks.gradient}

    def in_autocast(self) -> MaskedLayer:
        """The same in the type that autocast computes in, where it is on."""
        dtype = autocast_dtype(self.x)
        if dtype is None:
            return self
        weight, bias = self.weight.to(dtype), _in(self.bias, dtype)
        return MaskedLayer(self.x.to(dtype), weight, bias, self.masks, self.window)


@dataclass(frozen=True)
class FusedLayer:
    """All that masked_conv_norm_act is given; the window has pairs."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    inputs: Inputs
    outputs: Outputs
    window: Window
    norm: Norm
    epilogue: Epilogue

    def tensors(self) -> dict[str, Tensor | None]:
        """By the schema's names."""
        return {
            "x": self.x,
            "weight": self.weight,
            "bias": self.bias,
            **self.inputs.tensors(),
            **self.norm.tensors(),
            **self.epilogue.tensors(),
            "out_order": self.outputs.order,
        }

    def fields(self) -> dict[str, Any]:
        """The operator's arguments by the schema's names."""
        kept, count = self.outputs.numbers(len(self.weight))
        return {
            **self.tensors(),
            **self.window.fields(),
            "eps": self.norm.eps,
            "out_kept": kept,
            "out_count": count,
            "relu": self.epilogue.relu,
            "pool": self.epilogue.pool,
        }

    def in_autocast(self) -> FusedLayer:
        """The same in the type that autocast computes in; weights are rounded later."""
        dtype = autocast_dtype(self.x)
        if dtype is None:
            return self
        inputs = Inputs(_in(self.inputs.dropped, dtype), self.inputs.mask, self.inputs.order)
        epilogue = Epilogue(
            _in(self.epilogue.residual, dtype),
            _in(self.epilogue.residual_dropped, dtype),
            self.epilogue.relu,
            self.epilogue.pool,
        )
        return FusedLayer(
            self.x.to(dtype),
            self.weight,
            _in(self.bias, dtype),
            inputs,
            self.outputs,
            self.window,
            self.norm,
            epilogue,
        )


def _in(t: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if t is None else t.to(dtype)
