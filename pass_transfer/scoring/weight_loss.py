"""A frozen network run with other single weights in place of its own, and the gradients to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from pass_transfer.masking.hooks import batch_statistics
from pass_transfer.networks.network import Network

Weights = Mapping[str, torch.Tensor]


def plain_copies(network: Network, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """A network's weights by their names in its backbone, copied, in the order of their indices.

    Ties between single weights go by that order, so it is the one that masks and scores have.
    """
    found = dict(network.backbone.named_parameters())
    return {
        name: found[name].detach().clone(memory_format=torch.contiguous_format) for name in names
    }


def logits_with(network: Network, weights: Weights, images: torch.Tensor) -> torch.Tensor:
    """Logits (B, classes) float32 for images in [0, 1], with these weights and batch statistics.

    Nothing of the network is written, and gradients go to the weights that are given.
    """
    normalised = (images - network.mean) / network.std
    with batch_statistics(network.backbone):
        return functional_call(network.backbone, dict(weights), (normalised,)).float()


class _Masked(torch.autograd.Function):
    """A weight under a mask that its score decides; the score's gradient goes through the mask."""

    @staticmethod
    def forward(
        ctx: Any, score: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(score, weight)
        return weight.masked_fill(~mask, 0.0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        score, weight = ctx.saved_tensors
        return (gradient * weight).mul_(score.sign()), None, None


def straight_through(score: torch.Tensor, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The weight where the mask is, else zero.

    The mask takes the scores of the highest absolute values. Its gradient to a score is that of
    the score's absolute value times the weight, for the weights that go as for those that stay
    (arXiv 2002.10509).
    """
    return _Masked.apply(score, weight, mask)


def loss_gradients(
    network: Network,
    weights: Weights,
    batch: tuple[torch.Tensor, torch.Tensor],
    *,
    temperature: float = 1.0,
    differentiable: bool = False,
) -> tuple[torch.Tensor, ...]:
    """Gradients of the cross-entropy to the weights, which want them, in their order.

    Args:
        batch: images (B, 3, S, S) in [0, 1] and labels (B,).
        temperature: divides the logits.
        differentiable: whether they are to be differentiated again.
    """
    images, labels = batch
    loss = nn.functional.cross_entropy(logits_with(network, weights, images) / temperature, labels)
    return torch.autograd.grad(loss, list(weights.values()), create_graph=differentiable)
