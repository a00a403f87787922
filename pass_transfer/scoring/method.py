"""What a method of a study is: a function from a context to channel scores, and how much work that is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from pass_transfer.networks import ChannelGroups, CostTable
from pass_transfer.networks.network import Network
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.tasks import Task
from pass_transfer.training import Runtime

Scores = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Found:
    """What a search found: scores (width,) of each group, and a prompt where one is to be deployed with the network."""

    scores: Scores
    prompt: Prompt | None = None


@dataclass(frozen=True)
class Context:
    """What a method may look at: the entry's backbone and the task's training images, never its test images.

    Fields:
        task: its held-out images may select, its test images are not touched.
        budget: share of the dense MACs, for a method that searches each budget anew.
        settings: of the method.
        groups: what is scored: the entry's groups, or every convolution on its own.
        uniform: whether the budget will be shared out equally over the groups.
    """

    entry: PretrainedHypernet
    task: Task
    runtime: Runtime
    seed: int
    batch_size: int
    budget: float
    settings: Any
    groups: ChannelGroups
    uniform: bool = False

    @cached_property
    def table(self) -> CostTable:
        """MACs with the task's classifier."""
        return CostTable(
            self.entry.backbone(), self.groups, self.entry.spec.image_size
        ).with_classes(self.task.classes)

    def network(self) -> Network:
        """A fresh dense network with the source's classifier, without a prompt."""
        return self.entry.network()


@dataclass(frozen=True)
class Method:
    """One method.

    Fields:
        scores: context to what it finds; higher ones are kept.
        steps: settings to the optimisation steps on dense-sized batches that it takes, for estimates.
        settings: a frozen dataclass of what can be set, or None.
        each_budget: whether scores are found anew for every budget.
        coupled: whether it can only score whole groups, not every convolution on its own.
        uniform: whether the budget is shared out equally over the groups.
        coupling: "grouped", or "independent" for a mask of its own for every convolution of a residual stream.
    """

    scores: Callable[[Context], Scores | Found]
    steps: Callable[[Any], float] = lambda settings: 0.0
    settings: type | None = None
    each_budget: bool = False
    coupled: bool = False
    uniform: bool = False
    coupling: str = "grouped"
