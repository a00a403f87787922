"""What one stage of training does in a step; loop.py does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import nn

from pass_transfer.training.processes import WHOLE, Part


class Stage(ABC):
    """One stage of training. `modules` and `optimizers` hold all the state it has.

    Of several processes, each has a `part` of every batch. Gradients are averaged before an
    optimizer steps, but where backward has done so (`joined`).
    """

    name: str
    part: Part = WHOLE
    joined: bool = False
    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]

    @abstractmethod
    def step(
        self, pixels: torch.Tensor, labels: torch.Tensor, draw: torch.Generator, number: int
    ) -> dict[str, float]:
        """Forward, backward and optimizer step.

        Args:
            pixels: uint8 images (B, 3, S, S).
            labels: class numbers (B,).
            draw: the step's own source of randomness.
            number: the step's place in the epoch.

        Returns:
            Metrics with at least "loss".
        """

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Metrics on held-out images after an epoch; "top1" selects the best epoch, if given."""

    def start_epoch(self, epoch: int, step: int) -> None:
        """Called before an epoch's first step (step 0), and before continuing at a later one."""
        return

    def order(self, epoch: int, steps: int, batch_size: int) -> list[torch.Tensor] | None:
        """Positions of each step's images in an epoch, where a stage chooses them itself."""
        return None
