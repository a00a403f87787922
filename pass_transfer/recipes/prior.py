"""The ranking that a hypernetwork corrects, measured on the task itself.

An entry's own prior is measured on its source dataset. Here magnitude comes from the
backbone's weights, and importance from the training images of the task.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pass_transfer.files import read_tensors, write_tensors
from pass_transfer.hypernet import make_prior
from pass_transfer.network import Network
from pass_transfer.progress import say
from pass_transfer.recipes.search import SearchConfig
from pass_transfer.recipes.task_importance import task_importance
from pass_transfer.tasks import Task, load_task
from pass_transfer.training import Runtime, choose_runtime
from pass_transfer.zoo.entry import PretrainedHypernet

PRIOR = "prior.safetensors"  # in the folder of a run that measured one
PRIOR_OF = ("task", "source")  # what a prompt's masks correct
IMAGES = SearchConfig.importance_images  # as many as an entry's prior takes of each source task


def on_task(hypernet: PretrainedHypernet, task: str | Task, *, data_dir: str | None = None, device: str = "auto", precision: str = "auto",
            seed: int = 0) -> PretrainedHypernet:
    """A hypernetwork that corrects what is measured on a task, as adapt has it; prompts and masks go on from it as from an entry.

    Args:
        task: a name (see load_task) or a loaded Task at the backbone's image size.
    """
    data = load_task(task, hypernet.spec.image_size, data_dir) if isinstance(task, str) else task
    return hypernet.with_prior(task_prior(hypernet, data, choose_runtime(device, precision), seed))


def task_prior(hypernet: PretrainedHypernet, task: Task, runtime: Runtime, seed: int = 0) -> dict[str, torch.Tensor]:
    """The prior (width,) of every channel group, of the entry's kind, from its backbone's weights and a task's training images."""
    network, groups = Network(hypernet.backbone(), hypernet.spec.mean, hypernet.spec.std), hypernet.groups

    def importance() -> dict[str, torch.Tensor]:
        say(f"measuring every channel's importance on {min(IMAGES, len(task.train))} images of {task.name}")
        return task_importance(network, groups, task.train, task.classes, runtime, IMAGES, seed)

    found = make_prior(hypernet.net.config.prior, network.backbone, groups, hypernet.spec.image_size, importance)
    return groups.split(torch.zeros(groups.total)) if found is None else found


def keep_prior(hypernet: PretrainedHypernet, run: Path) -> None:
    """Write a hypernetwork's prior into a run folder."""
    write_tensors(run / PRIOR, hypernet.groups.split(hypernet.net.prior))


def on_kept_prior(hypernet: PretrainedHypernet, task: Task, runtime: Runtime, seed: int, run: Path) -> PretrainedHypernet:
    """A hypernetwork with the prior of its task, which is made once and kept in the run folder."""
    if not (run / PRIOR).exists():
        write_tensors(run / PRIOR, task_prior(hypernet, task, runtime, seed))
    return hypernet.with_prior(read_tensors(run / PRIOR))
