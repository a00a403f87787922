"""Criteria that need no training: random, magnitudes, first-order Taylor importance to the task, and forward selection on the task or on the entry's source."""

from __future__ import annotations

from dataclasses import dataclass

from pass_transfer.scoring.magnitude import group_l1, group_l2
from pass_transfer.scoring.method import Context, Method, Scores
from pass_transfer.scoring.prior import blend, standardise
from pass_transfer.scoring.random import random_scores
from pass_transfer.scoring.task_importance import task_importance, task_selection
from pass_transfer.settings import check_whole
from pass_transfer.tasks import Task, load_task

STEP_IMAGES = 128


@dataclass(frozen=True)
class TaylorSettings:
    """images: how many training images the importance is measured on."""

    images: int = 2048

    def __post_init__(self) -> None:
        check_whole(self, images=1)


@dataclass(frozen=True)
class SourceSettings(TaylorSettings):
    """data: the folder of the entry's source dataset, if it does not come from the hub."""

    data: str = ""


def _magnitude(context: Context, of) -> Scores:
    return of(context.entry.backbone(), context.groups, context.entry.spec.image_size)


def _taylor(context: Context) -> Scores:
    return task_importance(
        context.network(),
        context.groups,
        context.task.train,
        context.task.classes,
        context.runtime,
        context.settings.images,
        context.seed,
    )


def _selection(context: Context, of: Task) -> Scores:
    return standardise(
        task_selection(
            context.network(),
            context.groups,
            of.train,
            of.classes,
            context.runtime,
            context.settings.images,
            context.seed,
        )
    )


def _source(context: Context) -> Task:
    return load_task(
        context.entry.config["source"]["task"],
        context.entry.spec.image_size,
        context.settings.data or None,
    )


METHODS = {
    "random": Method(lambda context: random_scores(context.groups, context.seed)),
    "group_l1": Method(lambda context: _magnitude(context, group_l1)),
    "group_l2": Method(lambda context: _magnitude(context, group_l2)),
    "uniform_l1": Method(lambda context: standardise(_magnitude(context, group_l1))),
    "taylor": Method(_taylor, lambda settings: settings.images / STEP_IMAGES, TaylorSettings),
    "uniform_taylor": Method(
        lambda context: standardise(_taylor(context)),
        lambda settings: settings.images / STEP_IMAGES,
        TaylorSettings,
    ),
    "source_selection": Method(
        lambda context: _selection(context, _source(context)),
        lambda settings: settings.images / STEP_IMAGES,
        SourceSettings,
    ),
    "forward_selection": Method(
        lambda context: _selection(context, context.task),
        lambda settings: settings.images / STEP_IMAGES,
        TaylorSettings,
    ),
    "taylor_l1": Method(
        lambda context: blend(_magnitude(context, group_l1), _taylor(context)),
        lambda settings: settings.images / STEP_IMAGES,
        TaylorSettings,
    ),
}
