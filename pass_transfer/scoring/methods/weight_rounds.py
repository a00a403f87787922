"""Iterative magnitude: the network is trained, loses its smallest weights, and begins again."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch

from pass_transfer.scoring.method import WEIGHT, Context, Scores, register
from pass_transfer.scoring.methods.weight_criteria import GONE
from pass_transfer.settings import check_positive, check_whole
from pass_transfer.shrinking.finetune import FinetuneConfig, FinetuneStage
from pass_transfer.training import LoopConfig, run_stage
from pass_transfer.weight_masks import WeightMasks


@dataclass(frozen=True)
class ImpSettings:
    """How often, and how long, the network is trained.

    Fields:
        steps: updates of all rounds together.
        rounds: each keeps the same share of what the one before has left.
        lr: of SGD on the weights.
    """

    steps: int = 300
    rounds: int = 5
    lr: float = 0.01

    def __post_init__(self) -> None:
        check_whole(self, steps=1, rounds=1)
        check_positive(self, "lr")


@register("imp", ImpSettings, steps=lambda s: s.steps, each_budget=True, unit=WEIGHT)
def imp(context: Context) -> Scores:
    """Magnitude after training, in rounds that begin with the pretrained weights (IMP)."""
    settings, left = context.settings, 1 - context.sparsity.share
    masks = {name: torch.ones(w.shape, dtype=torch.bool) for name, w in context.weights.items()}
    for number in range(1, settings.rounds + 1):
        trained = _trained(context, WeightMasks(masks), number)
        scores = {n: w.abs().masked_fill(~masks[n], GONE) for n, w in trained.items()}
        if number < settings.rounds:
            share = 1 - left ** (number / settings.rounds)
            masks = context.sparsity.at(share).select(scores)
    return scores


def _trained(context: Context, masks: WeightMasks, number: int) -> dict[str, torch.Tensor]:
    """Weights after one round's training from the pretrained ones, under masks."""
    settings, task = context.settings, context.task
    network = copy.deepcopy(context.task_network).requires_grad_(True)
    masks.zero_(network.backbone)
    masks.hold(network.backbone)
    size = min(context.batch_size, len(task.train))
    recipe = FinetuneConfig(batch_size=size, lr=settings.lr, whole_batch=True, seed=context.seed)
    stage = FinetuneStage(network, task, recipe, context.runtime, f"round-{number}")
    steps = math.ceil(settings.steps / settings.rounds)
    loop = LoopConfig.of_steps(steps, len(task.train), size, seed=context.seed)
    run_stage(stage, task.train, loop, context.runtime, context.run)
    found = dict(network.backbone.named_parameters())
    return {name: found[name].detach().cpu().contiguous() for name in masks}
