"""Forward selection, on the task or on the dataset that the entry was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pass_transfer.progress import say
from pass_transfer.scoring.method import Context, Scores, register
from pass_transfer.scoring.methods.criteria import ImageSettings, image_steps
from pass_transfer.scoring.prior import standardise
from pass_transfer.scoring.samples import Samples, task_selection
from pass_transfer.shrinking.classifier import with_task_head
from pass_transfer.tasks import load_task


@dataclass(frozen=True)
class SourceSettings(ImageSettings):
    """Forward selection on the source: `data` is the folder of its files, if not the hub."""

    data: str = ""


@register("selection", ImageSettings, steps=image_steps)
def selection(context: Context) -> Scores:
    """Channels in the order in which they explain most of what their readers compute."""
    images = min(context.settings.images, len(context.task.train))
    say(f"forward selection of the channels on {images} images of {context.task.name}")
    order = context.once("selection", lambda: context.selection(context.settings.images))
    return standardise(order)


@register("source_selection", SourceSettings, steps=image_steps, needs_hypernet=True)
def source_selection(context: Context) -> Scores:
    """The same on the dataset that the entry's hypernetwork was trained on."""
    source: dict[str, Any] = context.entry.config["source"]
    dense, runtime, settings = context.dense, context.runtime, context.settings
    of = load_task(source["task"], dense.spec.preprocessing, settings.data or None)
    own = with_task_head(dense.network(), of.train, of.classes, runtime, context.seed)
    samples = Samples(of.train, runtime, settings.images, context.seed, size=of.size)
    return standardise(task_selection(own, context.groups, samples))
