"""The image that a network is run on when its sizes are asked for, and how large it may be."""

from __future__ import annotations

import torch
from torch import nn


def blank_image(network: nn.Module, image_size: int) -> torch.Tensor:
    """A black image (1, 3, S, S) on a network's device, in its dtype."""
    parameter = next(network.parameters())
    size = (1, 3, image_size, image_size)
    return torch.zeros(size, device=parameter.device, dtype=parameter.dtype)


def usual_sizes(network: nn.Module) -> list[int]:
    """Sides of images to try where nobody has said one: its own, or a small and a usual one."""
    for owner in (network, getattr(network, "patch_embed", None)):
        for name in ("image_size", "img_size"):
            size = getattr(owner, name, None)
            size = size[0] if isinstance(size, tuple) and size else size
            if isinstance(size, int):
                return [size]
    return [64, 224]
