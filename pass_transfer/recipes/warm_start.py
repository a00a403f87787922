"""Teaches a hypernetwork, before its search, which channels each source task needs.

What a channel is worth to a task is measured once for each source task (first-order
Taylor importance); the hypernetwork then learns to say it from the task's prompt. This
takes seconds, since no image goes through the backbone, and it is what makes the prompt
matter: between the tasks, blends of embeddings are taught the blend of what the tasks
need, so that a new task's prompt has a meaningful space to move in.
"""

from __future__ import annotations

from typing import Sequence

import torch

from pass_transfer.hypernet import Hypernet, standardise
from pass_transfer.progress import progress_bar
from pass_transfer.prompts import Prompt
from pass_transfer.training.batches import generator

NOISE = 0.5  # of a blended embedding, per element: what no task varies in has to be ignored
LEARNING_RATE = 3e-3
LOG_EVERY = 100


def targets_of(hypernet: Hypernet, importance: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Scores to be learned, (tasks, total): each task's standardised importance blended with the prior (HypernetConfig.importance)."""
    share, prior, groups = hypernet.config.importance, hypernet.prior.cpu(), hypernet.groups
    blended = [share * groups.join(standardise(scores)) + (1 - share) * prior for scores in importance]
    return torch.stack([groups.join(standardise(groups.split(row))) for row in blended])


def warm_start(hypernet: Hypernet, prompts: Sequence[Prompt], targets: torch.Tensor, steps: int, seed: int = 0) -> list[dict[str, float]]:
    """Train a hypernetwork in place to give each prompt its task's scores.

    Args:
        prompts: one for each task; they stay as they are.
        targets: (tasks, total).
        steps: AdamW steps on one blend of tasks each.

    Returns:
        The mean squared error every LOG_EVERY steps.
    """
    optimizer = torch.optim.AdamW(hypernet.parameters(), LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    targets = targets.to(hypernet.prior.device)
    rows, errors = [], 0.0
    with progress_bar("warm start", steps, "steps") as bar:
        for number in range(steps):
            draw = generator(seed, number, 17)
            weights = _blend(len(prompts), draw).to(targets)
            codes = torch.stack([hypernet.encoder(p.frame().detach()) for p, w in zip(prompts, weights) if w > 0])
            code = (weights[weights > 0, None] * codes).sum(0)
            code = code + NOISE * torch.randn(len(code), generator=draw).to(code) * (number % 2)
            code = (code - code.mean()) / code.std().clamp(min=1e-6)
            loss = (hypernet.score(code) - weights @ targets).square().mean()
            if number % 10 == 9:  # no prompt at all means no task in particular
                loss = loss + (hypernet.score(torch.zeros_like(code)) - targets.mean(0)).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            errors += loss.item()
            if (number + 1) % LOG_EVERY == 0:
                rows.append({"stage": "warm start", "step": number + 1, "error": errors / LOG_EVERY})
                errors = 0.0
            bar.advance(1, f"error {loss.item():.3f}")
    return rows


def _blend(tasks: int, draw: torch.Generator) -> torch.Tensor:
    """Weights (tasks,): half of the time one task alone, else up to three with random shares."""
    weights = torch.zeros(tasks)
    if torch.rand((), generator=draw) < 0.5:
        weights[torch.randint(tasks, (), generator=draw)] = 1.0
        return weights
    chosen = torch.randperm(tasks, generator=draw)[: min(3, tasks)]
    shares = torch.rand(len(chosen), generator=draw) + 1e-3
    weights[chosen] = shares / shares.sum()
    return weights
