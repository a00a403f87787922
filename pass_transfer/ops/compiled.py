"""The compiled operators.

Importing this loads the extension, and gives its operators shapes for tracing and gradients.
It raises ImportError where the extension is missing, or was built with another PyTorch.
"""

from __future__ import annotations

import importlib
import importlib.machinery
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from pass_transfer.ops.arguments import FusedLayer, MaskedLayer
from pass_transfer.ops.checks import check_pool

PACKAGE = Path(__file__).resolve().parent.parent


def _load() -> ModuleType:
    """Import pass_transfer._C.

    A module built with another torch is named as that, instead of crashing on a symbol.
    """
    endings = importlib.machinery.EXTENSION_SUFFIXES
    if not any((PACKAGE / f"_C{ending}").exists() for ending in endings):
        raise ImportError("the extension is not built")
    note = PACKAGE / "_C.torch-version"
    built = note.read_text(encoding="utf-8").strip() if note.exists() else torch.__version__
    if built != torch.__version__:
        raise ImportError(
            f"the extension was built with torch {built}, this is {torch.__version__}; "
            "build it again: pip install --no-build-isolation --force-reinstall --no-deps "
            "pass-transfer"
        )
    extension = importlib.import_module("pass_transfer._C")
    importlib.import_module("pass_transfer.ops.shapes")
    importlib.import_module("pass_transfer.ops.gradients")
    return extension


HAS_CUDA: bool = _load().cuda
_kernels = torch.ops.pass_transfer


def global_topk_mask(
    scores: Tensor, offsets: Tensor, k: int, floors: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ops.global_topk_mask by the compiled kernel."""
    return _kernels.global_topk_mask(scores=scores, offsets=offsets, k=k, floors=floors)


def global_topk_weights(scores: Sequence[Tensor], k: int, magnitude: bool) -> list[Tensor]:
    """ops.global_topk_weights by the compiled kernel."""
    return _kernels.global_topk_weights(scores=scores, k=k, magnitude=magnitude)


def mask_channels(x: Tensor, mask: Tensor) -> Tensor:
    """ops.mask_channels by the compiled kernel."""
    return _kernels.mask_channels(x=x, mask=mask)


def masked_conv2d(layer: MaskedLayer) -> Tensor:
    """ops.masked_conv2d by the compiled kernel."""
    layer = layer.in_autocast()
    window = layer.window
    y, _ = _kernels.masked_conv2d(**layer.fields(), **window.fields(), groups=window.groups)
    return y


def masked_linear(layer: MaskedLayer) -> Tensor:
    """ops.masked_linear by the compiled kernel."""
    return _kernels.masked_linear(**layer.in_autocast().fields())


def masked_conv_norm_act(layer: FusedLayer) -> tuple[Tensor, Tensor | None]:
    """ops.masked_conv_norm_act by the compiled kernel."""
    layer = layer.in_autocast()
    fields, pool = layer.fields(), layer.epilogue.pool
    normed, added = layer.norm.weight is not None, layer.epilogue.residual is not None
    if not (layer.x.is_cuda and normed and not added):
        fields["pool"] = []
    out, dropped, *_ = _kernels.masked_conv_norm_act(**fields)
    some_dropped = fields["out_kept"] < fields["out_count"]
    if pool and not fields["pool"]:
        check_pool(out.shape[2:], pool)
        out = functional.max_pool2d(out, *pool)
        dropped = functional.max_pool2d(dropped, *pool) if some_dropped else dropped
    return out, dropped if some_dropped else None
