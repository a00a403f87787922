"""The prompt encoder: a frame to an embedding that depends on its pattern, not on its strength."""

from __future__ import annotations

import torch
from torch import nn

SIDE = 64  # every prompt is read at this size
STRIDE = 4  # of each of three layers: 64 -> 16 -> 4 -> 1


class PromptEncoder(nn.Module):
    """Three convolutions (arXiv 2407.17412, section 3) without bias, then layer normalisation.

    Without bias the convolutions scale with their input, and the normalisation takes the
    scale out: the faint frame that tuning starts from is heard as well as a strong one.
    The last convolution spans what is left of the image, so that where a pattern is
    matters; an average over positions makes any two prompts look alike.
    """

    def __init__(self, channels: tuple[int, int], hidden: int):
        super().__init__()
        first, second = channels
        self.layers = nn.Sequential(
            nn.Conv2d(3, first, STRIDE, STRIDE, bias=False), nn.ReLU(),
            nn.Conv2d(first, second, STRIDE, STRIDE, bias=False), nn.ReLU(),
            nn.Conv2d(second, hidden, STRIDE, STRIDE, bias=False), nn.Flatten(),
        )

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        """Embedding (hidden,) of a frame (3, S, S): mean 0 and variance 1; all zeros for a frame of zeros."""
        image = nn.functional.adaptive_avg_pool2d(frame[None], SIDE) if frame.shape[-1] != SIDE else frame[None]
        code = self.layers(image)[0]
        code = code - code.mean()
        return code / code.square().mean().add(1e-16).sqrt()
