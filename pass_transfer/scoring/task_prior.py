"""The ranking that a hypernetwork corrects, measured on the task itself.

An entry's own prior is measured on its source dataset. Here magnitude comes from the
backbone's weights, and importance from the training images of the task.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pass_transfer.errors import UsageError
from pass_transfer.files import read_tensors, write_tensors
from pass_transfer.networks.network import Network
from pass_transfer.progress import say
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.prior import make_prior, standardise
from pass_transfer.scoring.search import SearchConfig
from pass_transfer.scoring.task_importance import task_importance, task_selection
from pass_transfer.tasks import Task, load_task
from pass_transfer.training import Runtime, choose_runtime

PRIOR = "prior.safetensors"  # in the folder of a run that measured one
PRIOR_OF = ("task", "source")  # what a prompt's masks correct
RANKINGS = ("importance", "selection")  # how a task ranks the channels of a group
IMAGES = SearchConfig.importance_images  # as many as an entry's prior takes of each source task


def on_task(
    hypernet: PretrainedHypernet,
    task: str | Task,
    *,
    data_dir: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    ranking: str = "importance",
) -> PretrainedHypernet:
    """A hypernetwork that corrects what is measured on a task, as adapt has it; prompts and masks go on from it as from an entry.

    Args:
        task: a name (see load_task) or a loaded Task at the backbone's image size.
        ranking: what is measured, see task_prior.
    """
    if ranking not in RANKINGS:
        raise UsageError(f"ranking is {ranking!r}; choose one of {', '.join(RANKINGS)}")
    data = load_task(task, hypernet.spec.image_size, data_dir) if isinstance(task, str) else task
    return hypernet.with_prior(
        task_prior(hypernet, data, choose_runtime(device, precision), seed, ranking)
    )


def task_prior(
    hypernet: PretrainedHypernet,
    task: Task,
    runtime: Runtime,
    seed: int = 0,
    ranking: str = "importance",
) -> dict[str, torch.Tensor]:
    """The prior (width,) of every channel group, from its backbone's weights and a task's training images.

    Args:
        ranking: "importance" for a prior of the entry's kind, "selection" for the order of forward selection (scoring/forward_selection.py).
    """
    network, groups = (
        Network(hypernet.backbone(), hypernet.spec.mean, hypernet.spec.std),
        hypernet.groups,
    )
    if ranking == "selection":
        say(
            f"forward selection of the channels on {min(IMAGES, len(task.train))} images of {task.name}"
        )
        return standardise(
            task_selection(network, groups, task.train, task.classes, runtime, IMAGES, seed)
        )

    def importance() -> dict[str, torch.Tensor]:
        say(
            f"measuring every channel's importance on {min(IMAGES, len(task.train))} images of {task.name}"
        )
        return task_importance(network, groups, task.train, task.classes, runtime, IMAGES, seed)

    found = make_prior(
        hypernet.net.config.prior, network.backbone, groups, hypernet.spec.image_size, importance
    )
    return groups.split(torch.zeros(groups.total)) if found is None else found


def keep_prior(hypernet: PretrainedHypernet, run: Path) -> None:
    """Write a hypernetwork's prior into a run folder."""
    write_tensors(run / PRIOR, hypernet.groups.split(hypernet.net.prior))


def on_kept_prior(
    hypernet: PretrainedHypernet,
    task: Task,
    runtime: Runtime,
    seed: int,
    run: Path,
    ranking: str = "importance",
) -> PretrainedHypernet:
    """A hypernetwork with the prior of its task, which is made once and kept in the run folder; `ranking` as of task_prior."""
    if not (run / PRIOR).exists():
        write_tensors(run / PRIOR, task_prior(hypernet, task, runtime, seed, ranking))
    return hypernet.with_prior(read_tensors(run / PRIOR))
