"""A study: which methods, tasks, budgets and seeds are compared."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pass_transfer.scoring.judge import AUTO
from pass_transfer.scoring.method import CHANNEL
from pass_transfer.scoring.registry import ChosenMethod, choose_method
from pass_transfer.shrinking.finetune import FinetuneConfig
from pass_transfer.study.tasks import StudyTask


@dataclass(frozen=True)
class Cell:
    """One network of a study.

    A method's masks for a task within a share of the dense MACs, fine-tuned with a seed.
    """

    task: str
    method: str
    budget: float
    seed: int

    @property
    def name(self) -> str:
        """Its file's name without .json."""
        task = self.task.replace("/", "_").replace(":", "-")
        return f"{task}-{self.budget:g}-{self.method}-{self.seed}"


@dataclass(frozen=True)
class Study:
    """What is compared.

    Fields:
        hypernet: zoo entry whose backbone every method starts from; or None for a network.
        network, weights, image_size: the network by its name that they start from; see
            load_network.
        tasks: by what the study calls them.
        methods: name to settings (fields that differ from the defaults); a name of one's own
            stands for the method in its settings' `method`.
        budgets: shares of the dense network's MACs to keep; of its single weights, where these
            are the units.
        seeds: of search, fine-tuning and initial values.
        epochs, batch_size: of fine-tuning, the same for every method; a task may have epochs of
            its own.
        measuring: how the classifier is made that channels are measured with
            (scoring/judge.py), the same for every method.
        train_images: how many training images are used, the same for all; None for all.
        reconstruct: whether kept channels take over what cut ones carried, by least squares, or
            by a way of shrinking/reconstruct.py; the same for every method.
        round_to: groups keep a multiple of this many channels; with 1, each budget is filled
            up with single channels.
        unit: what goes, "channel" or "weight" for single weights.
        out: folder of the cells' JSON files.
    """

    hypernet: str | None
    tasks: Mapping[str, StudyTask]
    methods: Mapping[str, Mapping[str, Any]]
    budgets: tuple[float, ...]
    seeds: tuple[int, ...]
    epochs: int = 1
    batch_size: int = 128
    train_images: int | None = None
    measuring: str = AUTO
    reconstruct: bool | str = True
    round_to: int = 1
    out: Path = field(default=Path("study"))
    network: str | None = None
    weights: str | None = None
    image_size: int | None = None
    unit: str = CHANNEL

    @property
    def made_from(self) -> str:
        """The zoo entry, or the network by its name."""
        return str(self.network or self.hypernet)

    @property
    def shares_of(self) -> str:
        """What of the dense network a budget is a share of."""
        return "MACs" if self.unit == CHANNEL else "single weights"

    def method(self, name: str) -> ChosenMethod:
        """The method of a name in `methods`, with its settings."""
        return choose_method(name, self.methods[name], self.unit)

    def cells(self) -> list[Cell]:
        """All cells, one seed after the other: a study that is stopped early has whole columns.

        Those that share a search stand together.
        """
        alike: dict[str, list[str]] = {}
        for called, task in self.tasks.items():
            alike.setdefault(task.search or called, []).append(called)
        found = []
        for seed, names, method in itertools.product(self.seeds, alike.values(), self.methods):
            for called, budget in itertools.product(names, self.budgets):
                found.append(Cell(called, method, budget, seed))
        return found

    def search_of(self, cell: Cell) -> Cell:
        """What stands for all cells that share a search, but for their budgets."""
        return dataclasses.replace(cell, task=self.tasks[cell.task].search or cell.task)

    def identity(self, cell: Cell) -> dict[str, Any]:
        """What decides a cell's result: all settings of the method, the defaults too."""
        network = {"network": self.network, "image_size": self.image_size}
        measuring = {} if self.measuring == AUTO else {"measuring": self.measuring}
        return {
            **({"hypernet": self.hypernet} if self.network is None else network),
            **self.tasks[cell.task].identity(cell.task, self.epochs),
            **dataclasses.asdict(cell),
            "settings": self.method(cell.method).saved(),
            "batch_size": self.batch_size,
            "train_images": self.train_images,
            "reconstruct": self.reconstruct,
            "round_to": self.round_to,
            **measuring,
            **({} if self.unit == CHANNEL else {"unit": self.unit}),
        }


def epochs_of(study: Study, task: str) -> int:
    """Epochs of fine-tuning on one of a study's tasks."""
    own = study.tasks[task].epochs
    return study.epochs if own is None else own


def recipe(study: Study, task: str, seed: int) -> FinetuneConfig:
    """The fine-tuning that every method's network gets, where it gets any."""
    epochs = max(1, epochs_of(study, task))
    return FinetuneConfig(epochs=epochs, batch_size=study.batch_size, seed=seed)
