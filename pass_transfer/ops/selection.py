"""Which channels are kept: the highest scores over all layers, with a floor in each."""

from __future__ import annotations

from torch import Tensor

from pass_transfer.errors import KernelError, MaskError
from pass_transfer.ops.arguments import TopK
from pass_transfer.ops.calls import call, check_integer


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
        MaskError: scores that are NaN or infinite, a k that cannot be met, or arguments that
            do not fit.
    """
    tensors = {"scores": scores, "offsets": offsets, "floors": floors}
    try:
        check_integer("k", k)
        return TopK(*call("global_topk_mask", tensors, scores, offsets, k, floors))
    except KernelError as error:
        raise MaskError(str(error)) from None
