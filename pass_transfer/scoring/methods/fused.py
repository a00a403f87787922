"""The task's own measurement and the source's ranking, weighed by the number of images."""

from __future__ import annotations

from dataclasses import dataclass

from pass_transfer.progress import say
from pass_transfer.scoring.method import Context, Scores, register
from pass_transfer.scoring.methods.criteria import image_steps, taylor_l1
from pass_transfer.scoring.methods.selection import SourceSettings, source_selection
from pass_transfer.scoring.prior import mix
from pass_transfer.settings import check_whole


@dataclass(frozen=True)
class FusedSettings(SourceSettings):
    """Both rankings and their weights.

    Fields:
        images: training images that importance is measured on.
        half: training images a class at which both count alike. With n of them the task's
            measurement counts n / (n + half).
        data: the folder of the source dataset's files; the source's ranking is then its
            forward selection. Without it, the one that the source's prompt gives.
    """

    half: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, half=1)


@register("fused", FusedSettings, steps=image_steps, coupled=True, needs_hypernet=True)
def fused(context: Context) -> Scores:
    """Magnitude and importance to the task, fused with the source's ranking where images are few.

    The weight is that of a mean with `half` images of prior knowledge (a shrinkage estimate).
    """
    task, entry = context.task, context.entry
    images = len(task.train) / task.classes
    weight = images / (images + context.settings.half)
    say(
        f"{images:g} images a class: the task's measurement counts {weight:.2f}, the source's "
        f"ranking {1 - weight:.2f}"
    )
    source: Scores = entry.scores(entry.prompt())
    if context.settings.data:
        source = source_selection(context)
    return mix([(weight, taylor_l1(context)), (1 - weight, source)])
