"""The prompt encoder: what each step of the recurrence hears of a frame."""

from __future__ import annotations

import torch
from torch import nn

SIDE = 64  # every prompt is read at this size
STRIDE = 4  # of each of three layers: 64 -> 16 -> 4 -> 1
PLACES = SIDE // STRIDE**2  # a side of the grid that the last layer reads
SLOPE = 0.2  # of the activation below zero; with none, a frame of zeros could not be tuned
# Spread of a random image whose codes have a spread of 1; of a frame around it, about 0.03.
CODE_SCALE = 0.016


class PromptEncoder(nn.Module):
    """Three convolutions (arXiv 2407.17412, section 3) without bias.

    Without bias a frame of zeros says nothing, and the codes grow with the frame. The
    last convolution spans what is left of the image, so that where a pattern is matters;
    an average over positions makes any two prompts look alike.

    Every step of the recurrence weighs the places of the frame its own way before the
    last convolution. One code for all steps has as many degrees of freedom as it has
    numbers; so each layer of the backbone can be spoken to apart from the others.
    """

    def __init__(self, channels: tuple[int, int], hidden: int, steps: int):
        super().__init__()
        first, second = channels
        self.layers = nn.Sequential(
            nn.Conv2d(3, first, STRIDE, STRIDE, bias=False),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(first, second, STRIDE, STRIDE, bias=False),
            nn.LeakyReLU(SLOPE),
        )
        self.last = nn.Conv2d(second, hidden, PLACES, bias=False)
        self.places = nn.Parameter(torch.randn(steps, 1, PLACES, PLACES))
        with torch.no_grad():
            self.last.weight /= self(CODE_SCALE * torch.randn(3, SIDE, SIDE)).std()

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        """Codes (1 + steps, hidden) of a frame (3, S, S): the whole frame's, then each step's."""
        image = (
            nn.functional.adaptive_avg_pool2d(frame[None], SIDE)
            if frame.shape[-1] != SIDE
            else frame[None]
        )
        grid = self.layers(image)
        return self.last(torch.cat([grid, grid * self.places])).flatten(1)
