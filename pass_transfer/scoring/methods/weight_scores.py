"""Learned scores of single weights: alone (HYDRA), with a prompt (VPNs), and bi-level (BiP).

Settings that are not said otherwise are those of VPNs' released code (arXiv 2312.01397). That
takes two updates for each batch, one on prompted images as they are and one on augmented ones.
Here a step is one update: VPNs take such images in turns, and every method has equal updates.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn

from pass_transfer.networks import classifier_of
from pass_transfer.prompts import Prompt, default_pad
from pass_transfer.random_streams import stream
from pass_transfer.scoring.method import WEIGHT, Context, Found, register
from pass_transfer.scoring.weight_loss import logits_with, plain_copies, straight_through
from pass_transfer.settings import check_choice, check_positive, check_whole
from pass_transfer.tasks import Task
from pass_transfer.training import LoopConfig, Stage, run_stage, to_images
from pass_transfer.training.augmentation import augmented

PROMPTS = ("learned", "random")
RANDOM_SPREAD = 0.1  # of a random prompt, in the brightness of the image


@dataclass(frozen=True)
class WeightScoreSettings:
    """How scores of single weights are learned.

    Fields:
        steps: updates.
        lr, weight_decay: of Adam on the scores.
        head_lr: of Adam on the task's classifier.
    """

    steps: int = 300
    lr: float = 1e-4
    weight_decay: float = 1e-4
    head_lr: float = 1e-3

    def __post_init__(self) -> None:
        check_whole(self, steps=1)
        check_positive(self, "lr", "head_lr")
        check_positive(self, "weight_decay", zero=True)


@dataclass(frozen=True)
class WeightVpnsSettings(WeightScoreSettings):
    """As of hydra, and the prompt's.

    Fields:
        prompt: "learned"; or "random" for one that is drawn and never learns, as a control.
        prompt_lr: of Adam on the prompt, in the brightness of the image.
        deploy_prompt: whether the prompt stays in the image when the network is trained and
            used. A random one cannot.
    """

    prompt: str = "learned"
    prompt_lr: float = 1e-4
    deploy_prompt: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("prompt", self.prompt, PROMPTS)
        check_positive(self, "prompt_lr")
        if self.deploy_prompt:
            check_choice("prompt", self.prompt, ("learned",))


@dataclass(frozen=True)
class BipSettings(WeightScoreSettings):
    """As of hydra, and the lower level's.

    Fields:
        weight_lr: of SGD on the weights that are kept.
        gamma: the strength of the lower level's convex regulariser; larger trusts the
            gradient through the weights less.
    """

    weight_lr: float = 0.01
    gamma: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "weight_lr", "gamma")


class WeightScoreStage(Stage):
    """Cross-entropy of the network under the masks that the scores give.

    The scores, the classifier, and the prompt if it learns, do; the weights are frozen.
    """

    name = "scores"

    def __init__(self, context: Context, prompt: Prompt | None):
        settings, self.runtime = context.settings, context.runtime
        self.task, self.sparsity = context.task, context.sparsity
        self.network = copy.deepcopy(context.task_network)
        self.weights = plain_copies(self.network, list(context.weights))
        self.scores = nn.ParameterList([_initial(weight) for weight in self.weights.values()])
        self.prompt = None if prompt is None else prompt.to(self.runtime.device)
        head = classifier_of(self.network.backbone).requires_grad_(True)
        self.modules: dict[str, nn.Module] = {"scores": self.scores, "head": head}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "scores": torch.optim.Adam(
                self.scores.parameters(),
                settings.lr,
                weight_decay=settings.weight_decay,
                fused=True,
            ),
            "head": torch.optim.Adam(head.parameters(), settings.head_lr),
        }
        if self.prompt is not None:
            self.modules["prompt"] = self.prompt
        if self.prompt is not None and self.prompt.values.requires_grad:
            learned = torch.optim.Adam(self.prompt.parameters(), settings.prompt_lr)
            self.optimizers["prompt"] = learned

    def by_name(self) -> dict[str, torch.Tensor]:
        """The scores by weight."""
        return dict(zip(self.weights, self.scores))

    def masks(self) -> dict[str, torch.Tensor]:
        """The weights that are kept now: those of the highest absolute scores."""
        return self.sparsity.select(self.by_name(), magnitude=True)

    def step(
        self, pixels: torch.Tensor, labels: torch.Tensor, draw: torch.Generator, number: int
    ) -> dict[str, float]:
        """One update on uint8 images (B, 3, K, K)."""
        images = self.images(pixels, draw, number)
        masks = self.masks()
        effective = {
            name: straight_through(score, self.weights[name], masks[name])
            for name, score in self.by_name().items()
        }
        return self.update(effective, images, labels, tuple(self.optimizers))

    def images(self, pixels: torch.Tensor, draw: torch.Generator, number: int) -> torch.Tensor:
        """What a step sees: augmented images; with a prompt, every other step's are prompted."""
        if self.prompt is not None and number % 2 == 0:
            return self.prompt(_middles(pixels, self.task, self.runtime.device))
        return augmented(pixels, draw, self.task, self.runtime.device, self.part)

    def update(
        self,
        weights: dict[str, torch.Tensor],
        images: torch.Tensor,
        labels: torch.Tensor,
        stepped: tuple[str, ...],
    ) -> dict[str, float]:
        """Steps of some of the optimizers on the loss with these weights; its metrics."""
        labels = labels.to(self.runtime.device)
        with self.runtime.autocast():
            logits = logits_with(self.network, weights, images)
        loss = nn.functional.cross_entropy(logits, labels)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for name in stepped:
            self.optimizers[name].step()
        hits = logits.argmax(1).eq(labels).double()
        return {"loss": loss.item(), "top1": 100 * hits.mean().item()}

    def evaluate(self) -> dict[str, float]:
        """Nothing: the scores are used as they end."""
        return {}


class BilevelStage(WeightScoreStage):
    """Scores and the weights that they keep, in turns (arXiv 2210.04092).

    The lower level trains the weights under the masks, the upper one the scores. A score's
    gradient is g (w - g / gamma), where g is the loss's gradient to the masked weight: the part
    through the weights that the lower level would have found comes in closed form.
    """

    def __init__(self, context: Context):
        super().__init__(context, None)
        settings, self.gamma = context.settings, context.settings.gamma
        copies = self.weights.values()
        self.learned = nn.ParameterList([nn.Parameter(weight) for weight in copies])
        self.weights = dict(zip(self.weights, self.learned))
        self.modules["weights"] = self.learned
        sgd = torch.optim.SGD(self.learned.parameters(), settings.weight_lr, momentum=0.9)
        self.optimizers["weights"] = sgd

    def step(
        self, pixels: torch.Tensor, labels: torch.Tensor, draw: torch.Generator, number: int
    ) -> dict[str, float]:
        """One update, of the weights in even steps and of the scores in odd ones."""
        images, masks = self.images(pixels, draw, number), self.masks()
        effective = {n: w.masked_fill(~masks[n], 0.0) for n, w in self.weights.items()}
        if number % 2 == 0:
            return self.update(effective, images, labels, ("weights", "head"))
        leaves = {name: masked.detach().requires_grad_() for name, masked in effective.items()}
        metrics = self.update(leaves, images, labels, ())
        for score, weight, leaf in zip(self.scores, self.learned, leaves.values()):
            gradient = leaf.grad
            implicit = gradient * (weight.detach() - gradient / self.gamma)
            score.grad = implicit * score.detach().sign()
        self.optimizers["scores"].step()
        return metrics


def _initial(weight: torch.Tensor) -> nn.Parameter:
    """sqrt(6 / fan in) times the weight over its largest absolute value."""
    fan_in = weight[0].numel()
    return nn.Parameter(math.sqrt(6 / fan_in) * weight / weight.abs().max().clamp(min=1e-12))


def _middles(pixels: torch.Tensor, task: Task, device: torch.device) -> torch.Tensor:
    """The images' middles at the network's size, in [0, 1] on the device, not augmented."""
    first = (pixels.shape[-1] - task.size) // 2
    last = first + task.size
    return to_images(pixels[..., first:last, first:last], device)


def _prompt(context: Context) -> Prompt:
    """The prompt that a search begins with: nothing, or drawn and frozen."""
    size = context.dense.spec.image_size
    prompt = Prompt("additive", size, default_pad(size))
    prompt.zero_()
    if context.settings.prompt == "random":
        draw = stream(context.seed, "random prompt")
        noise = RANDOM_SPREAD * torch.randn(prompt.values.shape, generator=draw)
        prompt.values.requires_grad_(False).copy_(noise * prompt.border)
    return prompt


def _learn(context: Context, stage: WeightScoreStage) -> dict[str, torch.Tensor]:
    """Scores by weight after the stage's steps."""
    images, size = len(context.task.train), context.batch_size
    loop = LoopConfig.of_steps(context.settings.steps, images, size, warmup=0.0, seed=context.seed)
    run_stage(stage, context.task.train, loop, context.runtime, context.run)
    return {name: score.detach().abs().cpu() for name, score in stage.by_name().items()}


def _steps(settings: WeightScoreSettings) -> float:
    return settings.steps


@register("hydra", WeightScoreSettings, steps=_steps, each_budget=True, unit=WEIGHT)
def hydra(context: Context) -> Found:
    """A score for each weight, learned by the loss of the masked network (HYDRA)."""
    return Found(_learn(context, WeightScoreStage(context, None)))


@register("vpns", WeightVpnsSettings, steps=_steps, each_budget=True, unit=WEIGHT)
def vpns(context: Context) -> Found:
    """Scores learned as hydra learns them, with a visual prompt on every other step (VPNs)."""
    prompt = _prompt(context)
    scores = _learn(context, WeightScoreStage(context, prompt))
    return Found(scores, prompt.cpu(), context.settings.deploy_prompt)


@register("bip", BipSettings, steps=_steps, each_budget=True, unit=WEIGHT)
def bip(context: Context) -> Found:
    """Scores and weights in turns, each at the other's answer (BiP)."""
    return Found(_learn(context, BilevelStage(context)))
