"""Where a tensor with channels in dimension 1 has them in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def layout_of(x: Tensor) -> torch.memory_format:
    """channels_last where channels lie together and that is not also NCHW, as in one channel or position; else contiguous_format."""
    rows = (
        x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    )
    return torch.channels_last if rows else torch.contiguous_format
