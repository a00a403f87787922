"""One's own weights in place of a zoo entry's, which the hypernetwork then reads."""

from __future__ import annotations

from pathlib import Path

from pass_transfer.arguments import check_is, check_path
from pass_transfer.networks import has_classifier, load_checkpoint
from pass_transfer.progress import say
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.task_prior import on_task
from pass_transfer.surroundings import as_guest
from pass_transfer.tasks import Task


def read_backbone(hypernet: PretrainedHypernet, checkpoint: str | Path) -> PretrainedHypernet:
    """A hypernetwork on a checkpoint's weights, with their magnitude as prior.

    Raises BackboneError and StorageError; see load_checkpoint.
    """
    check_is("hypernet", hypernet, PretrainedHypernet, "what load_hypernet gives")
    check_path("backbone", checkpoint)
    backbone, spec = load_checkpoint(checkpoint, hypernet.spec)
    classifier = f"with a classifier of {spec.classes} classes"
    if not has_classifier(backbone):
        classifier = "without a classifier, which is made anew"
    say(
        f"{hypernet.name} was trained on its own backbone's weights; here it reads those of "
        f"{checkpoint}, {classifier}"
    )
    return hypernet.with_backbone(backbone)


@as_guest
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
    """A hypernetwork on a checkpoint's weights, ready for a task.

    Prompts, masks and adapt go on from it as from an entry.

    Args:
        checkpoint: a .safetensors file of the entry's architecture (see load_checkpoint).
        task: a name (see load_task) or a loaded Task at the backbone's image size.

    Raises:
        BackboneError, StorageError: see load_checkpoint.
    """
    own = read_backbone(hypernet, checkpoint)
    return on_task(own, task, data_dir=data_dir, device=device, precision=precision, seed=seed)


def weights_of(hypernet: PretrainedHypernet) -> str | None:
    """The fingerprint of one's own weights; None for an entry's."""
    return hypernet.config["fingerprint"] if hypernet.own_weights else None
