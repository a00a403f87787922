"""The prior of a zoo hypernetwork: magnitude and importance to source tasks, half and half.

First-order Taylor importance (taylor.py) and magnitude rank channels differently, and
masks by both together fine-tune better than by either (docs/experiments.md). Importance
averaged over source tasks is as near to a new task's own as two samples of its images are
to each other, so it is measured once, here, and what a prompt changes starts from it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch

from pass_transfer.networks import ChannelGroups
from pass_transfer.networks.network import Network
from pass_transfer.progress import progress_bar
from pass_transfer.scoring.prior import standardise
from pass_transfer.scoring.samples import Samples, task_importance
from pass_transfer.scoring.source_tasks import SourceTask, part_of, see
from pass_transfer.shrinking.classifier import with_task_head


def mean_importance(
    network: Network,
    groups: ChannelGroups,
    sources: Sequence[SourceTask],
    samples: Samples,
) -> dict[str, torch.Tensor]:
    """Taylor importance (width,) of every channel group, averaged over source tasks.

    It is standardised for each source task first.

    Args:
        network: the dense network, left as it is.
        samples: how many images of the source dataset are looked at for each source task, and
            the seed of the first.
    """
    runtime = samples.runtime
    total = torch.zeros(groups.total)
    with progress_bar("channel importance", len(sources), "tasks") as bar:
        for number, source in enumerate(sources):
            part, seed = part_of(samples.split, source), samples.seed + number
            view = functools.partial(see, view=source.view)
            own = with_task_head(network, part, len(source.classes), runtime, seed, view)
            seen = dataclasses.replace(samples, split=part, seed=seed, view=view, shown=False)
            total += groups.join(standardise(task_importance(own, groups, seen)))
            bar.advance(1)
    return groups.split(total / len(sources))
