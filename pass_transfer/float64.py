"""Float64 on devices that may have none."""

from __future__ import annotations

import torch


def to_float64(values: torch.Tensor) -> torch.Tensor:
    """The values in float64.

    Values on an Apple GPU, which has no such numbers, move to the CPU.
    """
    if values.device.type == "mps":
        values = values.cpu()
    return values.double()
