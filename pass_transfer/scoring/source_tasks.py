"""Many source tasks out of one dataset: subsets of its classes, sharp or not, coloured or not.

One source task with one prompt teaches the hypernetwork to ignore its prompt. A
hypernetwork that has seen tasks which need different channels can be told by a prompt
which ones a new task needs: photographs of other classes, small images enlarged (as
CIFAR's are), drawings without colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pass_transfer.random_streams import stream_seed
from pass_transfer.tasks import Split

VIEWS = ("plain", "half", "quarter", "grey", "grey-half", "eighth", "grey-eighth")


@dataclass(frozen=True)
class SourceTask:
    """Classes of the source dataset, in the order of its classifier's rows.

    `view` says how their images are seen.
    """

    name: str
    classes: tuple[int, ...]
    view: str = "plain"


def make_source_tasks(classes: int, count: int, seed: int) -> list[SourceTask]:
    """The whole dataset as it is, then count - 1 tasks of 10 classes up to half of them.

    Every other one takes neighbours in the list of classes (which are alike where classes
    are sorted by meaning, as ImageNet's are), the rest takes any.
    """
    draw = np.random.default_rng(stream_seed(seed, "source tasks"))
    most = max(2, classes // 2)
    least = min(10, most)
    tasks = [SourceTask("all", tuple(range(classes)))]
    for number in range(1, count):
        size = int(draw.integers(least, most + 1))
        if number % 2:
            first = int(draw.integers(0, classes - size + 1))
            chosen, kind = range(first, first + size), "neighbours"
        else:
            chosen, kind = np.sort(draw.permutation(classes)[:size]).tolist(), "random"
        view = VIEWS[number % len(VIEWS)]
        tasks.append(SourceTask(f"{kind} {size} {view}", tuple(int(c) for c in chosen), view))
    return tasks


def part_of(split: Split, source: SourceTask) -> Split:
    """The images of a split that belong to a source task, with labels from 0 on."""
    part = split.subset(np.flatnonzero(np.isin(split.labels, source.classes)))
    return Split(part.images, part.indices, np.searchsorted(source.classes, part.labels))


def see(images: torch.Tensor, view: str) -> torch.Tensor:
    """Images (B, 3, S, S) in [0, 1] as a view shows them.

    They are at a half, a quarter or an eighth of their resolution, or grey.
    """
    if view.startswith("grey"):
        weights = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)
        images = (images * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    factor = {"half": 2, "quarter": 4, "eighth": 8}.get(view.removeprefix("grey-"))
    if factor is not None:
        side = images.shape[-1]
        small = torch.nn.functional.interpolate(
            images, (side // factor, side // factor), mode="area"
        )
        images = torch.nn.functional.interpolate(
            small, (side, side), mode="bicubic", align_corners=False
        ).clamp(0, 1)
    return images.contiguous(memory_format=torch.channels_last)
