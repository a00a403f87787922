"""Criteria that need no training: random, magnitudes, first-order Taylor importance to the task."""

from __future__ import annotations

from dataclasses import dataclass

from pass_transfer.scoring.magnitude import group_l1, group_l2
from pass_transfer.scoring.method import Context, Scores, register
from pass_transfer.scoring.prior import blend, standardise
from pass_transfer.scoring.random import random_scores
from pass_transfer.settings import check_whole

STEP_IMAGES = 128


@dataclass(frozen=True)
class ImageSettings:
    """How many training images the channels are measured on."""

    images: int = 2048

    def __post_init__(self) -> None:
        check_whole(self, images=1)


def image_steps(settings: ImageSettings) -> float:
    """Steps that looking at the images takes."""
    return settings.images / STEP_IMAGES


@register("random")
def random(context: Context) -> Scores:
    """Uniform scores: what a criterion has to beat."""
    return random_scores(context.groups, context.seed)


@register("group_l1")
def l1(context: Context) -> Scores:
    """L1 magnitude over all layers of a group, ranked over all groups."""
    return group_l1(context.dense.fresh(), context.groups)


@register("group_l2")
def l2(context: Context) -> Scores:
    """Squared L2 magnitude over all layers of a group, ranked over all groups."""
    return group_l2(context.dense.fresh(), context.groups)


@register("uniform_l1")
def uniform_l1(context: Context) -> Scores:
    """L1 magnitude, of one spread in every group."""
    return standardise(l1(context))


@register("taylor", ImageSettings, steps=image_steps)
def taylor(context: Context) -> Scores:
    """First-order Taylor importance to the task."""
    return context.importance(context.settings.images)


@register("uniform_taylor", ImageSettings, steps=image_steps)
def uniform_taylor(context: Context) -> Scores:
    """Taylor importance, of one spread in every group."""
    return standardise(taylor(context))


@register("taylor_l1", ImageSettings, steps=image_steps)
def taylor_l1(context: Context) -> Scores:
    """Magnitude and Taylor importance in equal shares: the ranking that a prompt corrects."""
    return blend(l1(context), taylor(context))
