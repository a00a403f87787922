"""Prompt tuning: the hypernetwork and the backbone are frozen, one prompt learns a new task.

arXiv 2407.17412, section 4: transfer of the hypernetwork by its prompt alone, by the loss
of the masked network. The prompt acts as the hypernetwork's condition and as pixels.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from pass_transfer.networks import classifier_name, set_classifier
from pass_transfer.networks.network import Network
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.hypernet import Hypernet
from pass_transfer.scoring.masked_loss import (
    DensityRange,
    condition_scores,
    freeze,
    masked_logits,
    masked_step,
    straight_through_masks,
)
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.settings import check_positive, check_whole
from pass_transfer.shrinking.classifier import with_task_head
from pass_transfer.shrinking.map_labels import map_labels
from pass_transfer.tasks import Task, load_task
from pass_transfer.training import LoopConfig, RunFolder, Runtime, Stage, choose_runtime, run_stage
from pass_transfer.training.batches import augmented

PASSES = 8


@dataclass(frozen=True)
class PromptConfig:
    """How a prompt is tuned.

    Fields:
        steps: steps on the prompt by the masked network's loss, but at most PASSES times
            through the training images.
        rows: rows of metrics; an iterative label mapping is made again with each.
        lr: peak step of Adam, in brightness; a frame starts with a spread of 0.01.
        head_lr: of Adam on the task's own classifier, which learns along (a mapped one does not).
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


class TunePromptStage(Stage):
    """Cross-entropy of the masked network on the task; only the prompt, and a new classifier, learn."""

    name = "prompt"

    def __init__(
        self,
        hypernet: Hypernet,
        network: Network,
        prompt: Prompt,
        task: Task,
        mapping: str,
        config: PromptConfig,
        runtime: Runtime,
    ):
        self.hypernet = freeze(
            runtime.place(copy.deepcopy(hypernet))
        ).train()  # cuDNN differentiates an LSTM in training mode only; nothing else depends on it
        self.prompt = prompt.to(runtime.device)
        self.task, self.mapping, self.config, self.runtime = task, mapping, config, runtime
        self.source = network.backbone.get_submodule(classifier_name(network.backbone))
        linear = mapping == "linear"
        self.network = freeze(
            with_task_head(network, task.train, task.classes, runtime, config.seed)
            if linear
            else runtime.place(copy.deepcopy(network))
        )
        self.densities = DensityRange(config.low, config.high)
        self.optimizers = {"prompt": torch.optim.Adam(self.prompt.parameters(), config.lr)}
        if linear:
            self.optimizers["head"] = torch.optim.Adam(
                self.head.requires_grad_(True).parameters(), config.head_lr
            )
        else:
            self._map()
        self.modules = {"prompt": self.prompt, "head": self.head}

    @property
    def head(self) -> nn.Linear:
        """The task's classifier."""
        return self.network.backbone.get_submodule(classifier_name(self.network.backbone))

    def _map(self) -> None:
        """Choose the source classes that stand for the task's, by what is predicted under the prompt and its masks."""
        frame = self.prompt.frame().detach()
        masks = self._masks(frame)
        set_classifier(self.network.backbone, self.runtime.place(self.source))
        head = map_labels(
            self.source,
            lambda x: masked_logits(
                self.network, self.prompt, frame, self.hypernet.groups, masks, x
            ),
            self.task,
            self.runtime,
            self.config.seed,
        )
        set_classifier(self.network.backbone, freeze(head))
        self.modules = {"prompt": self.prompt, "head": head}

    def _masks(self, frame: torch.Tensor) -> dict[str, torch.Tensor]:
        """Masks at the middle of the densities."""
        return straight_through_masks(
            condition_scores(self.hypernet, frame),
            self.hypernet.groups,
            (self.config.low + self.config.high) / 2,
        )

    def start_epoch(self, epoch: int, step: int) -> None:
        """An iterative mapping follows the prompt."""
        if self.mapping == "iterative" and epoch and not step:
            self._map()

    def step(
        self, pixels: torch.Tensor, labels: torch.Tensor, draw: torch.Generator, number: int
    ) -> dict[str, float]:
        """One step on uint8 images (B, 3, S, S)."""
        images = augmented(pixels, draw, self.task.mirrored, self.runtime.device)
        return masked_step(
            self.hypernet,
            self.network,
            self.prompt,
            images,
            labels.to(self.runtime.device),
            self.densities.draw(draw),
            image_share=self.config.image_share,
            optimizers=self.optimizers.values(),
            runtime=self.runtime,
        )

    def evaluate(self) -> dict[str, float]:
        """Nothing: a prompt is used as it ends."""
        return {}


def tune(
    hypernet: Hypernet,
    network: Network,
    prompt: Prompt,
    task: Task,
    config: PromptConfig,
    runtime: Runtime,
    run: RunFolder | None = None,
    mapping: str = "linear",
) -> list[dict]:
    """Tune a prompt in place for a task.

    Args:
        network: the dense network with the source's classifier, left as it is.
        prompt: where to start from.
        mapping: "linear", "frequency" or "iterative" (label_mapping.py).

    Returns:
        Rows of metrics.
    """
    batch_size = min(config.batch_size, len(task.train))
    whole = len(task.train) // batch_size
    steps = min(config.steps, PASSES * whole)
    if not steps:
        return []
    loop = LoopConfig.of_steps(
        steps, len(task.train), batch_size, rows=config.rows, seed=config.seed
    )
    return run_stage(
        TunePromptStage(hypernet, network, prompt, task, mapping, config, runtime),
        task.train,
        loop,
        runtime,
        run,
    )


def tune_prompt(
    hypernet: PretrainedHypernet,
    task: str | Task,
    *,
    data_dir: str | None = None,
    config: PromptConfig = PromptConfig(),
    device: str = "auto",
    precision: str = "auto",
) -> Prompt:
    """Tune a prompt of a zoo hypernetwork on a task, starting from the source task's prompt.

    Args:
        task: a name (see load_task) or a loaded Task at the backbone's image size.

    Returns:
        The prompt, on the CPU, for hypernet.generate_masks.
    """
    runtime = choose_runtime(device, precision)
    data = load_task(task, hypernet.spec.image_size, data_dir) if isinstance(task, str) else task
    prompt = hypernet.prompt()
    tune(
        hypernet.net,
        Network(hypernet.backbone(), hypernet.spec.mean, hypernet.spec.std),
        prompt,
        data,
        config,
        runtime,
    )
    return prompt.cpu()
