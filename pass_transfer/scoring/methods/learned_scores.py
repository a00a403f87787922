"""A learned score for each channel, with straight-through masks.

It comes without a prompt, and with one as in VPNs' structured variant (arXiv 2312.01397).
Neither has a hypernetwork. A score that is `bounded` may move as far from its start as a
hypernetwork's correction may, with the same mean in every group: what PASS adds to that is
what the hypernetwork is worth. VPNs' prompt and scores learn in one step here, where that
paper takes two.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from pass_transfer.masking import masked_forward
from pass_transfer.networks import classifier_of
from pass_transfer.prompts import Prompt, default_pad
from pass_transfer.random_streams import stream
from pass_transfer.scoring.hypernet import HypernetConfig
from pass_transfer.scoring.magnitude import group_l1
from pass_transfer.scoring.masked_loss import DensityRange, straight_through_masks
from pass_transfer.scoring.method import Context, Found, Scores, register
from pass_transfer.scoring.prior import blend, standardise
from pass_transfer.settings import check_choice, check_densities, check_positive, check_whole
from pass_transfer.training import LoopConfig, Stage, run_stage
from pass_transfer.training.augmentation import augmented

STARTS = ("l1", "taylor_l1", "none")
START_IMAGES = 2048  # that Taylor importance is measured on


@dataclass(frozen=True)
class LearnedSettings:
    """How scores are learned.

    Fields:
        steps: of Adam on the scores.
        lr: its peak step, in standard deviations of a group's initial scores.
        head_lr, prompt_lr: of Adam on the task's classifier, and on the prompt in brightness.
        start: initial scores, of one spread in every group: magnitude; magnitude and the
            task's Taylor importance, which is what a hypernetwork's prior is; or none.
        low, high: range of densities trained at.
        bounded: whether a score is its start and a bounded correction without mean, as a
            hypernetwork's is.
    """

    steps: int = 150
    lr: float = 0.05
    head_lr: float = 1e-3
    prompt_lr: float = 1e-3
    start: str = "taylor_l1"
    low: float = 0.55
    high: float = 0.85
    bounded: bool = False

    def __post_init__(self) -> None:
        check_whole(self, steps=1)
        check_positive(self, "lr", "head_lr", "prompt_lr")
        check_choice("start", self.start, STARTS)
        check_densities(self.low, self.high)


@dataclass(frozen=True)
class VpnsSettings(LearnedSettings):
    """The same for VPNs, which start from magnitude.

    Fields:
        deploy_prompt: whether the prompt stays in the image when the network is trained and
            used.
    """

    start: str = "l1"
    deploy_prompt: bool = True


class ScoreStage(Stage):
    """Cross-entropy of the masked network.

    The scores, the classifier, and the prompt if there is one, learn.
    """

    name = "scores"

    def __init__(self, scores: torch.Tensor, prompt: Prompt | None, context: Context):
        settings, runtime = context.settings, context.runtime
        self.task, self.runtime, self.groups = context.task, runtime, context.groups
        self.network = copy.deepcopy(context.task_network)
        self.bounded, self.start = settings.bounded, scores.clone().to(runtime.device)
        self.learned = nn.ParameterList([nn.Parameter(torch.zeros_like(self.start))])
        self.prompt = None if prompt is None else prompt.to(runtime.device)
        head = classifier_of(self.network.backbone).requires_grad_(True)
        self.densities = DensityRange(settings.low, settings.high)
        self.modules: dict[str, nn.Module] = {"scores": self.learned, "head": head}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "scores": torch.optim.Adam(self.learned.parameters(), settings.lr),
            "head": torch.optim.Adam(head.parameters(), settings.head_lr),
        }
        if self.prompt is not None:
            self.modules["prompt"] = self.prompt
            learned = torch.optim.Adam(self.prompt.parameters(), settings.prompt_lr)
            self.optimizers["prompt"] = learned

    def scores(self) -> torch.Tensor:
        """All scores (total,): where they started, and what was learned."""
        learned = self.learned[0]
        if not self.bounded:
            return self.start + learned
        bound = HypernetConfig.correction
        parts = []
        for raw in self.groups.split(learned).values():
            inside = bound * torch.tanh(raw / bound)
            parts.append(inside - inside.mean())
        return self.start + torch.cat(parts)

    def step(
        self, pixels: torch.Tensor, labels: torch.Tensor, draw: torch.Generator, number: int
    ) -> dict[str, float]:
        """One step on uint8 images (B, 3, S, S)."""
        network, labels = self.network, labels.to(self.runtime.device)
        images = augmented(pixels, draw, self.task, self.runtime.device, self.part)
        masks = straight_through_masks(self.scores(), self.groups, self.densities.draw(draw))
        prompt = network.prompt if self.prompt is None else self.prompt
        seen = images if prompt is None else prompt(images)
        normalised = (seen - network.mean) / network.std
        with self.runtime.autocast():
            logits = masked_forward(network.backbone, self.groups, masks, normalised).float()
        loss = nn.functional.cross_entropy(logits, labels)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        hits = logits.argmax(1).eq(labels).double()
        return {"loss": loss.item(), "top1": 100 * hits.mean().item()}

    def evaluate(self) -> dict[str, float]:
        """Nothing: the scores are used as they end."""
        return {}


def initial_scores(context: Context, start: str) -> Scores:
    """Scores of one spread in every group, or next to nothing."""
    groups = context.groups
    if start == "none":  # ties would go to the first layers
        draw = stream(context.seed, "initial scores")
        return groups.split(1e-3 * torch.randn(groups.total, generator=draw))
    magnitude = group_l1(context.dense.fresh(), groups)
    if start == "l1":
        return standardise(magnitude)
    return blend(magnitude, context.importance(START_IMAGES))


def _learn(context: Context, prompt: Prompt | None) -> Found:
    settings, groups, task = context.settings, context.groups, context.task
    start = groups.join(initial_scores(context, settings.start))
    stage = ScoreStage(start, prompt, context)
    images, size = len(task.train), context.batch_size
    loop = LoopConfig.of_steps(settings.steps, images, size, seed=context.seed)
    run_stage(stage, task.train, loop, context.runtime, context.run)
    scores = groups.split(stage.scores().detach().cpu())
    deployed = prompt is not None and settings.deploy_prompt
    return Found(scores, None if prompt is None else prompt.cpu(), deployed)


def _steps(settings: LearnedSettings) -> float:
    return settings.steps


@register("learned_score", LearnedSettings, steps=_steps)
def learned_score(context: Context) -> Found:
    """A score for each channel, learned by the loss of the masked network."""
    return _learn(context, None)


@register("vpns", VpnsSettings, steps=_steps)
def vpns(context: Context) -> Found:
    """Learned scores with a visual prompt, which learns in the same steps."""
    size = context.dense.spec.image_size
    return _learn(context, Prompt("additive", size, default_pad(size)))
