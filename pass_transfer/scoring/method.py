"""What a method is: a function from a context to scores of units.

Units are whole channels, or single weights: a method says which. Everything after the scores is
the same for every method of a unit: one ranking, cut at a budget, then removal (for single
weights, zeros that stay) and training. A method registers itself by name; scoring/registry.py
lists them all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import nn

from pass_transfer.budgets import Budget, CutNetwork, Sparsity
from pass_transfer.errors import UsageError
from pass_transfer.files import read_tensors, write_tensors
from pass_transfer.networks import ChannelGroups, CostTable
from pass_transfer.networks.network import Network
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.networks.single_weights import single_weights
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.judge import AUTO, Judge, task_judge
from pass_transfer.scoring.pretrained import PretrainedHypernet, cut_network
from pass_transfer.scoring.samples import (
    Samples,
    forward_of,
    task_importance,
    task_selection,
)
from pass_transfer.tasks import Task
from pass_transfer.training import RunFolder, Runtime

Scores = Mapping[str, torch.Tensor]
CHANNEL, WEIGHT = "channel", "weight"
UNITS = (CHANNEL, WEIGHT)  # what can go: whole channels, or single weights


@dataclass(frozen=True)
class Found:
    """What a method found.

    Fields:
        scores: (width,) of each channel group, or of each weight's shape (O, I, ...); higher
            ones are kept.
        prompt: the visual prompt that gave them, if the method has one.
        deployed: whether the prompt stays in the image when the network is trained and used.
    """

    scores: Scores
    prompt: Prompt | None = None
    deployed: bool = False


@dataclass(frozen=True)
class Context:
    """What a method may look at: a network and a task's training images, never its test images.

    Fields:
        dense: the network whose channels are scored.
        groups: what is scored: the network's groups, or every convolution on its own.
        task: its held-out images may select; its test images are not touched.
        hypernet: the zoo entry, for a method that needs one.
        settings: of the method.
        budget: for a method that searches anew for every budget; a Sparsity where single
            weights are scored.
        uniform: whether the budget will be shared out equally over the groups.
        mapping: how the source's classes become the task's while scores are found.
        measuring: how the classifier is made that channels are measured with (judge.MEASURING).
        run: where checkpoints and what takes long are kept, if there is a run.
    """

    dense: PretrainedBackbone
    groups: ChannelGroups
    task: Task
    runtime: Runtime
    hypernet: PretrainedHypernet | None = None
    settings: Any = None
    budget: Budget | Sparsity | None = None
    uniform: bool = False
    mapping: str = "linear"
    measuring: str = AUTO
    batch_size: int = 128
    seed: int = 0
    run: RunFolder | None = None

    @property
    def entry(self) -> PretrainedHypernet:
        """The zoo entry. Raises UsageError where there is none."""
        if self.hypernet is None:
            raise UsageError("this method needs a hypernetwork, which is not given")
        return self.hypernet

    @cached_property
    def table(self) -> CostTable:
        """MACs of the network's groups, with the task's classifier."""
        size = self.dense.spec.image_size
        table = CostTable(self.dense.module, self.groups, size)
        return table.with_classes(self.task.classes)

    @property
    def sparsity(self) -> Sparsity:
        """How many single weights go. Raises UsageError where channels are scored."""
        if not isinstance(self.budget, Sparsity):
            raise UsageError("this method scores single weights, and needs a Sparsity")
        return self.budget

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """The dense network's single weights that may go (single_weights); never to be changed."""
        return single_weights(self.dense.module, self.sparsity.keep_layers)

    def cut_network(self, prompt: Prompt | None = None) -> CutNetwork:
        """What a budget is for: these groups, with a prompt inside where the network is timed."""
        whole = cut_network(self.dense, prompt, self.task.classes, self.runtime.device)
        return dataclasses.replace(whole, groups=self.groups, table=self.table)

    @cached_property
    def judge(self) -> Judge:
        """The frozen dense network as it judges the task's training images, made once."""
        network, task = self.dense.network(), self.task
        if self.mapping == "same":
            own = self.runtime.place(network).requires_grad_(False)
            return Judge(own, task.train, task.classes, own)
        return task_judge(network, task, self.runtime, self.seed, self.measuring)

    @property
    def task_network(self) -> Network:
        """The frozen dense network with a classifier for the task; copy it to train."""
        return self.judge.network_of_all

    def samples(self, images: int) -> Samples:
        """Training images, labelled by class; every process sees all of them."""
        split, runtime, size = self.task.train, self.runtime, self.task.size
        return Samples(split, runtime, images, self.seed, size=size, shared_out=False)

    def judged(self, images: int) -> Samples:
        """Training images, labelled as the judge has them; processes share them out."""
        return Samples(self.judge.split, self.runtime, images, self.seed, size=self.task.size)

    def importance(self, images: int) -> Scores:
        """First-order Taylor importance to the task, on so many of its training images."""
        judge = self.judge
        return task_importance(judge.network, self.groups, self.judged(images), judge.loss)

    def selection(self, images: int) -> Scores:
        """The order of forward selection on the task, on so many of its training images."""
        judge = self.judge
        return task_selection(judge.network, self.groups, self.judged(images), judge.loss)

    def seen(
        self, images: int
    ) -> tuple[nn.Module, ChannelGroups, Samples, Callable[[torch.Tensor], torch.Tensor]]:
        """The frozen dense backbone, its groups, training images, and how it runs on them.

        For what needs no classifier of the task.
        """
        network = self.runtime.place(self.dense.network()).requires_grad_(False)
        forward = forward_of(network, self.runtime)
        return network.backbone, self.groups, self.samples(images), forward

    def once(self, name: str, make: Callable[[], Scores]) -> Scores:
        """Scores that take long: kept in the run's folder, and not made again on resume."""
        if self.run is None:
            return make()
        path = self.run.work / f"{name}.safetensors"
        if not path.exists():
            write_tensors(path, make())
        return read_tensors(path)


@dataclass(frozen=True)
class Method:
    """One method.

    Fields:
        name: by which it is chosen.
        scores: context to what it finds.
        settings: a frozen dataclass of what can be set, or None.
        steps: settings to the optimisation steps on dense-sized batches that it takes, for
            estimates.
        each_budget: whether scores are found anew for every budget.
        coupled: whether it can only score whole groups, not every convolution on its own.
        needs_hypernet: whether it needs a zoo entry.
        unit: what it scores, one of UNITS. Methods of two units may have one name.
    """

    name: str
    scores: Callable[[Context], Scores | Found]
    settings: type | None = None
    steps: Callable[[Any], float] = lambda settings: 0.0
    each_budget: bool = False
    coupled: bool = False
    needs_hypernet: bool = False
    unit: str = CHANNEL


METHODS: dict[str, Method] = {}  # of channels
WEIGHT_METHODS: dict[str, Method] = {}
METHODS_OF = {CHANNEL: METHODS, WEIGHT: WEIGHT_METHODS}

Scorer = TypeVar("Scorer", bound=Callable[[Context], Scores | Found])


def register(name: str, settings: type | None = None, **fields: Any) -> Callable[[Scorer], Scorer]:
    """Make the function below a method of this name; `fields` are those of Method."""

    def add(scores: Scorer) -> Scorer:
        method = Method(name, scores, settings, **fields)
        METHODS_OF[method.unit][name] = method
        return scores

    return add
