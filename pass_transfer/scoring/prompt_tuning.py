"""Prompt tuning: the hypernetwork and the backbone are frozen, one prompt learns a new task.

arXiv 2407.17412, section 4: transfer of the hypernetwork by its prompt alone, by the loss
of the masked network. The prompt acts as the hypernetwork's condition and as pixels.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pass_transfer.arguments import check_is
from pass_transfer.networks import classifier_of, set_classifier
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.given_task import given_task
from pass_transfer.scoring.masked_loss import (
    DensityRange,
    MaskedStep,
    condition_scores,
    freeze,
    masked_logits,
    straight_through_masks,
)
from pass_transfer.scoring.method import Context
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.settings import check_densities, check_positive, check_whole
from pass_transfer.shrinking.map_labels import map_labels
from pass_transfer.surroundings import as_guest
from pass_transfer.tasks import Task
from pass_transfer.training import LoopConfig, Stage, choose_runtime, run_stage
from pass_transfer.training.augmentation import augmented

PASSES = 8


@dataclass(frozen=True)
class PromptConfig:
    """How a prompt is tuned.

    Fields:
        steps: steps on the prompt by the masked network's loss, but at most PASSES times
            through the training images.
        rows: rows of metrics; an iterative label mapping is made again with each.
        lr: peak step of Adam, in brightness; a frame starts with a spread of 0.01.
        head_lr: of Adam on the task's own classifier, which learns along (a mapped one does
            not).
        image_share: weight of the prompt's gradient as pixels, against as condition.
        low, high: range of densities trained at.
    """

    steps: int = 150
    rows: int = 5
    batch_size: int = 128
    lr: float = 1e-3
    head_lr: float = 1e-3
    image_share: float = 0.1
    low: float = 0.4
    high: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, steps=0, rows=1, batch_size=2, seed=0)
        check_positive(self, "lr", "head_lr")
        check_positive(self, "image_share", zero=True, most=1)
        check_densities(self.low, self.high)


DEFAULT = PromptConfig()


class TunePromptStage(Stage):
    """Cross-entropy of the masked network on the task.

    Only the prompt learns, and the task's classifier where no source classes stand for the task's.
    """

    name = "prompt"

    def __init__(
        self,
        hypernet: PretrainedHypernet,
        prompt: Prompt,
        config: PromptConfig,
        context: Context,
    ):
        runtime, own = context.runtime, context.mapping in ("linear", "same")
        # cuDNN differentiates an LSTM in training mode only; nothing else depends on it.
        self.hypernet = freeze(runtime.place(copy.deepcopy(hypernet.net))).train()
        self.prompt = prompt.to(runtime.device)
        self.task, self.mapping, self.runtime = context.task, context.mapping, runtime
        self.config = config
        dense = hypernet.network()
        self.source = classifier_of(dense.backbone)
        start = copy.deepcopy(context.task_network) if own else runtime.place(dense)
        self.network = freeze(start)
        self.densities = DensityRange(config.low, config.high)
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "prompt": torch.optim.Adam(self.prompt.parameters(), config.lr)
        }
        if own:
            head = self.head.requires_grad_(True)
            self.optimizers["head"] = torch.optim.Adam(head.parameters(), config.head_lr)
        else:
            self._map()
        self.modules = {"prompt": self.prompt, "head": self.head}
        self.masked_step = MaskedStep(
            self.hypernet, self.network, self.optimizers, runtime, config.image_share
        )

    @property
    def head(self) -> nn.Module:
        """The task's classifier."""
        return classifier_of(self.network.backbone)

    def _map(self) -> None:
        """Choose the source classes that stand for the task's.

        They are those that are predicted under the prompt and its masks.
        """
        network, groups = self.network, self.hypernet.groups
        frame = self.prompt.frame().detach()
        masks = self._masks(frame)
        set_classifier(network.backbone, self.runtime.place(copy.deepcopy(self.source)))

        def predict(images: torch.Tensor) -> torch.Tensor:
            return masked_logits(network, self.prompt, frame, groups, masks, images)

        head = map_labels(self.source, predict, self.task, self.runtime, self.config.seed)
        set_classifier(network.backbone, freeze(head))
        self.modules = {"prompt": self.prompt, "head": head}

    def _masks(self, frame: torch.Tensor) -> dict[str, torch.Tensor]:
        """Masks at the middle of the densities."""
        middle = (self.config.low + self.config.high) / 2
        scores = condition_scores(self.hypernet, frame)
        return straight_through_masks(scores, self.hypernet.groups, middle)

    def start_epoch(self, epoch: int, step: int) -> None:
        """An iterative mapping follows the prompt."""
        if self.mapping == "iterative" and epoch and not step:
            self._map()

    def step(
        self, pixels: torch.Tensor, labels: torch.Tensor, draw: torch.Generator, number: int
    ) -> dict[str, float]:
        """One step on uint8 images (B, 3, S, S)."""
        images = augmented(pixels, draw, self.task, self.runtime.device, self.part)
        labels = labels.to(self.runtime.device)
        density, weight = self.densities.draw(draw), self.part.weight(len(labels))
        return self.masked_step(self.prompt, images, labels, density, weight=weight)

    def evaluate(self) -> dict[str, float]:
        """Nothing: a prompt is used as it ends."""
        return {}


def tune(
    hypernet: PretrainedHypernet, prompt: Prompt, config: PromptConfig, context: Context
) -> list[dict[str, Any]]:
    """Tune a prompt in place for a context's task.

    Args:
        hypernet: with the prior that it corrects.
        prompt: where to start from.
        context: its label mapping is "linear", "frequency" or "iterative" (label_mapping.py), or
            "same" where the network's classifier is the task's.

    Returns:
        Rows of metrics.
    """
    train = context.task.train
    batch_size = min(config.batch_size, len(train))
    whole = len(train) // batch_size
    steps = min(config.steps, PASSES * whole)
    if not steps:
        return []
    loop = LoopConfig.of_steps(steps, len(train), batch_size, rows=config.rows, seed=config.seed)
    stage = TunePromptStage(hypernet, prompt, config, context)
    return run_stage(stage, train, loop, context.runtime, context.run)


@as_guest
def tune_prompt(
    hypernet: PretrainedHypernet,
    task: str | Task,
    *,
    data_dir: str | None = None,
    config: PromptConfig = DEFAULT,
    device: str = "auto",
    precision: str = "auto",
) -> Prompt:
    """Tune a prompt of a zoo hypernetwork on a task, starting from the source task's prompt.

    Args:
        task: a name (see load_task) or a loaded Task at the backbone's image size.
        data_dir: the folder of the task's parquet files, if it is not downloaded.

    Returns:
        The prompt, on the CPU, for hypernet.generate_masks.
    """
    data = given_task(hypernet, task, data_dir)
    check_is("config", config, PromptConfig, "a PromptConfig")
    runtime = choose_runtime(device, precision)
    prompt = hypernet.prompt()
    context = Context(hypernet.dense, hypernet.groups, data, runtime, hypernet, seed=config.seed)
    tune(hypernet, prompt, config, context)
    return prompt.cpu()
