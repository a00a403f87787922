"""Stage 2: train a network's weights, and its prompt, with the masks fixed.

arXiv 2407.17412, section 3.
The same recipe fine-tunes a dense backbone, so that dense and pruned are compared fairly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pass_transfer.networks.network import Network
from pass_transfer.settings import check_choice, check_positive, check_whole
from pass_transfer.shrinking.distill import Teacher
from pass_transfer.tasks import Task
from pass_transfer.training import (
    Accuracy,
    LoopConfig,
    RunFolder,
    Runtime,
    Stage,
    evaluate,
    run_stage,
)
from pass_transfer.training.augmentation import augmented
from pass_transfer.training.processes import ALONE
from pass_transfer.training.replicas import Replicas
from pass_transfer.training.schedule import DECAYS
from pass_transfer.training.shared_statistics import shared_statistics


@dataclass(frozen=True)
class FinetuneConfig:
    """Stage-2 recipe.

    Fields:
        epochs: passes over the training images.
        lr: peak learning rate of SGD on the weights.
        prompt_lr: the same for the prompt, in units of image brightness.
        momentum, weight_decay: of SGD on the weights; BatchNorm and biases are not decayed.
        label_smoothing: of the cross-entropy.
        warmup, decay: how the learning rate rises and falls (training/schedule.py).
        whole_batch: BatchNorm sees the whole batch also where CPU threads could share it out
            (training/replicas.py), or processes do, so that their number decides nothing.
        mixup: parameter of the Beta distribution that images are blended by in pairs
            (arXiv 1710.09412), against overfitting in long training; 0 leaves it out.
    """

    epochs: int = 8
    batch_size: int = 128
    lr: float = 0.03
    prompt_lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    mixup: float = 0.0
    warmup: float = 0.15
    decay: str = "cosine"
    whole_batch: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, epochs=1, batch_size=2, seed=0)
        check_choice("decay", self.decay, tuple(DECAYS))
        check_positive(self, "lr", "prompt_lr")
        check_positive(self, "weight_decay", "mixup", zero=True)
        check_positive(self, "momentum", "label_smoothing", "warmup", zero=True, most=1)

    def loop(self) -> LoopConfig:
        """What the training loop needs of it."""
        return LoopConfig(self.epochs, self.batch_size, self.warmup, self.seed, decay=self.decay)


class FinetuneStage(Stage):
    """Cross-entropy on augmented images by SGD with Nesterov momentum.

    With a teacher, the network learns what that says of the images, too.
    """

    def __init__(
        self,
        network: Network,
        task: Task,
        config: FinetuneConfig,
        runtime: Runtime,
        name: str = "finetune",
        teacher: Teacher | None = None,
    ):
        self.name, self.task, self.config = name, task, config
        self.runtime, self.teacher = runtime, teacher
        self.network = runtime.place(network)
        self.joined = runtime.processes.count > 1
        self.model = runtime.processes.joined(self.network)
        self.replicas = None
        if not config.whole_batch:
            self.replicas = Replicas.fitting(self.network, runtime, config.batch_size)
        groups = _parameter_groups(network, config)
        sgd = torch.optim.SGD(groups, momentum=config.momentum, nesterov=True)
        self.modules = {"network": self.network}
        self.optimizers = {"sgd": sgd}

    def start_epoch(self, epoch: int, step: int) -> None:
        """BatchNorm learns its statistics while training."""
        self.model.train()

    def step(
        self, pixels: torch.Tensor, labels: torch.Tensor, draw: torch.Generator, number: int
    ) -> dict[str, float]:
        """One SGD step on uint8 images (B, 3, S, S)."""
        images = augmented(pixels, draw, self.task, self.runtime.device, self.part)
        labels = labels.to(self.runtime.device)
        share, partner = self._blend(len(labels), draw)
        if share < 1:
            images = share * images + (1 - share) * images[partner]

        def work(
            network: nn.Module, images: torch.Tensor, labels: torch.Tensor, partners: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            with self.runtime.autocast():
                logits = network(images).float()
            loss = share * self._cross_entropy(logits, labels)
            if share < 1:
                loss = loss + (1 - share) * self._cross_entropy(logits, partners)
            if self.teacher is not None:
                loss = self.teacher.loss(images, logits, labels, loss, self.runtime)
            return loss, logits.argmax(1).eq(labels)

        optimizer = self.optimizers["sgd"]
        optimizer.zero_grad(set_to_none=True)
        if self.replicas is None:
            loss, hits = work(self.model, images, labels, labels[partner])
            (self.part.weight(len(labels)) * loss).backward()
        else:
            loss, hits = self.replicas.backward(work, images, labels, labels[partner])
        self.regularise()
        optimizer.step()
        return {"loss": loss.item(), "top1": 100 * hits.cpu().double().mean().item()}

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        smoothing = self.config.label_smoothing
        return nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)

    def _blend(self, count: int, draw: torch.Generator) -> tuple[float, torch.Tensor]:
        """Mixup's weight of each image itself, and the image it is blended with."""
        mixup = self.config.mixup
        if not mixup:
            return 1.0, torch.arange(count)
        seed = int(torch.randint(2**31, (), generator=draw))
        share = float(np.random.default_rng(seed).beta(mixup, mixup))
        return share, torch.randperm(count, generator=draw)

    def regularise(self) -> None:
        """Add to the gradients, between backward and the optimizer's step; nothing here."""

    def evaluate(self) -> dict[str, float]:
        """Accuracy on the held-out images."""
        self.network.eval()
        statistics = [one for one in self.network.buffers() if one.is_floating_point()]
        self.runtime.processes.average(statistics)
        accuracy = evaluate(self.network, self.task.held_out, self.runtime)
        return {"top1": accuracy.top1, "top5": accuracy.top5, "loss": accuracy.loss}


def _parameter_groups(network: Network, config: FinetuneConfig) -> list[dict[str, Any]]:
    weights = [p for p in network.backbone.parameters() if p.ndim > 1]
    others = [p for p in network.backbone.parameters() if p.ndim <= 1]
    groups = [
        {"params": weights, "lr": config.lr, "weight_decay": config.weight_decay},
        {"params": others, "lr": config.lr, "weight_decay": 0.0},
    ]
    if network.prompt is not None:
        prompt = list(network.prompt.parameters())
        groups.append({"params": prompt, "lr": config.prompt_lr, "weight_decay": 0.0})
    return groups


def finetune(
    network: Network,
    task: Task,
    config: FinetuneConfig,
    runtime: Runtime,
    run: RunFolder | None = None,
    name: str = "finetune",
    *,
    teacher: Teacher | None = None,
    start: Accuracy | None = None,
) -> list[dict[str, Any]]:
    """Fine-tune a network in place; it ends in eval mode with the best epoch's weights.

    Args:
        network: its classifier has one row per class of the task.
        run, name: where checkpoints are kept, under which name.
        teacher: a network to learn from, beside the labels.
        start: accuracy on the held-out images as the network comes; given, its weights stay
            where no epoch is as good.

    Returns:
        One row of metrics per epoch.
    """
    stage = FinetuneStage(network, task, config, runtime, name, teacher)
    start_top1 = None if start is None else start.top1
    sharing = runtime.processes if config.whole_batch else ALONE
    with shared_statistics(network, sharing):
        rows = run_stage(stage, task.train, config.loop(), runtime, run, start_top1)
    network.eval()
    return rows
