"""A prior of the task's own, and one's own weights in place of a zoo entry's, which the hypernetwork then reads.

The prior of an entry is measured on its source dataset. Here magnitude comes from the weights,
the given ones or the entry's, and importance from the training images of the task itself.
"""

from __future__ import annotations

from pathlib import Path

import torch

from pass_transfer.backbones import load_checkpoint
from pass_transfer.errors import RunError
from pass_transfer.files import read_json, read_tensors, write_tensors
from pass_transfer.hypernet import make_prior
from pass_transfer.network import Network
from pass_transfer.progress import say
from pass_transfer.recipes.search import SearchConfig
from pass_transfer.recipes.task_importance import task_importance
from pass_transfer.tasks import Task, load_task
from pass_transfer.training import Runtime, choose_runtime
from pass_transfer.training.run_folder import CONFIG
from pass_transfer.zoo.entry import PretrainedHypernet

PRIOR = "prior.safetensors"  # in the folder of a run that measured one
PRIOR_OF = ("task", "source")  # what a prompt's masks correct
IMAGES = SearchConfig.importance_images  # as many as an entry's prior takes of each source task


def read_backbone(hypernet: PretrainedHypernet, checkpoint: str | Path) -> PretrainedHypernet:
    """A hypernetwork on a checkpoint's weights, with their magnitude as prior. Raises BackboneError and StorageError; see load_checkpoint."""
    backbone, spec = load_checkpoint(checkpoint, hypernet.spec)
    say(f"{hypernet.name} was trained on its own backbone's weights; here it reads those of {checkpoint}, with a classifier of {spec.classes} classes")
    return hypernet.with_backbone(backbone)


def own_backbone(hypernet: PretrainedHypernet, checkpoint: str | Path, task: str | Task, *, data_dir: str | None = None, device: str = "auto",
                 precision: str = "auto", seed: int = 0) -> PretrainedHypernet:
    """A hypernetwork on a checkpoint's weights, ready for a task: prompts, masks and adapt go on from it as from an entry.

    Args:
        checkpoint: a .safetensors file of the entry's architecture (see load_checkpoint).
        task: a name (see load_task) or a loaded Task at the backbone's image size.

    Raises:
        BackboneError, StorageError: see load_checkpoint.
    """
    return on_task(read_backbone(hypernet, checkpoint), task, data_dir=data_dir, device=device, precision=precision, seed=seed)


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


def as_in_run(hypernet: PretrainedHypernet, entry: PretrainedHypernet, run: str | Path) -> PretrainedHypernet:
    """A hypernetwork as a run of adapt used it: with the prior that is kept there, where the run measured one.

    Args:
        entry: what the hypernetwork was before it got other weights.

    Raises:
        RunError: the run is of another entry, or its backbone has other weights than this one.
    """
    note = read_json(Path(run) / CONFIG) if (Path(run) / CONFIG).is_file() else {}
    if note.get("fingerprint") != entry.fingerprint():
        raise RunError(f"{run} was adapted from another zoo entry ({note.get('entry')}) than {entry.name}, or from another version of it")
    if note.get("backbone") != weights_of(hypernet):
        raise RunError(f"{run} was adapted from other weights than these; give the checkpoint that its adapt had as --backbone, and none where it had none")
    return hypernet.with_prior(read_tensors(Path(run) / PRIOR)) if hypernet.own_weights or (Path(run) / PRIOR).exists() else hypernet


def weights_of(hypernet: PretrainedHypernet) -> str | None:
    """The fingerprint of one's own weights; None for an entry's."""
    return hypernet.config["fingerprint"] if hypernet.own_weights else None
