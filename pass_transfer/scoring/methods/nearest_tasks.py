"""Rankings of the nearest source tasks, averaged: what is known of like tasks, in one shot.

SMSP (arXiv 2307.04365): the masks of the source tasks that are most like the new one are
averaged. Tasks are compared by the means of their classes' features. Where that paper averages
the masks of one size, rankings are averaged here, which are the masks of all sizes, so that one
ranking serves every budget.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pass_transfer.progress import progress_bar, say
from pass_transfer.random_streams import stream
from pass_transfer.scoring.judge import cross_fitted
from pass_transfer.scoring.magnitude import group_l1
from pass_transfer.scoring.method import Context, Scores, register
from pass_transfer.scoring.methods.criteria import STEP_IMAGES
from pass_transfer.scoring.methods.selection import SourceSettings
from pass_transfer.scoring.nearest_tasks import class_means, distance
from pass_transfer.scoring.prior import blend, mix
from pass_transfer.scoring.samples import Samples, task_importance
from pass_transfer.scoring.source_tasks import SourceTask, make_source_tasks, part_of, see
from pass_transfer.settings import check_whole
from pass_transfer.tasks import Split, Task, load_task


@dataclass(frozen=True)
class NearestSettings(SourceSettings):
    """Which source tasks.

    Fields:
        images: of each source task.
        tasks: source tasks that are made of the source's dataset.
        nearest: of them, how many are averaged.
        data: the folder of the source dataset's files, if not the hub.
    """

    images: int = 512
    tasks: int = 12
    nearest: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, tasks=1, nearest=1)


def _steps(settings: NearestSettings) -> float:
    return settings.tasks * settings.images / STEP_IMAGES


@register("nearest_tasks", NearestSettings, steps=_steps, needs_hypernet=True)
def nearest_tasks(context: Context) -> Scores:
    """Magnitude and importance to the source tasks that are most like the task, averaged."""
    source: dict[str, Any] = context.entry.config["source"]
    data = context.settings.data or None
    of = load_task(source["task"], context.dense.spec.preprocessing, data)
    network, runtime, seed = context.dense.network(), context.runtime, context.seed
    mine = class_means(network, context.task.train, runtime, seed)
    near = []
    for number, (task, part) in enumerate(_source_tasks(context, of)):
        theirs = class_means(network, part, runtime, seed, functools.partial(see, view=task.view))
        near.append((distance(mine, theirs), number, task, part))
    chosen = sorted(near, key=lambda one: one[:2])[: context.settings.nearest]
    said = ", ".join(f"{task.name} ({far:.1f})" for far, _, task, _ in chosen)
    say(f"the nearest of {len(near)} source tasks, with their distance: {said}")
    rankings = []
    with progress_bar("nearest tasks", len(chosen), "tasks") as bar:
        for _, _, task, part in chosen:
            rankings.append((1.0, _ranking(context, task, part)))
            bar.advance(1)
    return mix(rankings)


def _source_tasks(context: Context, of: Task) -> Iterator[tuple[SourceTask, Split]]:
    """The source tasks with their images."""
    settings = context.settings
    for number, task in enumerate(make_source_tasks(of.classes, settings.tasks, context.seed)):
        part = part_of(of.train, task)
        draw = stream(context.seed, "nearest tasks", number)
        order = torch.randperm(len(part), generator=draw)[: settings.images]
        yield task, part.subset(np.sort(order.numpy()))


def _ranking(context: Context, task: SourceTask, part: Split) -> Scores:
    """Magnitude and importance to a source task in equal shares; magnitude where none is seen."""
    runtime, groups = context.runtime, context.groups
    view = functools.partial(see, view=task.view)
    network, classes = context.dense.network(), len(task.classes)
    judge = cross_fitted(network, part, classes, runtime, context.seed, view)
    magnitude = group_l1(context.dense.fresh(), groups)
    if judge is None:
        return magnitude
    size = context.task.size
    samples = Samples(judge.split, runtime, len(part), context.seed, view, size, shown=False)
    return blend(magnitude, task_importance(judge.network, groups, samples, judge.loss))
