"""How long a study will take on this machine.

From its finished cells, or from a few steps that are measured now.
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import numpy as np

from pass_transfer.budgets import Budget
from pass_transfer.latency import interleave
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks.network import Network
from pass_transfer.progress import say
from pass_transfer.random_streams import stream
from pass_transfer.recipes.given_network import GivenNetwork
from pass_transfer.scoring.method import WEIGHT
from pass_transfer.scoring.pretrained import cut_network
from pass_transfer.scoring.random import random_scores
from pass_transfer.shrinking import recalibrate, reconstruct
from pass_transfer.shrinking.classifier import IMAGES as HEAD_IMAGES
from pass_transfer.shrinking.finetune import FinetuneStage
from pass_transfer.study.cell import network_of
from pass_transfer.study.plan import Cell, Study, epochs_of, recipe
from pass_transfer.study.run import made_with
from pass_transfer.study.store import is_missing, read_cell
from pass_transfer.surroundings import as_guest
from pass_transfer.tasks import Task, load_task
from pass_transfer.tasks.few_images import few_images
from pass_transfer.training import Runtime, choose_runtime, evaluate

STEPS = 3  # measured of each kind


@as_guest
def estimate(
    study: Study, device: str = "auto", precision: str = "auto", retry_failed: bool = False
) -> dict[str, Any]:
    """Seconds that the missing cells will take one after the other.

    Returns:
        "cells" and "missing" (numbers), "seconds" (in all) and "methods": for each, the
        missing cells and their seconds. A method that has finished cells here counts by
        these, others by the number of their steps.
    """
    given, runtime = network_of(study), choose_runtime(device, precision)
    alike = made_with(given, runtime)
    missing = [c for c in study.cells() if is_missing(study, c, alike, retry_failed)]
    if missing:
        say("measuring a few training steps on this machine")
    speeds = {}
    for name in {cell.task for cell in missing}:
        planned = study.tasks[name]
        task = load_task(planned.name, given.dense.spec.preprocessing, planned.data)
        few = few_images(task, planned.images_per_class)
        speeds[name] = _Speed(given, few, study, name, runtime)
    found: dict[str, dict[str, float]] = {}
    searched = set()
    for cell in missing:
        speed, key = speeds[cell.task], _search_key(study, cell)
        row = found.setdefault(cell.method, {"cells": 0, "seconds": 0.0})
        row["cells"] += 1
        row["seconds"] += speed.finetuning(cell.budget)
        row["seconds"] += 0 if key in searched else _search_seconds(study, cell, speed)
        searched.add(key)
    return {
        "cells": len(study.cells()),
        "missing": len(missing),
        "seconds": sum(row["seconds"] for row in found.values()),
        "methods": found,
    }


def _search_key(study: Study, cell: Cell) -> tuple[Any, ...]:
    """What cells have in common that share one search."""
    method = study.method(cell.method).method
    searched = study.search_of(cell).task
    return searched, cell.method, cell.seed, cell.budget if method.each_budget else None


def _search_seconds(study: Study, cell: Cell, speed: _Speed) -> float:
    known = []
    for other in study.cells():
        if (other.task, other.method) == (cell.task, cell.method):
            note = read_cell(study, other) or {}
            known += [note["search_seconds"]] if "search_seconds" in note else []
    if known:
        return statistics.mean(known)
    chosen = study.method(cell.method)
    return speed.step * chosen.method.steps(chosen.settings)


class _Speed:
    """Seconds of a training step on the dense network and on cut ones, and of an evaluation."""

    def __init__(
        self, given: GivenNetwork, task: Task, study: Study, called: str, runtime: Runtime
    ):
        self.given, self.task, self.study, self.runtime = given, task, study, runtime
        self.epochs, self.recipe = epochs_of(study, called), recipe(study, called, 0)
        self.step = self._step(None)
        self.known: dict[float, float] = {}

    def finetuning(self, budget: float) -> float:
        """Seconds of a cell after its search."""
        if budget not in self.known:
            self.known[budget] = self._finetuning(budget)
        return self.known[budget]

    def _finetuning(self, budget: float) -> float:
        study, task = self.study, self.task
        masks = None if study.unit == WEIGHT else self._masks(budget)
        images = min(len(task.train), study.train_images or len(task.train))
        steps = self.epochs * max(1, images // study.batch_size)
        checks = (self.epochs + 2) * len(task.held_out) + len(task.test)
        dense = min(images, recalibrate.IMAGES)
        dense += min(images, reconstruct.IMAGES) if study.reconstruct else 0
        small = checks + min(images, recalibrate.IMAGES) + min(images, HEAD_IMAGES)
        return steps * self._step(masks) + small * self._image(masks) + dense * self._image(None)

    def _masks(self, budget: float) -> ChannelMasks:
        """Masks within a budget, those of the source task's prompt where there is one."""
        dense, hypernet = self.given.dense, self.given.hypernet
        scores = random_scores(dense.groups, 0)
        if hypernet is not None:
            scores = hypernet.scores(hypernet.prompt())
        target = cut_network(dense, None, self.task.classes, self.runtime.device)
        return Budget(macs=budget, round_to=1).cut(scores, target)

    def _step(self, masks: ChannelMasks | None) -> float:
        """Median seconds of a training step."""
        batch = min(self.study.batch_size, len(self.task.train))
        config = dataclasses.replace(self.recipe, batch_size=batch)
        stage = FinetuneStage(self._network(masks), self.task, config, self.runtime)
        pixels, labels = self.task.train.uncropped().__getitems__(range(batch))
        stage.start_epoch(0, 0)
        step = {"step": lambda: stage.step(pixels, labels, stream(0, "augmentation"), 0)}
        times = interleave(step, STEPS, self.runtime.device, warm_up=1)
        return statistics.median(times["step"]) / 1000

    def _image(self, masks: ChannelMasks | None) -> float:
        """Seconds of an image of an evaluation."""
        network, held_out = self._network(masks).eval(), self.task.held_out
        part = held_out.subset(np.arange(min(256, len(held_out))))
        run = {"part": lambda: evaluate(network, part, self.runtime)}
        times = interleave(run, 2, self.runtime.device, warm_up=1)
        return statistics.median(times["part"]) / 1000 / len(part)

    def _network(self, masks: ChannelMasks | None) -> Network:
        network = self.given.dense.network(masks, classes=self.task.classes)
        return self.runtime.place(network).requires_grad_(True)
