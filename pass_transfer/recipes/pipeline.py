"""The way from a pretrained network to a small one: score, cut, shrink, fine-tune, measure.

adapt goes this way once, and so does each cell of a study. What differs between them is
what they keep on disk in between.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pass_transfer.budgets import Budget, Sparsity
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import ChannelGroups, count_macs, find_groups
from pass_transfer.networks.network import Network
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.networks.single_weights import single_weights
from pass_transfer.progress import say
from pass_transfer.random_streams import seed_layers
from pass_transfer.scoring.judge import AUTO
from pass_transfer.scoring.method import Context, Found
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.random import random_scores
from pass_transfer.scoring.registry import ChosenMethod
from pass_transfer.shrinking import shrink as shrinking
from pass_transfer.shrinking.distill import Teacher
from pass_transfer.shrinking.finetune import FinetuneConfig, finetune
from pass_transfer.tasks import Task
from pass_transfer.training import Accuracy, RunFolder, Runtime, evaluate
from pass_transfer.weight_masks import WeightMasks

Masks = ChannelMasks | WeightMasks


@dataclass(frozen=True)
class Job:
    """One small network to be made.

    Fields:
        dense: the network that it is made from.
        hypernet: the zoo entry, for a method that needs one.
        task: what it is made for.
        chosen: the method, with its settings.
        budget: how large it may be; of single weights, how many go.
        recipe: how it is fine-tuned.
        mapping: how the task's classifier is made: "linear", "frequency" or "iterative"; or
            "same" for the network's own, of the same classes.
        measuring: how the classifier is made that channels are measured with (scoring/judge.py).
        reconstruct: whether kept channels take over what cut ones carried; or how
            (shrinking.ShrinkConfig).
        seed: of everything that is drawn.
    """

    dense: PretrainedBackbone
    hypernet: PretrainedHypernet | None
    task: Task
    runtime: Runtime
    chosen: ChosenMethod
    budget: Budget | Sparsity
    recipe: FinetuneConfig
    mapping: str = "linear"
    measuring: str = AUTO
    reconstruct: bool | str = True
    seed: int = 0

    @cached_property
    def groups(self) -> ChannelGroups:
        """What is scored: the network's groups, or every convolution on its own."""
        if self.chosen.coupling == self.dense.groups.coupling:
            return self.dense.groups
        size = self.dense.spec.image_size
        return find_groups(self.dense.module, size, self.chosen.coupling)

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """The single weights that may go, where these are the units; else none."""
        if not isinstance(self.budget, Sparsity):
            return {}
        return single_weights(self.dense.module, self.budget.keep_layers)

    def load_masks(self, path: Path) -> Masks:
        """Masks of the job's units, as they were saved. Raises MaskError for another network's."""
        if isinstance(self.budget, Sparsity):
            return WeightMasks.load(path, self.weights)
        return ChannelMasks.load(path, self.groups)

    def channels_kept(self, masks: Masks) -> dict[str, int]:
        """Channels of each group that are left; all where single weights go."""
        if isinstance(masks, ChannelMasks):
            return masks.kept
        return {name: group.width for name, group in self.groups.items()}

    def context(self, run: RunFolder | None = None) -> Context:
        """What the method may look at."""
        return Context(
            self.dense,
            self.groups,
            self.task,
            self.runtime,
            hypernet=self.hypernet,
            settings=self.chosen.settings,
            budget=self.budget,
            uniform=self.chosen.uniform,
            mapping=self.mapping,
            measuring=self.measuring,
            batch_size=self.recipe.batch_size,
            seed=self.seed,
            run=run,
        )


@dataclass(frozen=True)
class Measured:
    """A small network's figures.

    Fields:
        test: accuracy on the test images.
        top1_without_prompt: of the same network without its prompt; None where it has none.
        macs: multiply-accumulates for one image.
        parameters: of the backbone; single weights that went do not count.
    """

    test: Accuracy
    top1_without_prompt: float | None
    macs: int
    parameters: int


def score(job: Job, run: RunFolder | None = None) -> Found:
    """Scores of the job's units by its method. Raises UsageError, DivergedError."""
    seed_layers(job.seed, job.runtime.device)
    return job.chosen.score(job.context(run))


def cut(job: Job, found: Found) -> Masks:
    """The masks within the job's budget. Raises MaskError where it cannot be met."""
    prompt = found.prompt if found.deployed else None
    if isinstance(job.budget, Sparsity):
        return job.budget.cut(found.scores, job.weights)
    return _filled(job, job.budget).cut(found.scores, job.context().cut_network(prompt))


def check_budget(job: Job) -> None:
    """Refuse a budget that cannot be met, before any work is done; errors as of cut."""
    if isinstance(job.budget, Sparsity):
        job.budget.check(job.weights)
        return
    timed = job.hypernet.prompt() if job.hypernet and job.chosen.method.needs_hypernet else None
    scores = random_scores(job.groups, 0)
    _filled(job, job.budget).check(scores, job.context().cut_network(timed))


def _filled(job: Job, budget: Budget) -> Budget:
    return budget.filled().replace(uniform=job.chosen.uniform)


def shrink(job: Job, masks: Masks | None, prompt: nn.Module | None) -> tuple[Network, Accuracy]:
    """The network that fine-tuning starts from, and its accuracy on the held-out images.

    Args:
        masks: None for the dense network.
        prompt: becomes part of it.
    """
    config = shrinking.ShrinkConfig(job.mapping, job.reconstruct, job.seed)
    network = shrinking.shrink(job.dense, job.groups, masks, prompt, job.task, config, job.runtime)
    return network, evaluate(network, job.task.held_out, job.runtime)


def train(
    job: Job,
    network: Network,
    start: Accuracy | None,
    *,
    run: RunFolder | None = None,
    stage: str = "finetune",
    teacher: Teacher | None = None,
) -> list[dict[str, Any]]:
    """Fine-tune a network in place; `start` stays where no epoch is as good. Returns metrics."""
    return finetune(
        network, job.task, job.recipe, job.runtime, run, stage, teacher=teacher, start=start
    )


def tuned(
    job: Job,
    masks: Masks | None,
    prompt: nn.Module | None,
    *,
    run: RunFolder,
    stage: str,
    teacher: Teacher | None = None,
) -> Network:
    """A network fine-tuned by the job's recipe, or the rest of it where that has begun.

    Args:
        masks, prompt: see shrink.
        run, stage: where its checkpoints are, and under which name.
    """
    seed_layers(job.seed, job.runtime.device)
    start = None
    if run.has_checkpoint(stage):  # which holds all weights, so none are made for it
        network = _untrained(job, masks, prompt).requires_grad_(True)
    else:
        network, start = shrink(job, masks, prompt)
        say(
            f"{stage}: {count_macs(network, job.dense.spec.image_size) / 1e6:.1f} M MACs, "
            f"{start.top1:.1f} % on held-out images before fine-tuning, {job.recipe.epochs} epochs"
        )
    train(job, network, start, run=run, stage=stage, teacher=teacher)
    return network


def _untrained(job: Job, masks: Masks | None, prompt: nn.Module | None) -> Network:
    """A network of the shape of what is trained, with zeros where they are to stay."""
    if not isinstance(masks, WeightMasks):
        return job.dense.network(masks, prompt, job.task.classes)
    network = job.dense.network(None, prompt, job.task.classes)
    masks.zero_(network.backbone)
    masks.hold(network.backbone)
    return network


def measure(job: Job, network: Network, masks: Masks) -> Measured:
    """The one look at the test images, and what the network costs."""
    context, test = job.context(), job.task.test
    found = evaluate(network, test, job.runtime)
    plain = None
    if network.prompt is not None:
        plain = evaluate(partial(network, use_prompt=False), test, job.runtime).top1
    kept = job.channels_kept(masks)
    macs, parameters = context.table.macs(kept), context.table.parameters(kept)
    if isinstance(masks, WeightMasks):
        parameters -= masks.dropped
    if job.groups.coupling == job.dense.groups.coupling:
        macs = count_macs(network, job.dense.spec.image_size)
    return Measured(found, plain, macs, parameters)


def deployed_prompt(job: Job, found: Found | None = None) -> nn.Module | None:
    """A copy of the prompt that is trained and saved with the network, if there is one.

    The method's own, where it has one that stays; else what the network came with.
    """
    deployed = found is not None and found.deployed
    return copy.deepcopy(found.prompt if found and deployed else job.dense.prompt)


def from_dense(job: Job, network: Network) -> Job:
    """The same job, made from a dense network that was fine-tuned for the task.

    It keeps its classifier, and a hypernetwork reads its weights.
    """
    before = job.dense
    spec = dataclasses.replace(before.spec, classes=job.task.classes)
    hypernet = None if job.hypernet is None else job.hypernet.with_backbone(network.backbone)
    dense = PretrainedBackbone(
        network.backbone, spec, before.groups, before.name, network.prompt, before.kept
    )
    return dataclasses.replace(job, dense=dense, hypernet=hypernet, mapping="same")


def with_epochs(job: Job, epochs: int) -> Job:
    """The same job, fine-tuned for so many epochs."""
    return dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, epochs=epochs))
