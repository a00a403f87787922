"""How long a stage trains, and how fast: epochs, batches, learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

# Share of the peak rate that is left after a share of the fall.
DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda after: 0.5 * (1 + math.cos(math.pi * after)),
    "linear": lambda after: 1 - after,
}


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast.

    Fields:
        epochs: passes over the training images.
        batch_size: images per step, over all processes.
        warmup: share of all steps over which the learning rate rises from zero.
        seed: decides order and augmentation.
        steps_per_epoch: fewer steps than a whole pass, if given.
        decay: how the learning rate falls to zero after that, one of DECAYS.
    """

    epochs: int
    batch_size: int = 128
    warmup: float = 0.1
    seed: int = 0
    steps_per_epoch: int | None = None
    decay: str = "cosine"

    @classmethod
    def of_steps(
        cls,
        steps: int,
        images: int,
        batch_size: int,
        *,
        rows: int = 1,
        warmup: float = 0.1,
        seed: int = 0,
    ) -> LoopConfig:
        """A number of steps, whatever the number of images.

        Args:
            steps: rounded up to whole rows.
            images: in the training split.
            batch_size: no more than there are images is taken.
            rows: epochs, each with a row of metrics. They are more where one pass over the
                images has fewer steps.
        """
        batch_size = min(batch_size, images)
        rows_needed = math.ceil(steps / (images // batch_size))
        rows = max(min(rows, steps), rows_needed)
        return cls(rows, batch_size, warmup, seed, math.ceil(steps / rows))


def learning_rate_factor(progress: float, warmup: float, decay: str = "cosine") -> float:
    """One-cycle shape over progress in [0, 1]: a linear rise over `warmup`, then a fall to zero."""
    if progress < warmup:
        return progress / warmup
    after = (progress - warmup) / max(1e-9, 1 - warmup)
    return DECAYS[decay](after)
