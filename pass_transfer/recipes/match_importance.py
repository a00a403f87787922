"""Brings a prompt, as condition, to the scores that a task's own images ask for.

Only the prompt moves: what the hypernetwork can say of a task is the space it learned
from its source tasks, and the task's noisy importance is projected into it.
"""

from __future__ import annotations

from typing import Sequence

import torch

from pass_transfer.hypernet import Hypernet
from pass_transfer.progress import say
from pass_transfer.prompts import Prompt
from pass_transfer.recipes.masked_loss import condition_scores

LEARNING_RATE = 1e-3  # of Adam, in brightness; a frame starts with a spread of 0.01


def match_importance(hypernet: Hypernet, prompt: Prompt, target: torch.Tensor, steps: int, starts: Sequence[Prompt] = ()) -> float:
    """Tune a prompt in place until its scores are as near to a target as the hypernetwork can say.

    Args:
        target: scores (total,), standardised inside each group.
        starts: prompts to start from, the one nearest to the target is taken; without
            any, the prompt itself.

    Returns:
        The mean squared error that is left.
    """
    target = target.to(hypernet.prior)

    def error(frame: torch.Tensor) -> torch.Tensor:
        return (condition_scores(hypernet, frame) - target).square().mean()

    with torch.no_grad():
        errors = [error(start.frame().to(target.device)).item() for start in starts]
        if errors:
            prompt.load_state_dict(starts[errors.index(min(errors))].state_dict())
        before = error(prompt.frame()).item()
    optimizer = torch.optim.Adam(prompt.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        error(prompt.frame()).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        after = error(prompt.frame()).item()
    say(f"prompt: scores against what the task's images ask for: error {errors[0] if errors else before:.3f} with the source's prompt, "
        f"{before:.3f} with the nearest source task's, {after:.3f} tuned")
    return after
