"""The kernels' Python face: global top-k selection and masked layers, in plain torch.

Each function states what a kernel of the same signature has to compute; all of them are
differentiable, and a mask's gradient is the true one for kept and dropped channels alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pass_transfer.errors import MaskError


class _GlobalTopKMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores: Tensor, offsets: Tensor, k: int, floors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mask = _select(scores, offsets, k, floors)
        kept = torch.stack([mask[a:b].sum() for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist())])
        threshold = scores[mask].min() if k else scores.new_tensor(float("inf"))
        ctx.mark_non_differentiable(threshold, kept)
        return mask.to(scores.dtype), threshold, kept

    @staticmethod
    def backward(ctx, mask_gradient, *_):
        return mask_gradient, None, None, None


def global_topk_mask(scores: Tensor, offsets: Tensor, k: int, floors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the k highest scores over all layers, at least floors[l] of layer l.

    Args:
        scores: (n,), all layers' scores one after the other; finite.
        offsets: (layers + 1,) int64; layer l is scores[offsets[l]:offsets[l + 1]].
        k: number of ones, between the sum of floors and n.
        floors: (layers,) int64.

    Returns:
        mask (n,) of ones and zeros in the scores' dtype, with a straight-through
        gradient: d mask / d score is the identity, for every channel (arXiv 2407.17412,
        section 3); the lowest kept score (); and the ones in each layer (layers,).
        Ties go to the lower index, so the result does not depend on the device.

    Raises:
        MaskError: scores that are NaN or infinite, or a k that cannot be met.
    """
    if scores.ndim != 1 or offsets[-1] != len(scores) or len(floors) != len(offsets) - 1:
        raise MaskError(f"scores {tuple(scores.shape)}, offsets ending at {int(offsets[-1])} and {len(floors)} floors do not belong together")
    if not bool(torch.isfinite(scores).all()):
        raise MaskError("channel scores hold NaN or infinite values")
    if not int(floors.sum()) <= k <= len(scores):
        raise MaskError(f"cannot keep {k} of {len(scores)} channels with floors that sum to {int(floors.sum())}")
    return _GlobalTopKMask.apply(scores, offsets, k, floors)


def _select(scores: Tensor, offsets: Tensor, k: int, floors: Tensor) -> Tensor:
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for layer, (start, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist())):
        order = torch.sort(scores[start:end], descending=True, stable=True).indices
        mask[start + order[: int(floors[layer])]] = True
    left = k - int(mask.sum())
    order = torch.sort(scores.detach().masked_fill(mask, float("-inf")), descending=True, stable=True).indices
    mask[order[:left]] = True
    return mask


def ranking(scores: Tensor, offsets: Tensor, floors: Tensor) -> Tensor:
    """All channels in the order in which a growing k takes them in, (n,) int64.

    The floors come first. For every k, the first k are the ones of global_topk_mask, so
    a smaller budget's channels are a subset of a larger one's.
    """
    first = _select(scores, offsets, int(floors.sum()), floors)
    order = torch.sort(scores, descending=True, stable=True).indices
    return torch.cat([order[first[order]], order[~first[order]]])


def mask_channels(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, C, ...) times mask (C,), or (B, C) for a mask of each sample's own.

    The mask's gradient is <x_c, dL/dy_c>, also where the mask is zero.
    """
    return x * mask.to(x.dtype).view(*([1] * (2 - mask.ndim)), *mask.shape, *[1] * (x.ndim - 2))
