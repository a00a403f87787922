"""Prompt tuning: the hypernetwork and the backbone are frozen, one prompt learns a new task.

arXiv 2407.17412, section 4: transfer of the hypernetwork by its prompt alone. First the
prompt, as condition, is brought to say what the task's images say of each channel's
importance; then it learns by the loss of the masked network, as condition and as pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import torch

from pass_transfer.backbones import classifier_name
from pass_transfer.hypernet import Hypernet
from pass_transfer.recipes.match_importance import match_importance
from pass_transfer.recipes.masked_loss import DensityRange, freeze, masked_step
from pass_transfer.network import Network
from pass_transfer.recipes.task_importance import task_importance, with_own_head
from pass_transfer.recipes.warm_start import targets_of
from pass_transfer.prompts import Prompt
from pass_transfer.tasks import Task, load_task
from pass_transfer.training import LoopConfig, RunFolder, Runtime, Stage, choose_runtime, run_stage, to_images
from pass_transfer.training.batches import augment
from pass_transfer.zoo.entry import PretrainedHypernet

@dataclass(frozen=True)
class PromptConfig:
    """How a prompt is tuned.

    Fields:
        match_steps: steps that bring the prompt's scores towards what the task's own Taylor
            importance asks for; 0 leaves them out.
        match_images: training images that importance is measured on.
        steps: SGD steps on the prompt by the masked network's loss; 0 leaves them out.
        lr: peak step in brightness (root mean square over the frame) before momentum.
        head_lr: of Adam on the task's own classifier, which learns along.
        image_share: weight of the prompt's gradient as pixels, against as condition.
        low, high: range of densities trained at.
    """

    match_steps: int = 400
    match_images: int = 2048
    steps: int = 100
    batch_size: int = 128
    lr: float = 0.003
    momentum: float = 0.9
    head_lr: float = 1e-3
    image_share: float = 0.3
    low: float = 0.45
    high: float = 0.85
    seed: int = 0


class TunePromptStage(Stage):
    """Cross-entropy of the masked network on the task; only the prompt and the classifier learn."""

    name = "prompt"

    def __init__(self, hypernet: Hypernet, network: Network, prompt: Prompt, task: Task, config: PromptConfig, runtime: Runtime):
        self.hypernet, self.network = freeze(runtime.place(hypernet)), freeze(runtime.place(network))
        self.prompt, self.task, self.config, self.runtime = prompt.to(runtime.device), task, config, runtime
        self.head = network.backbone.get_submodule(classifier_name(network.backbone)).requires_grad_(True)
        self.densities = DensityRange(config.low, config.high)
        self.modules = {"prompt": self.prompt, "head": self.head}
        self.optimizers = {"prompt": torch.optim.SGD(self.prompt.parameters(), config.lr, momentum=config.momentum),
                           "head": torch.optim.Adam(self.head.parameters(), config.head_lr)}

    def step(self, pixels: torch.Tensor, labels: torch.Tensor, draw: torch.Generator, number: int) -> dict[str, float]:
        """One step on uint8 images (B, 3, S, S)."""
        images = to_images(augment(pixels, draw, self.task.mirrored), self.runtime.device)
        return masked_step(self.hypernet, self.network, self.prompt, images, labels.to(self.runtime.device), self.densities.draw(draw),
                           image_share=self.config.image_share, optimizers=self.optimizers.values(), runtime=self.runtime)

    def evaluate(self) -> dict[str, float]:
        """Nothing: a prompt is used as it ends."""
        return {}


def tune(hypernet: Hypernet, network: Network, prompt: Prompt, task: Task, config: PromptConfig, runtime: Runtime,
         run: RunFolder | None = None, starts: Sequence[Prompt] = ()) -> list[dict]:
    """Tune a prompt in place for a task.

    Args:
        network: the dense network, left as it is.
        prompt: where to start from, unless
        starts: prompts of other tasks, of which the one whose scores suit this task best is taken.

    Returns:
        Rows of metrics, at least five.
    """
    batch_size = min(config.batch_size, len(task.train))
    rows = max(5, math.ceil(config.steps * batch_size / len(task.train)))
    loop = LoopConfig(rows, batch_size, warmup=0.1, seed=config.seed, steps_per_epoch=max(1, config.steps // rows))
    own = with_own_head(network, task.train, task.classes, runtime, config.seed)
    stage = TunePromptStage(hypernet, own, prompt, task, config, runtime)
    if config.match_steps and (run is None or run.load_checkpoint(stage.name) is None):
        importance = task_importance(network, hypernet.groups, task.train, task.classes, runtime, config.match_images, config.seed)
        match_importance(stage.hypernet, prompt, targets_of(hypernet, [importance])[0], config.match_steps, starts)
    return run_stage(stage, task.train, loop, runtime, run) if config.steps else []


def tune_prompt(hypernet: PretrainedHypernet, task: str | Task, *, data_dir: str | None = None, config: PromptConfig = PromptConfig(),
                device: str = "auto", precision: str = "auto") -> Prompt:
    """Tune a prompt of a zoo hypernetwork on a task, starting from the source task's prompt.

    Args:
        task: a name (see load_task) or a loaded Task at the backbone's image size.

    Returns:
        The prompt, on the CPU, for hypernet.generate_masks.
    """
    runtime = choose_runtime(device, precision)
    data = load_task(task, hypernet.spec.image_size, data_dir) if isinstance(task, str) else task
    prompt = hypernet.prompt()
    tune(hypernet.net, Network(hypernet.backbone(), hypernet.spec.mean, hypernet.spec.std), prompt, data, config, runtime,
         starts=hypernet.prompts())
    return prompt.cpu()
