"""Float64 on devices that may have none."""

from __future__ import annotations

import torch


def to_float64(values: torch.Tensor) -> torch.Tensor:
    """The values in float64; on the CPU where they lie on an Apple GPU, which has no such numbers."""
    return (values.cpu() if values.device.type == "mps" else values).double()
