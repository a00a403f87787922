"""Masks of single weights that were found for another task, as they are."""

from __future__ import annotations

from dataclasses import dataclass

from pass_transfer.errors import UsageError
from pass_transfer.scoring.method import WEIGHT, Context, Scores, register
from pass_transfer.weight_masks import WeightMasks


@dataclass(frozen=True)
class GivenMasksSettings:
    """Which masks.

    Fields:
        masks: the masks.safetensors of a run of adapt with single weights.
    """

    masks: str = ""


@register("mask", GivenMasksSettings, unit=WEIGHT)
def mask(context: Context) -> Scores:
    """The masks of another run, such as one on the source's task; by magnitude beside them."""
    path = context.settings.masks
    if not path:
        raise UsageError("setting masks is missing; give a run's masks.safetensors", "masks")
    given = WeightMasks.load(path, context.weights)
    scores = {}
    for name, weight in context.weights.items():
        size = weight.abs().contiguous()
        scores[name] = size / (2 * size.max().clamp(min=1e-12)) + given[name]
    return scores
