"""The dense network by the same recipe: what the small one is compared with, and may learn from.

It is kept, to be trained once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from pass_transfer.arguments import check_path
from pass_transfer.errors import RunError, UsageError
from pass_transfer.networks import BackboneSpec
from pass_transfer.networks.network import Network
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.pruned import PrunedModel, load_pruned
from pass_transfer.tasks import Task

DENSE = "dense"  # folder in a run's


def save_dense(network: Network, dense: PretrainedBackbone, task: Task, folder: Path) -> None:
    """Write a network that was fine-tuned for a task, as a PrunedModel with every channel it had.

    The network is on the CPU from then on.
    """
    spec = dataclasses.replace(dense.spec, classes=task.classes)
    PrunedModel(network.cpu(), spec, task.class_names, dense.units()).save(folder)


def find_dense(
    path: str | Path, dense: PretrainedBackbone, task: Task, replaced: str | Path | None = None
) -> Path:
    """The folder of a dense network for a task: the given one, or that in a given run.

    Args:
        dense: what a small network is made from.
        replaced: a run folder that is going to be deleted.

    Raises:
        UsageError: it lies in the folder that is going to be deleted.
        RunError: none there, a small one, or one of another architecture, size, preprocessing
            or task.
        StorageError: a damaged one (see load_pruned).
    """
    check_path("dense", path)
    path = Path(path)
    folder = path / DENSE if (path / DENSE).is_dir() else path
    if replaced is not None and folder.resolve().is_relative_to(Path(replaced).resolve()):
        raise UsageError(
            f"the dense network in {path} lies in the run folder, which would be replaced (force); "
            "choose another folder"
        )
    model, wanted = load_pruned(folder), dataclasses.replace(dense.spec, classes=task.classes)
    if model.spec != wanted or model.class_names != task.class_names:
        found = _described(model.spec, model.class_names)
        raise RunError(
            f"{folder} holds {found}; needed is {_described(wanted, task.class_names)} of "
            f"{task.name}, normalised alike"
        )
    if model.kept != dense.units():
        what = "a small network" if dense.kept is None else f"other channels than {dense.name}"
        raise RunError(
            f"{folder} holds {what}; give a run that kept its dense one (with_dense=True, "
            f"or distill), or its folder {DENSE}/"
        )
    return folder


def _described(spec: BackboneSpec, class_names: Sequence[str]) -> str:
    size = f"{spec.architecture} at {spec.image_size} pixels"
    classes = f"for {spec.classes} classes ({class_names[0]}, ...)"
    return f"a {size} {classes}, of images {spec.preprocessing}"


def load_dense(folder: Path) -> Network:
    """The network that save_dense wrote, in eval mode, on the CPU."""
    return load_pruned(folder).network
