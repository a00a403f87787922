"""Operators of the search: global top-k selection, and layers under channel masks.

Each has a compiled kernel and a twin in plain torch (reference.py); `kernels` says which
one runs and why. All are differentiable, and a mask's gradient is the true one for kept
and dropped channels alike, unless another is asked for.

The search runs on `masked_conv_norm_act`. `masked_conv2d` and `masked_linear` are public
building blocks for what it does not cover: layers without BatchNorm, such as VGG's,
networks that have no fused steps, and gradients to the weights.
"""

from pass_transfer.ops import kernels, reference
from pass_transfer.ops.arguments import (
    GRADIENTS,
    Epilogue,
    Inputs,
    Masks,
    Norm,
    Outputs,
    TopK,
    Window,
)
from pass_transfer.ops.layers import (
    mask_channels,
    masked_conv2d,
    masked_conv_norm_act,
    masked_linear,
)
from pass_transfer.ops.ranking import ranking
from pass_transfer.ops.selection import global_topk_mask
from pass_transfer.ops.weight_selection import global_topk_weights

__all__ = [
    "GRADIENTS",
    "Epilogue",
    "Inputs",
    "Masks",
    "Norm",
    "Outputs",
    "TopK",
    "Window",
    "global_topk_mask",
    "global_topk_weights",
    "kernels",
    "mask_channels",
    "masked_conv2d",
    "masked_conv_norm_act",
    "masked_linear",
    "ranking",
    "reference",
]
