"""The prior of a zoo hypernetwork: magnitude and importance to source tasks, half and half.

First-order Taylor importance (taylor.py) and magnitude rank channels differently, and
masks by both together fine-tune better than by either (docs/experiments.md). Importance
averaged over source tasks is as near to a new task's own as two samples of its images are
to each other, so it is measured once, here, and what a prompt changes starts from it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from pass_transfer.networks import ChannelGroups
from pass_transfer.networks.network import Network
from pass_transfer.progress import progress_bar
from pass_transfer.scoring.prior import standardise
from pass_transfer.scoring.source_tasks import SourceTask, part_of, see
from pass_transfer.scoring.task_importance import task_importance
from pass_transfer.tasks import Task
from pass_transfer.training import Runtime


def mean_importance(
    network: Network,
    groups: ChannelGroups,
    task: Task,
    sources: Sequence[SourceTask],
    runtime: Runtime,
    images: int,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Taylor importance (width,) of every channel group, standardised for each source task and averaged over them.

    Args:
        network: the dense network, left as it is.
        images: how many of each source task it is measured on.
    """
    total = torch.zeros(groups.total)
    with progress_bar("channel importance", len(sources), "tasks") as bar:
        for number, source in enumerate(sources):
            found = task_importance(
                network,
                groups,
                part_of(task.train, source),
                len(source.classes),
                runtime,
                images,
                seed + number,
                functools.partial(see, view=source.view),
            )
            total += groups.join(standardise(found))
            bar.advance(1)
    return groups.split(total / len(sources))
