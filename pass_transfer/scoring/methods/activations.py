"""Criteria by feature maps alone: CHIP's channel independence, and variance-based pruning."""

from __future__ import annotations

from dataclasses import dataclass

from pass_transfer.scoring.activations import channel_independence, unit_variances
from pass_transfer.scoring.method import Context, Scores, register
from pass_transfer.scoring.methods.criteria import ImageSettings, image_steps
from pass_transfer.scoring.prior import standardise
from pass_transfer.settings import check_whole


@dataclass(frozen=True)
class IndependenceSettings:
    """How many training images the channels are measured on: eigenvalues take their time."""

    images: int = 128

    def __post_init__(self) -> None:
        check_whole(self, images=1)


@register("chip", IndependenceSettings, steps=image_steps)
def chip(context: Context) -> Scores:
    """What the nuclear norm of the feature maps loses without it, of one spread in every group."""
    return standardise(channel_independence(*context.seen(context.settings.images)))


@register("variance", ImageSettings, steps=image_steps)
def variance(context: Context) -> Scores:
    """The variance of its activations over images and places."""
    return unit_variances(*context.seen(context.settings.images))
