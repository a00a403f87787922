"""The ranking that a hypernetwork corrects, measured on the task itself.

An entry's own prior is measured on its source dataset. Here magnitude comes from the
backbone's weights, and importance from the training images of the task.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pass_transfer.files import write_tensors
from pass_transfer.progress import say
from pass_transfer.scoring.given_task import given_task
from pass_transfer.scoring.method import Context
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.prior import make_prior
from pass_transfer.scoring.search import SearchConfig
from pass_transfer.surroundings import as_guest
from pass_transfer.tasks import Task
from pass_transfer.training import RunFolder, choose_runtime

PRIOR = "prior"  # under which a run keeps it while it works
IMAGES = SearchConfig.importance_images  # as many as an entry's prior takes of each source task


@as_guest
def on_task(
    hypernet: PretrainedHypernet,
    task: str | Task,
    *,
    data_dir: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
) -> PretrainedHypernet:
    """A hypernetwork that corrects what is measured on a task, as adapt has it.

    Prompts and masks go on from it as from an entry.

    Args:
        task: a name (see load_task) or a loaded Task at the backbone's image size.
        data_dir: the folder of the task's parquet files, if it is not downloaded.
    """
    data = given_task(hypernet, task, data_dir)
    runtime = choose_runtime(device, precision)
    context = Context(hypernet.dense, hypernet.groups, data, runtime, hypernet, seed=seed)
    return with_task_prior(hypernet, context)


def with_task_prior(hypernet: PretrainedHypernet, context: Context) -> PretrainedHypernet:
    """A hypernetwork with the prior of a context's task, which is measured once in a run."""
    return hypernet.with_prior(context.once(PRIOR, lambda: task_prior(hypernet, context)))


def keep_prior(hypernet: PretrainedHypernet, run: RunFolder) -> None:
    """Let a run take the prior that a hypernetwork has, instead of measuring one."""
    path = run.work / f"{PRIOR}.safetensors"
    if run.work.exists() and not path.exists():
        write_tensors(path, hypernet.groups.split(hypernet.net.prior.clone()))


def task_prior(hypernet: PretrainedHypernet, context: Context) -> dict[str, torch.Tensor]:
    """The prior (width,) of every channel group, of the entry's kind, for a context's task."""
    groups = hypernet.groups

    def importance() -> Mapping[str, torch.Tensor]:
        images = min(IMAGES, len(context.task.train))
        say(f"measuring every channel's importance on {images} images of {context.task.name}")
        return context.importance(IMAGES)

    kind = hypernet.net.config.prior
    found = make_prior(kind, hypernet.backbone(), groups, importance)
    return groups.split(torch.zeros(groups.total)) if found is None else found
