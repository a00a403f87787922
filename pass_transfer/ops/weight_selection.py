"""Which single weights are kept: the highest scores over all of a network's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pass_transfer.errors import KernelError, MaskError
from pass_transfer.ops.calls import call, check_integer


def global_topk_weights(scores: Sequence[Tensor], k: int, magnitude: bool = False) -> list[Tensor]:
    """Keep exactly k of all scores, the highest ones; nothing is sorted or copied.

    Args:
        scores: of any shapes, of one floating dtype, on one device; finite. Those that are
            contiguous are read where they are.
        k: number of ones, from 0 to the number of scores.
        magnitude: whether their absolute values are compared.

    Returns:
        A bool mask of each one's shape. Ties go to the lower index, counted through one tensor
        after the other, so the result does not depend on the device or the number of threads.

    Raises:
        MaskError: scores that are NaN or infinite, a k that cannot be met, or tensors that do
            not go together.
    """
    parts = list(scores)
    tensors = {f"scores[{number}]": part for number, part in enumerate(parts)}
    try:
        check_integer("k", k)
        with torch.no_grad():
            return list(call("global_topk_weights", tensors, parts, k, magnitude))
    except KernelError as error:
        raise MaskError(str(error)) from None
