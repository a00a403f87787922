"""Criteria for single weights that need no training, or next to none."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pass_transfer.random_streams import stream
from pass_transfer.scoring.method import WEIGHT, Context, Scores, register
from pass_transfer.scoring.methods.criteria import ImageSettings, image_steps
from pass_transfer.scoring.weight_loss import loss_gradients, plain_copies
from pass_transfer.settings import check_positive, check_whole

GONE = -1.0  # below every score that a round gives


@dataclass(frozen=True)
class GraspSettings(ImageSettings):
    """How much GraSP looks at.

    Fields:
        images: training images.
        temperature: divides the logits.
    """

    temperature: float = 200.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "temperature")


@dataclass(frozen=True)
class SynflowSettings:
    """How SynFlow goes down to the sparsity.

    Fields:
        rounds: each keeps the same share of what the one before has left.
    """

    rounds: int = 100

    def __post_init__(self) -> None:
        check_whole(self, rounds=1)


@register("magnitude", unit=WEIGHT)
def magnitude(context: Context) -> Scores:
    """Absolute values of the weights, ranked over all layers (OMP)."""
    return {name: weight.abs().contiguous() for name, weight in context.weights.items()}


@register("random", unit=WEIGHT)
def random(context: Context) -> Scores:
    """Uniform scores: what a criterion has to beat."""
    draw = stream(context.seed, "random weights")
    return {name: torch.rand(w.shape, generator=draw) for name, w in context.weights.items()}


@register("snip", ImageSettings, steps=image_steps, unit=WEIGHT)
def snip(context: Context) -> Scores:
    """What the loss changes to first order without a weight, in absolute value (SNIP)."""
    weights = _trainable(context)
    total = _gradients(context, weights)
    return {name: (weights[name].detach() * g).abs().cpu() for name, g in total.items()}


@register("grasp", GraspSettings, steps=lambda settings: 4 * image_steps(settings), unit=WEIGHT)
def grasp(context: Context) -> Scores:
    """What the gradients' norm loses without a weight (GraSP)."""
    weights, temperature = _trainable(context), context.settings.temperature
    total = _gradients(context, weights, temperature)
    moved = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch in context.samples(context.settings.images):
        again = loss_gradients(
            context.task_network, weights, batch, temperature=temperature, differentiable=True
        )
        flow = torch.stack([(t * g).sum() for t, g in zip(total.values(), again)]).sum()
        for one, change in zip(moved.values(), torch.autograd.grad(flow, list(weights.values()))):
            one += change
    return {name: (weights[name].detach() * change).cpu() for name, change in moved.items()}


@register("synflow", SynflowSettings, each_budget=True, unit=WEIGHT)
def synflow(context: Context) -> Scores:
    """What flows through a weight of a network without data, all of it positive (SynFlow)."""
    size, rounds = context.dense.spec.image_size, context.settings.rounds
    names, positive = list(context.weights), copy.deepcopy(context.dense.module).double()
    with torch.no_grad():
        for tensor in positive.state_dict().values():
            tensor.abs_()
    found = dict(positive.named_parameters())
    ones = torch.ones(1, 3, size, size, dtype=torch.float64)
    left = 1 - context.sparsity.share
    for number in range(1, rounds + 1):
        flow = positive(ones).sum()
        gradients = torch.autograd.grad(flow, [found[name] for name in names])
        scores = {n: (found[n].detach() * g).contiguous() for n, g in zip(names, gradients)}
        for name, score in scores.items():
            score[found[name].detach() == 0] = GONE
        if number < rounds:
            masks = context.sparsity.at(1 - left ** (number / rounds)).select(scores)
            with torch.no_grad():
                for name, mask in masks.items():
                    found[name].masked_fill_(~mask, 0.0)
    return scores


def _trainable(context: Context) -> dict[str, torch.Tensor]:
    """The task network's weights that may go, as leaves that want gradients."""
    copies = plain_copies(context.task_network, list(context.weights))
    return {name: weight.requires_grad_() for name, weight in copies.items()}


def _gradients(
    context: Context, weights: Mapping[str, torch.Tensor], temperature: float = 1.0
) -> dict[str, torch.Tensor]:
    """The loss's gradients to the weights, added up over the images."""
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch in context.samples(context.settings.images):
        some = loss_gradients(context.task_network, weights, batch, temperature=temperature)
        for one, gradient in zip(total.values(), some):
            one += gradient
    return total
