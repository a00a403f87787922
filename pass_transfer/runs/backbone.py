"""What finetune leaves of a trained backbone: backbone.json, read and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pass_transfer.errors import RunError, StorageError, UsageError
from pass_transfer.files import read_object, read_tensors
from pass_transfer.networks import BackboneSpec, build_backbone
from pass_transfer.networks.outline import check_images, check_tensors, outline
from pass_transfer.settings import ANYTHING, OBJECT, TEXT, check_fields, listed, maybe, number
from pass_transfer.zoo.catalogue import CONFIG
from pass_transfer.zoo.config import read_config
from pass_transfer.zoo.verify import MANIFEST, verify_files

NOTE, WEIGHTS = "backbone.json", "backbone.safetensors"
PERCENT = maybe(number(0, 100))
FIELDS = {
    "spec": OBJECT,
    "task": TEXT,
    "classes": listed(TEXT),
    "config": ANYTHING,
    "top1": PERCENT,
    "top5": PERCENT,
}


def read_note(folder: Path) -> dict[str, Any]:
    """The content of backbone.json. Raises StorageError for one that is damaged.

    As of an entry, what is made of one of before keeps the shape of images.
    """
    note = read_object(folder / NOTE)
    _check(folder / NOTE, note)
    note["spec"].setdefault("fit", "crop")
    return note


def read_trained(folder: Path) -> tuple[dict[str, Any], BackboneSpec, dict[str, torch.Tensor]]:
    """What is known of a trained backbone, its spec, and its tensors, which fit that.

    Args:
        folder: what finetune wrote, or a zoo entry, whose backbone is taken.

    Raises:
        RunError: neither of the two.
        ZooError, StorageError, BackboneError: a damaged one.
    """
    where = folder / NOTE
    if (folder / CONFIG).is_file() and (folder / MANIFEST).is_file():
        where = folder / CONFIG
        note = _of_entry(folder)
        _check(where, note)
    elif where.is_file():
        note = read_note(folder)
    else:
        raise RunError(
            f"{folder} holds no {NOTE} and is no zoo entry; make one with pass-transfer finetune"
        )
    stored = read_tensors(folder / WEIGHTS)
    try:
        spec = BackboneSpec.from_saved(note["spec"])
        plan = outline(lambda: build_backbone(spec))
    except UsageError as error:
        raise StorageError(f"{where} is not that of a backbone: {error}") from error
    if spec.classes != len(note["classes"]):
        raise StorageError(f"{where} does not name the {spec.classes} classes of its network")
    check_tensors(plan.state_dict(), stored, folder / WEIGHTS)
    check_images(plan, spec)
    return note, spec, stored


def _check(where: Path, note: dict[str, Any]) -> None:
    try:
        check_fields(note, FIELDS)
    except UsageError as error:
        raise StorageError(f"{where} is not that of a backbone: {error}") from error


def _of_entry(folder: Path) -> dict[str, Any]:
    """The same of a zoo entry's backbone, which must be whole."""
    verify_files(folder)
    config = read_config(folder)
    source = config["source"]
    note = {
        "spec": config["backbone"],
        "task": source["task"],
        "classes": source["class_names"],
        "config": source.get("weights"),
    }
    return note | {name: source.get(name) for name in ("top1", "top5")}
