"""The dense network by the same recipe: what the small one is compared with, and may learn from. It is kept, to be trained once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pass_transfer.networks import BackboneSpec, ChannelGroups, build_backbone, count_parameters
from pass_transfer.errors import RunError, UsageError
from pass_transfer.networks.network import Network
from pass_transfer.pruned import PrunedModel, load_pruned
from pass_transfer.tasks import Task

DENSE = "dense"  # folder in a run's


def save_dense(
    network: Network, spec: BackboneSpec, groups: ChannelGroups, task: Task, folder: Path
) -> None:
    """Write a network that was fine-tuned for a task, on the CPU from then on, as a PrunedModel that keeps every channel."""
    kept = {name: list(range(group.width)) for name, group in groups.items()}
    PrunedModel(
        network.cpu(), dataclasses.replace(spec, classes=task.classes), task.class_names, kept
    ).save(folder)


def find_dense(
    path: str | Path, spec: BackboneSpec, task: Task, replaced: str | Path | None = None
) -> Path:
    """The folder of a dense network for a task: the given one, or that in a given run.

    Args:
        replaced: a run folder that is going to be deleted.

    Raises:
        UsageError: it lies in the folder that is going to be deleted.
        RunError: none there, a small one, or one of another architecture, size, preprocessing or task.
        StorageError: a damaged one (see load_pruned).
    """
    path = Path(path)
    folder = path / DENSE if (path / DENSE).is_dir() else path
    if replaced is not None and folder.resolve().is_relative_to(Path(replaced).resolve()):
        raise UsageError(
            f"--dense {path} lies in --out, which --force would delete; choose another --out"
        )
    model, wanted = load_pruned(folder), dataclasses.replace(spec, classes=task.classes)
    if model.spec != wanted or model.class_names != task.class_names:
        found = f"a {model.spec.architecture} at {model.spec.image_size} pixels for {model.spec.classes} classes ({model.class_names[0]}, ...)"
        raise RunError(
            f"{folder} holds {found}; --dense needs a {spec.architecture} at {spec.image_size} for the {task.classes} of {task.name} "
            f"({task.class_names[0]}, ...), with the same preprocessing"
        )
    if count_parameters(model.network.backbone) != count_parameters(build_backbone(wanted)):
        raise RunError(
            f"{folder} holds a small network; --dense needs a run that had --with-dense or --distill, or its folder {DENSE}/"
        )
    return folder


def load_dense(folder: Path) -> Network:
    """The network that save_dense wrote, in eval mode, on the CPU."""
    return load_pruned(folder).network
