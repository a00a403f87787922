"""A learned score per channel, with straight-through masks: without a prompt, and with one as in VPNs' structured variant (arXiv 2312.01397).

Neither has a hypernetwork. A score that is `bounded` may move as far from its start as a
hypernetwork's correction may, with the same mean in every group: what PASS adds to that is
what the hypernetwork is worth. VPNs' prompt and scores learn in one step here, where that
paper takes two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pass_transfer.errors import UsageError
from pass_transfer.masking import masked_forward
from pass_transfer.networks import ChannelGroups, classifier_name
from pass_transfer.networks.network import Network
from pass_transfer.prompts import Prompt, default_pad
from pass_transfer.scoring.hypernet import HypernetConfig
from pass_transfer.scoring.magnitude import group_l1
from pass_transfer.scoring.masked_loss import DensityRange, straight_through_masks
from pass_transfer.scoring.method import Context, Found, Method, Scores
from pass_transfer.scoring.prior import blend, standardise
from pass_transfer.scoring.task_importance import task_importance
from pass_transfer.settings import check_positive, check_whole
from pass_transfer.shrinking.classifier import with_task_head
from pass_transfer.tasks import Task
from pass_transfer.training import LoopConfig, Runtime, Stage, run_stage
from pass_transfer.training.batches import augmented, generator

STARTS = ("l1", "taylor_l1", "none")


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
        bounded: whether a score is its start and a bounded correction without mean, as a hypernetwork's is.
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
        if self.start not in STARTS:
            raise UsageError(f"start is {self.start!r}; choose one of {', '.join(STARTS)}")


@dataclass(frozen=True)
class VpnsSettings(LearnedSettings):
    """The same for VPNs, which start from magnitude. deploy_prompt: whether the prompt stays in the image when the network is fine-tuned and used."""

    start: str = "l1"
    deploy_prompt: bool = True


class ScoreStage(Stage):
    """Cross-entropy of the masked network; the scores, the classifier, and the prompt if there is one, learn."""

    name = "scores"

    def __init__(
        self,
        scores: torch.Tensor,
        prompt: Prompt | None,
        network: Network,
        groups: ChannelGroups,
        task: Task,
        settings: LearnedSettings,
        runtime: Runtime,
        seed: int,
    ):
        self.task, self.runtime, self.groups = task, runtime, groups
        self.network = with_task_head(network, task.train, task.classes, runtime, seed)
        self.bounded, self.start = settings.bounded, scores.clone().to(runtime.device)
        self.learned = nn.ParameterList([nn.Parameter(torch.zeros_like(self.start))])
        self.prompt = None if prompt is None else prompt.to(runtime.device)
        head = self.network.backbone.get_submodule(
            classifier_name(self.network.backbone)
        ).requires_grad_(True)
        self.densities = DensityRange(settings.low, settings.high)
        self.modules = {"scores": self.learned, "head": head} | (
            {} if prompt is None else {"prompt": self.prompt}
        )
        self.optimizers = {
            "scores": torch.optim.Adam(self.learned.parameters(), settings.lr),
            "head": torch.optim.Adam(head.parameters(), settings.head_lr),
        }
        if prompt is not None:
            self.optimizers["prompt"] = torch.optim.Adam(
                self.prompt.parameters(), settings.prompt_lr
            )

    def scores(self) -> torch.Tensor:
        """All scores (total,): where they started, and what was learned."""
        if not self.bounded:
            return self.start + self.learned[0]
        bound = HypernetConfig.correction
        return self.start + torch.cat(
            [
                part - part.mean()
                for part in (
                    bound * torch.tanh(raw / bound)
                    for raw in self.groups.split(self.learned[0]).values()
                )
            ]
        )

    def step(
        self, pixels: torch.Tensor, labels: torch.Tensor, draw: torch.Generator, number: int
    ) -> dict[str, float]:
        """One step on uint8 images (B, 3, S, S)."""
        images, labels = (
            augmented(pixels, draw, self.task.mirrored, self.runtime.device),
            labels.to(self.runtime.device),
        )
        masks = straight_through_masks(self.scores(), self.groups, self.densities.draw(draw))
        seen = images if self.prompt is None else self.prompt(images)
        with self.runtime.autocast():
            logits = masked_forward(
                self.network.backbone,
                self.groups,
                masks,
                (seen - self.network.mean) / self.network.std,
            ).float()
        loss = nn.functional.cross_entropy(logits, labels)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
        return {
            "loss": loss.item(),
            "top1": 100 * logits.argmax(1).eq(labels).double().mean().item(),
        }

    def evaluate(self) -> dict[str, float]:
        """Nothing: the scores are used as they end."""
        return {}


def initial_scores(context: Context, start: str) -> Scores:
    """Scores of one spread in every group, or next to nothing."""
    groups = context.groups
    if start == "none":
        return groups.split(
            1e-3 * torch.randn(groups.total, generator=generator(context.seed, 12))
        )  # ties would go to the first layers
    magnitude = group_l1(context.entry.backbone(), groups, context.entry.spec.image_size)
    if start == "l1":
        return standardise(magnitude)
    importance = task_importance(
        context.network(),
        groups,
        context.task.train,
        context.task.classes,
        context.runtime,
        2048,
        context.seed,
    )
    return blend(magnitude, importance)


def _learn(context: Context, prompted: bool) -> Found:
    settings, groups, size = context.settings, context.groups, context.entry.spec.image_size
    prompt = Prompt("additive", size, default_pad(size)) if prompted else None
    stage = ScoreStage(
        groups.join(initial_scores(context, settings.start)),
        prompt,
        context.network(),
        groups,
        context.task,
        settings,
        context.runtime,
        context.seed,
    )
    loop = LoopConfig.of_steps(
        settings.steps, len(context.task.train), context.batch_size, seed=context.seed
    )
    run_stage(stage, context.task.train, loop, context.runtime)
    return Found(
        groups.split(stage.scores().detach().cpu()),
        prompt.cpu() if prompted and settings.deploy_prompt else None,
    )


METHODS = {
    "learned_score": Method(
        lambda context: _learn(context, prompted=False),
        lambda settings: settings.steps,
        LearnedSettings,
    ),
    "vpns": Method(
        lambda context: _learn(context, prompted=True),
        lambda settings: settings.steps,
        VpnsSettings,
    ),
}
