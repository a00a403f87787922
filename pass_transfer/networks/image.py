"""The image that a network is run on when its sizes are asked for."""

from __future__ import annotations

import torch
from torch import nn


def blank_image(network: nn.Module, image_size: int) -> torch.Tensor:
    """A black image (1, 3, S, S) on a network's device, in its dtype."""
    parameter = next(network.parameters())
    size = (1, 3, image_size, image_size)
    return torch.zeros(size, device=parameter.device, dtype=parameter.dtype)
