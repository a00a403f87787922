"""Where a tensor with channels in dimension 1 has them in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def layout_of(x: Tensor) -> torch.memory_format:
    """channels_last where channels lie together; else contiguous_format.

    With one channel or one position, what is both counts as contiguous_format.
    """
    if x.ndim != 4 or x.is_contiguous():
        return torch.contiguous_format
    rows = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if rows else torch.contiguous_format
