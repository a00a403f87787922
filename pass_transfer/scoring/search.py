"""Stage 1 on a source dataset: the hypernetwork learns, the backbone is frozen.

arXiv 2407.17412, section 3: prompts by SGD, hypernetwork by AdamW, masks by a global
threshold at every step with straight-through gradients. Here over many source tasks with
a prompt each (source_tasks.py).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pass_transfer import ops
from pass_transfer.networks import classifier_of
from pass_transfer.networks.network import Network
from pass_transfer.prompts import KINDS, Prompt, default_pad
from pass_transfer.random_streams import stream
from pass_transfer.scoring.hypernet import Hypernet
from pass_transfer.scoring.masked_loss import DensityRange, MaskedStep, freeze
from pass_transfer.scoring.source_tasks import make_source_tasks, see
from pass_transfer.settings import check_choice, check_densities, check_positive, check_whole
from pass_transfer.tasks import Task
from pass_transfer.training import LoopConfig, RunFolder, Runtime, Stage, run_stage
from pass_transfer.training.augmentation import augmented


@dataclass(frozen=True)
class SearchConfig:
    """Stage-1 recipe.

    Fields:
        steps: optimisation steps over all source tasks.
        rows: rows of metrics over the search; a checkpoint is written with each.
        importance_tasks, importance_images: how many of the source tasks, and of the images
            of each, the prior's channel importance is measured on.
        tasks: number of source tasks; the first is the whole dataset.
        lr, weight_decay: of AdamW on the hypernetwork.
        prompt_lr: peak SGD step of a prompt, root mean square in brightness.
        head_lr: of Adam on the classifier, which starts from class means and learns along:
            masks are to keep what a classifier can use, not what one classifier uses.
        image_share: weight of a prompt's gradient as pixels, against as condition.
        prompt, pad: kind and width of the frame (0: in proportion to the image).
        low, high: range of densities trained at.
        gradient: which channels' scores learn in a step: all of them ("exact"), those kept
            ("kept"), or these and the next tenth of the ranking ("margin").
        uniform: whether every group keeps the same share in a step, instead of one ranking
            over all.
    """

    steps: int = 1500
    rows: int = 10
    importance_tasks: int = 8
    importance_images: int = 2048
    batch_size: int = 128
    tasks: int = 40
    lr: float = 1e-3
    weight_decay: float = 1e-2
    prompt_lr: float = 2e-3
    head_lr: float = 1e-3
    image_share: float = 0.1
    prompt: str = "additive"
    pad: int = 0
    low: float = 0.55
    high: float = 0.85
    gradient: str = "exact"
    uniform: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, steps=0, rows=1, batch_size=2, tasks=1, pad=0, seed=0)
        check_whole(self, importance_tasks=1, importance_images=1)
        check_positive(self, "lr", "prompt_lr", "head_lr")
        check_positive(self, "weight_decay", zero=True)
        check_positive(self, "image_share", zero=True, most=1)
        check_densities(self.low, self.high)
        check_choice("gradient", self.gradient, ops.GRADIENTS)
        check_choice("prompt", self.prompt, KINDS)


class SearchStage(Stage):
    """Each step belongs to one source task: its classes, its view, its prompt."""

    name = "search"

    def __init__(
        self,
        hypernet: Hypernet,
        task_network: Network,
        task: Task,
        config: SearchConfig,
        runtime: Runtime,
    ):
        self.task, self.config, self.runtime = task, config, runtime
        self.hypernet = runtime.place(hypernet)
        self.network = freeze(copy.deepcopy(task_network))
        self.sources = make_source_tasks(task.classes, config.tasks, config.seed)
        pad = config.pad or default_pad(task.size)
        seeds = range(config.seed * 1000, config.seed * 1000 + config.tasks)
        prompts = [Prompt(config.prompt, task.size, pad, seed) for seed in seeds]
        self.prompts = [prompt.to(runtime.device) for prompt in prompts]
        together = nn.ModuleList(self.prompts)
        self.densities = DensityRange(config.low, config.high)
        self.pools = [np.flatnonzero(np.isin(task.train.labels, s.classes)) for s in self.sources]
        head = classifier_of(self.network.backbone).requires_grad_(True)
        decay = config.weight_decay
        self.modules = {"hypernet": self.hypernet, "prompts": together, "head": head}
        self.optimizers = {
            "adamw": torch.optim.AdamW(hypernet.parameters(), config.lr, weight_decay=decay),
            "sgd": torch.optim.SGD(together.parameters(), config.prompt_lr),
            "head": torch.optim.Adam(head.parameters(), config.head_lr),
        }
        self.masked_step = MaskedStep(
            self.hypernet,
            self.network,
            self.optimizers,
            runtime,
            config.image_share,
            config.gradient,
            config.uniform,
        )
        self.epoch = 0

    def start_epoch(self, epoch: int, step: int) -> None:
        """Steps of an epoch take their tasks from its number."""
        self.epoch = epoch

    def source_of(self, epoch: int, number: int) -> int:
        """Which source task a step belongs to; every task gets its turn in a shuffled round."""
        turn, place = divmod(number, self.config.tasks)
        draw = stream(self.config.seed, "source task", epoch, turn)
        return int(torch.randperm(self.config.tasks, generator=draw)[place])

    def order(self, epoch: int, steps: int, batch_size: int) -> list[torch.Tensor]:
        """Each step draws images of its task's classes."""
        chosen = []
        for number in range(steps):
            pool = torch.from_numpy(self.pools[self.source_of(epoch, number)])
            draw = stream(self.config.seed, "source images", epoch, number)
            chosen.append(pool[torch.randint(len(pool), (batch_size,), generator=draw)])
        return chosen

    def step(
        self, pixels: torch.Tensor, labels: torch.Tensor, draw: torch.Generator, number: int
    ) -> dict[str, float]:
        """One step of one source task on uint8 images (B, 3, S, S)."""
        index = self.source_of(self.epoch, number)
        source, rows = self.sources[index], torch.tensor(self.sources[index].classes)
        seen = augmented(pixels, draw, self.task, self.runtime.device, self.part)
        images = see(seen, source.view)
        labels = torch.searchsorted(rows, labels).to(self.runtime.device)
        density = self.densities.draw(draw)
        weight = self.part.weight(len(labels))
        return self.masked_step(self.prompts[index], images, labels, density, rows, weight)

    def evaluate(self) -> dict[str, float]:
        """Nothing: the hypernetwork is used as it ends."""
        return {}


def search(
    hypernet: Hypernet,
    task_network: Network,
    task: Task,
    config: SearchConfig,
    runtime: Runtime,
    run: RunFolder | None = None,
) -> Prompt:
    """Train a hypernetwork in place on a source dataset.

    Args:
        task_network: the frozen backbone with a classifier for the task (with_task_head), left
            as it is.

    Returns:
        The prompt of the whole dataset.
    """
    stage = SearchStage(hypernet, task_network, task, config, runtime)
    if config.steps:
        loop = LoopConfig.of_steps(
            config.steps,
            len(task.train),
            config.batch_size,
            rows=config.rows,
            warmup=0.05,
            seed=config.seed,
        )
        run_stage(stage, task.train, loop, runtime, run)
    return stage.prompts[0]
