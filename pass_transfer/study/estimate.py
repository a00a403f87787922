"""How long a study will take on this machine: from its finished cells, or from a few steps measured now."""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import numpy as np

from pass_transfer.latency import interleave
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks.network import Network
from pass_transfer.progress import say
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.registry import method_of
from pass_transfer.shrinking.classifier import IMAGES as HEAD_IMAGES
from pass_transfer.shrinking.finetune import FinetuneStage
from pass_transfer.shrinking.recalibrate import IMAGES
from pass_transfer.shrinking.reconstruct import IMAGES as RECONSTRUCTED
from pass_transfer.study.plan import Cell, Study, recipe
from pass_transfer.study.run import made_with
from pass_transfer.study.store import is_missing, read_cell
from pass_transfer.tasks import Task, load_task
from pass_transfer.training import Runtime, choose_runtime, evaluate
from pass_transfer.training.batches import generator
from pass_transfer.zoo.entry import load_hypernet

STEPS = 3  # measured of each kind


def estimate(
    study: Study, device: str = "auto", precision: str = "auto", retry_failed: bool = False
) -> dict[str, Any]:
    """Seconds that the missing cells will take one after the other.

    Returns:
        "cells" and "missing" (numbers), "seconds" (in all) and "methods": for each, the
        missing cells and their seconds. A method that has finished cells here counts by
        these, others by the number of their steps.
    """
    entry, runtime = load_hypernet(study.hypernet), choose_runtime(device, precision)
    missing = [
        cell
        for cell in study.cells()
        if is_missing(study, cell, made_with(entry, runtime), retry_failed)
    ]
    if missing:
        say("measuring a few training steps on this machine")
    speeds = {
        name: _Speed(
            entry, load_task(name, entry.spec.image_size, study.tasks[name]), study, runtime
        )
        for name in {cell.task for cell in missing}
    }
    found: dict[str, dict[str, float]] = {}
    searched = set()
    for cell in missing:
        method, _ = method_of(cell.method, study.methods[cell.method])
        key = (cell.task, cell.method, cell.seed, cell.budget if method.each_budget else None)
        row = found.setdefault(cell.method, {"cells": 0, "seconds": 0.0})
        row["cells"] += 1
        row["seconds"] += speeds[cell.task].finetuning(cell.budget) + (
            0 if key in searched else _search_seconds(study, cell, speeds[cell.task])
        )
        searched.add(key)
    return {
        "cells": len(study.cells()),
        "missing": len(missing),
        "seconds": sum(row["seconds"] for row in found.values()),
        "methods": found,
    }


def _search_seconds(study: Study, cell: Cell, speed: _Speed) -> float:
    alike = [
        read_cell(study, other) or {}
        for other in study.cells()
        if (other.task, other.method) == (cell.task, cell.method)
    ]
    known = [note["search_seconds"] for note in alike if "search_seconds" in note]
    if known:
        return statistics.mean(known)
    method, settings = method_of(cell.method, study.methods[cell.method])
    return speed.step * method.steps(settings)


class _Speed:
    """Seconds of a training step on the dense network and on cut ones, and of an evaluation."""

    def __init__(self, entry: PretrainedHypernet, task: Task, study: Study, runtime: Runtime):
        self.entry, self.task, self.study, self.runtime = entry, task, study, runtime
        self.step = self._step(None)
        self.known: dict[float, float] = {}

    def finetuning(self, budget: float) -> float:
        """Seconds of a cell after its search."""
        if budget not in self.known:
            masks = self.entry.generate_masks(
                self.entry.prompt(), macs=budget, classes=self.task.classes
            )
            images = min(len(self.task.train), self.study.train_images or len(self.task.train))
            steps = self.study.epochs * max(1, images // self.study.batch_size)
            checks = (self.study.epochs + 2) * len(self.task.held_out) + len(self.task.test)
            before = min(images, IMAGES) + (
                min(images, RECONSTRUCTED) if self.study.reconstruct else 0
            )  # recalibration and reconstruction, by the dense network
            after = min(images, IMAGES) + min(
                images, HEAD_IMAGES
            )  # recalibration and the classifier's features, by the small one
            self.known[budget] = (
                steps * self._step(masks)
                + (checks + after) * self._image(masks)
                + before * self._image(None)
            )
        return self.known[budget]

    def _step(self, masks: ChannelMasks | None) -> float:
        """Median seconds of a training step."""
        batch = min(self.study.batch_size, len(self.task.train))
        stage = FinetuneStage(
            self._network(masks),
            self.task,
            dataclasses.replace(recipe(self.study, 0), batch_size=batch),
            self.runtime,
        )
        pixels, labels = self.task.train.subset(np.arange(batch)).__getitems__(range(batch))
        stage.start_epoch(0, 0)
        times = interleave(
            {"step": lambda: stage.step(pixels, labels, generator(0, 0), 0)},
            STEPS,
            self.runtime.device,
            warm_up=1,
        )
        return statistics.median(times["step"]) / 1000

    def _image(self, masks: ChannelMasks | None) -> float:
        """Seconds of an image of an evaluation."""
        network, part = (
            self._network(masks).eval(),
            self.task.held_out.subset(np.arange(min(256, len(self.task.held_out)))),
        )
        return (
            statistics.median(
                interleave(
                    {"part": lambda: evaluate(network, part, self.runtime)},
                    2,
                    self.runtime.device,
                    warm_up=1,
                )["part"]
            )
            / 1000
            / len(part)
        )

    def _network(self, masks: ChannelMasks | None) -> Network:
        return self.runtime.place(
            self.entry.network(masks, classes=self.task.classes)
        ).requires_grad_(True)
