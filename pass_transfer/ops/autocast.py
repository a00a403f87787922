"""What autocast makes of the operators' arguments, compiled or not."""

from __future__ import annotations

import torch
from torch import Tensor


def as_autocast(x: Tensor, *others: Tensor | None) -> list[Tensor | None]:
    """The tensors in the dtype that autocast gives a convolution, where it is on. Masks stay as they are."""
    if not torch.is_autocast_enabled(x.device.type) or x.dtype == torch.float64:
        return [x, *others]
    dtype = torch.get_autocast_dtype(x.device.type)
    return [None if t is None else t.to(dtype) for t in (x, *others)]
