"""The whole path from an image in [0, 1] to the task's logits.

prompt, clamp, normalise, backbone with a classifier of one row per class: what is
trained, what is deployed, and what is exported are this one module.
"""

from __future__ import annotations

import torch
from torch import nn


class Network(nn.Module):
    """RGB images in [0, 1] at the network's own size to logits.

    Args:
        backbone: normalised images (B, 3, S, S) to logits (B, classes).
        mean, std: RGB, applied after the prompt.
        prompt: an nn.Module on images in [0, 1], or None.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        backbone: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        prompt: nn.Module | None = None,
    ):
        super().__init__()
        self.backbone = backbone
        self.prompt = prompt
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor, use_prompt: bool = True) -> torch.Tensor:
        """Logits (B, classes) for images (B, 3, S, S) in [0, 1]; the prompt can be left out."""
        if self.prompt is not None and use_prompt:
            images = self.prompt(images)
        return self.backbone((images - self.mean) / self.std)
