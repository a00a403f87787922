"""One's own weights in place of a zoo entry's, which the hypernetwork then reads."""

from __future__ import annotations

from pathlib import Path

from pass_transfer.errors import RunError
from pass_transfer.files import read_json, read_tensors
from pass_transfer.networks import load_checkpoint
from pass_transfer.progress import say
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.task_prior import PRIOR, on_task
from pass_transfer.tasks import Task
from pass_transfer.training.run_folder import CONFIG


def read_backbone(hypernet: PretrainedHypernet, checkpoint: str | Path) -> PretrainedHypernet:
    """A hypernetwork on a checkpoint's weights, with their magnitude as prior. Raises BackboneError and StorageError; see load_checkpoint."""
    backbone, spec = load_checkpoint(checkpoint, hypernet.spec)
    say(
        f"{hypernet.name} was trained on its own backbone's weights; here it reads those of {checkpoint}, with a classifier of {spec.classes} classes"
    )
    return hypernet.with_backbone(backbone)


def own_backbone(
    hypernet: PretrainedHypernet,
    checkpoint: str | Path,
    task: str | Task,
    *,
    data_dir: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
) -> PretrainedHypernet:
    """A hypernetwork on a checkpoint's weights, ready for a task: prompts, masks and adapt go on from it as from an entry.

    Args:
        checkpoint: a .safetensors file of the entry's architecture (see load_checkpoint).
        task: a name (see load_task) or a loaded Task at the backbone's image size.

    Raises:
        BackboneError, StorageError: see load_checkpoint.
    """
    return on_task(
        read_backbone(hypernet, checkpoint),
        task,
        data_dir=data_dir,
        device=device,
        precision=precision,
        seed=seed,
    )


def as_in_run(
    hypernet: PretrainedHypernet, entry: PretrainedHypernet, run: str | Path
) -> PretrainedHypernet:
    """A hypernetwork as a run of adapt used it: with the prior that is kept there, where the run measured one.

    Args:
        entry: what the hypernetwork was before it got other weights.

    Raises:
        RunError: the run is of another entry, or its backbone has other weights than this one.
    """
    note = read_json(Path(run) / CONFIG) if (Path(run) / CONFIG).is_file() else {}
    if note.get("fingerprint") != entry.fingerprint():
        raise RunError(
            f"{run} was adapted from another zoo entry ({note.get('entry')}) than {entry.name}, or from another version of it"
        )
    if note.get("backbone") != weights_of(hypernet):
        raise RunError(
            f"{run} was adapted from other weights than these; give the checkpoint that its adapt had as --backbone, and none where it had none"
        )
    return (
        hypernet.with_prior(read_tensors(Path(run) / PRIOR))
        if hypernet.own_weights or (Path(run) / PRIOR).exists()
        else hypernet
    )


def weights_of(hypernet: PretrainedHypernet) -> str | None:
    """The fingerprint of one's own weights; None for an entry's."""
    return hypernet.config["fingerprint"] if hypernet.own_weights else None
