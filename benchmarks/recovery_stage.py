"""Ways to fine-tune that benchmarks/recovery.py tries and the library does not have.

Averages of the weights, patches of other images, and the dense network's features as targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pass_transfer.networks import classifier_of, kind_of
from pass_transfer.networks.network import Network
from pass_transfer.shrinking.distill import Teacher
from pass_transfer.shrinking.finetune import FinetuneConfig, FinetuneStage
from pass_transfer.shrinking.recalibrate import recalibrate
from pass_transfer.tasks import Task
from pass_transfer.training import Accuracy, Runtime, evaluate, run_stage
from pass_transfer.training.augmentation import augmented

SMALLER = 0.75  # the side of smaller images, as a share


@dataclass(frozen=True)
class Extra:
    """What is done beside.

    Fields:
        average: share of all steps, at the end, whose weights are averaged, each alike; 0 for none.
        decay: of an exponential average over all steps instead; 0 for none.
        patches: share of the steps in which a patch of another image is pasted into each, with
            its label in proportion (CutMix, arXiv 1905.04899, section 3.1, Beta(1, 1)).
        mimic: weight of the squared distance of the features before the classifier, as a share of
            the dense network's own size (arXiv 2311.06382 and MiR learn from them alone).
        small_first: share of the steps, at the start, whose images are smaller, as progressive
            learning has them (arXiv 2104.00298, section 4.2).
    """

    average: float = 0.0
    decay: float = 0.0
    patches: float = 0.0
    mimic: float = 0.0
    small_first: float = 0.0

    @property
    def any(self) -> bool:
        """Whether there is anything to do."""
        return any(vars(self).values())


class ExtraStage(FinetuneStage):
    """Fine-tuning with extras.

    Args:
        steps: of the whole stage.
        kept: the dense network's features that the small one has, for `mimic`.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        config: FinetuneConfig,
        runtime: Runtime,
        teacher: Teacher | None,
        extra: Extra,
        steps: int,
        kept: torch.Tensor | slice,
    ):
        super().__init__(network, task, config, runtime, teacher=teacher)
        self.extra, self.steps, self.kept, self.done = extra, steps, kept, 0
        self.mean = None
        if extra.average or extra.decay:
            moving = get_ema_multi_avg_fn(extra.decay) if extra.decay else None
            self.mean = AveragedModel(self.network, multi_avg_fn=moving)
        self.seen: dict[str, torch.Tensor] = {}
        if extra.mimic:
            self._listen("student", self.network)
            self._listen("teacher", teacher.network)

    def _listen(self, name: str, network: Network) -> None:
        layer = classifier_of(network.backbone)
        kind = kind_of(layer)

        def keep(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            self.seen[name] = kind.features(given[0]).float()

        layer.register_forward_pre_hook(keep)

    def step(
        self, pixels: torch.Tensor, labels: torch.Tensor, draw: torch.Generator, number: int
    ) -> dict[str, float]:
        """One step; then the average takes the weights in."""
        images = augmented(pixels, draw, self.task, self.runtime.device)
        if self.done < self.extra.small_first * self.steps:
            images = nn.functional.interpolate(
                images, scale_factor=SMALLER, mode="bilinear", antialias=True
            )
        images, share, partner = self._patched(images, draw)
        with self.runtime.autocast():
            logits = self.network(images).float()
        loss = share * self._cross_entropy(logits, labels)
        if share < 1:
            loss = loss + (1 - share) * self._cross_entropy(logits, labels[partner])
        if self.teacher is not None:
            loss = self.teacher.loss(images, logits, labels, loss, self.runtime)
        if self.extra.mimic:
            wanted = self.seen["teacher"][:, self.kept]
            apart = (self.seen["student"] - wanted).square().mean()
            loss = loss + self.extra.mimic * apart / wanted.square().mean()
        self.optimizers["sgd"].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers["sgd"].step()
        self.done += 1
        if self.mean is not None and self.done > (1 - (self.extra.average or 1.0)) * self.steps:
            self.mean.update_parameters(self.network)
        top1 = 100 * logits.argmax(1).eq(labels).double().mean().item()
        return {"loss": loss.item(), "top1": top1}

    def _patched(
        self, images: torch.Tensor, draw: torch.Generator
    ) -> tuple[torch.Tensor, float, torch.Tensor]:
        """Images with patches, each image's share of itself, and where the patches are from."""
        partner = torch.randperm(len(images), generator=draw)
        if torch.rand((), generator=draw) >= self.extra.patches:
            return images, 1.0, partner
        side = images.shape[2]
        left_out = torch.rand((), generator=draw).sqrt().item()  # its area is uniform
        half = left_out * side / 2
        middle = torch.rand(2, generator=draw) * side
        top, left = (int(max(0, round(float(m) - half))) for m in middle)
        bottom, right = (int(min(side, round(float(m) + half))) for m in middle)
        images = images.clone()
        images[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
        return images, 1 - (bottom - top) * (right - left) / side**2, partner


def finetune(
    network: Network,
    task: Task,
    config: FinetuneConfig,
    runtime: Runtime,
    teacher: Teacher | None,
    extra: Extra,
    start: Accuracy,
    kept: torch.Tensor | slice,
) -> list[dict[str, Any]]:
    """As pass_transfer.shrinking.finetune, with extras. An average is what it ends with."""
    steps = config.epochs * (len(task.train) // config.batch_size)
    stage = ExtraStage(network, task, config, runtime, teacher, extra, steps, kept)
    rows = run_stage(stage, task.train, config.loop(), runtime, start_top1=start.top1)
    if stage.mean is not None:
        network.load_state_dict(stage.mean.module.state_dict())
        recalibrate(network, task.train, runtime, seed=config.seed)
        network.eval()
        mean = evaluate(network, task.held_out, runtime).top1
        rows.append({"stage": "average", "held_out_top1": mean})
    network.eval()
    return rows
