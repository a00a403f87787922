"""The loss of a search step: a prompted image through the backbone under the hypernetwork's masks.

The prompt acts twice, as pixels and as the hypernetwork's condition. The two gradients
differ by orders of magnitude, so they are taken apart, brought to one size and added.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from pass_transfer.budgets.ranking import top_share
from pass_transfer.masking import masked_forward
from pass_transfer.networks import ChannelGroups
from pass_transfer.networks.network import Network
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.hypernet import Hypernet
from pass_transfer.training import Runtime
from pass_transfer.training.processes import ALONE, Processes

MARGIN = 0.1  # of all channels


@dataclass(frozen=True)
class DensityRange:
    """Share of channels kept in a search step.

    It is drawn anew each time, so that one ranking serves every budget.
    """

    low: float = 0.45
    high: float = 0.85

    def draw(self, source: torch.Generator) -> float:
        """A density between low and high."""
        return self.low + (self.high - self.low) * torch.rand((), generator=source).item()


def straight_through_masks(
    scores: torch.Tensor, groups: ChannelGroups, density: float, uniform: bool = False
) -> dict[str, torch.Tensor]:
    """Masks by group at a density, with the straight-through gradient to the scores (total,).

    Args:
        uniform: whether every group keeps the same share.
    """
    if uniform:
        parts = [_places(part) for part in groups.split(scores.detach()).values()]
        scores = scores + (torch.cat(parts) - scores).detach()
    return groups.split(top_share(scores, groups, density).mask)


def _places(scores: torch.Tensor) -> torch.Tensor:
    """Of each score (width,) its place among them, the lowest first, in shares of the width."""
    places = scores.argsort(stable=True).argsort(stable=True)
    return places.to(scores) / len(scores)


def masked_logits(
    network: Network,
    prompt: Prompt,
    frame: torch.Tensor,
    groups: ChannelGroups,
    masks: Mapping[str, torch.Tensor],
    images: torch.Tensor,
    gradient: str = "exact",
    margins: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Logits (B, classes) of prompted images under masks, with batch statistics in BatchNorm.

    See masked_forward for `gradient` and `margins`.
    """
    seen = (prompt(images, frame) - network.mean) / network.std
    return masked_forward(network.backbone, groups, masks, seen, gradient, margins).float()


class PromptGradient:
    """Splits a prompt into its two roles for one step, and joins their gradients.

    Args:
        prompt: its `values` get the joined gradient.
        image_share: weight of the gradient through the pixels; the rest goes to the condition.
    """

    def __init__(self, prompt: Prompt, image_share: float = 0.5):
        self.prompt, self.image_share = prompt, image_share
        self.as_image = prompt.frame().detach().requires_grad_()
        self.as_condition = prompt.frame().detach().requires_grad_()

    def join(self, processes: Processes = ALONE, weight: float = 1.0) -> None:
        """Set prompt.values.grad to the weighted sum of both gradients.

        Each is scaled to a root mean square of 1 first.

        Args:
            processes, weight: whose gradients are averaged before; see Processes.average.
        """
        processes.average([self.as_image.grad, self.as_condition.grad], weight)
        pixels = self.prompt.border.sum() * 3
        total = torch.zeros_like(self.prompt.values)
        parts = ((self.image_share, self.as_image), (1 - self.image_share, self.as_condition))
        for share, frame in parts:
            if frame.grad is not None and share > 0:
                gradient = frame.grad * self.prompt.border
                spread = (gradient.square().sum() / pixels).sqrt().clamp(min=1e-12)
                total += share * gradient / spread
        self.prompt.values.grad = total


Module = TypeVar("Module", bound=nn.Module)


def freeze(module: Module) -> Module:
    """No gradients for a module's parameters; they are not even computed."""
    return module.requires_grad_(False)


def condition_scores(hypernet: Hypernet, frame: torch.Tensor) -> torch.Tensor:
    """Scores in float32, outside of any autocast: rounding would tie channels that differ."""
    with torch.autocast(frame.device.type, enabled=False):
        return hypernet(frame.float())


@dataclass(frozen=True)
class MaskedStep:
    """One optimisation step on the cross-entropy of the masked network.

    Fields:
        hypernet, network: placed on the runtime's device; what learns is in the optimizers.
        optimizers: stepped together.
        image_share: weight of a prompt's gradient as pixels, against as condition.
        gradient: which channels' scores learn: those kept ("kept"), these and the next
            MARGIN of the ranking ("margin"), or all of them ("exact").
        uniform: see straight_through_masks.
    """

    hypernet: Hypernet
    network: Network
    optimizers: Mapping[str, torch.optim.Optimizer]
    runtime: Runtime
    image_share: float
    gradient: str = "exact"
    uniform: bool = False

    def __call__(
        self,
        prompt: Prompt,
        images: torch.Tensor,
        labels: torch.Tensor,
        density: float,
        rows: torch.Tensor | None = None,
        weight: float = 1.0,
    ) -> dict[str, float]:
        """Take one step.

        Args:
            images: (B, 3, S, S) in [0, 1]; labels: (B,), both on the runtime's device.
            density: share of channels kept in this step.
            rows: the classifier's rows that the task's classes are, if not all of them.
            weight: of this process's images (Part.weight).

        Returns:
            "loss" and "top1" (per cent) of the batch.
        """
        roles = PromptGradient(prompt, self.image_share)
        logits = self._logits(prompt, roles, images, density)
        logits = logits if rows is None else logits[:, rows]
        loss = nn.functional.cross_entropy(logits, labels)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        roles.join(self.runtime.processes, weight)
        for optimizer in self.optimizers.values():
            optimizer.step()
        hits = logits.argmax(1).eq(labels).cpu().double()
        return {"loss": loss.item(), "top1": 100 * hits.mean().item()}

    def _logits(
        self, prompt: Prompt, roles: PromptGradient, images: torch.Tensor, density: float
    ) -> torch.Tensor:
        """Logits (B, classes) under the masks that the prompt gives at a density."""
        groups = self.hypernet.groups
        scores = condition_scores(self.hypernet, roles.as_condition)
        masks = straight_through_masks(scores, groups, density, self.uniform)
        margins = None
        if self.gradient == "margin":
            wider = min(1.0, density + MARGIN)
            margins = straight_through_masks(scores.detach(), groups, wider, self.uniform)
        frame = roles.as_image
        with self.runtime.autocast():
            return masked_logits(
                self.network, prompt, frame, groups, masks, images, self.gradient, margins
            )
