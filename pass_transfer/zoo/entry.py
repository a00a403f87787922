"""A zoo entry: hypernetwork, backbone, source prompt and source masks in one verified folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pass_transfer import __version__
from pass_transfer.arguments import check_path
from pass_transfer.budgets import Budget
from pass_transfer.errors import MaskError, StorageError, ZooError
from pass_transfer.files import (
    make_folder,
    read_json,
    read_tensors,
    write_bytes,
    write_json,
    write_tensors,
)
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import BackboneSpec, build_backbone, find_groups
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.networks.weights import fingerprint
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.surroundings import as_guest
from pass_transfer.zoo.catalogue import CONFIG, find_entry
from pass_transfer.zoo.verify import verify_files, write_manifest

SCHEMA = 1
SOURCE_BUDGET = Budget(macs=0.5, round_to=1)  # of the source masks an entry carries


@dataclass(frozen=True)
class EntryNotes:
    """What an entry says of itself.

    Fields:
        source: the dataset it was trained on, at least "task" and "class_names".
        recipe: the settings it was trained with.
        results: measured figures.
        card: the model card, markdown.
    """

    source: Mapping[str, Any]
    recipe: Mapping[str, Any]
    results: Mapping[str, Any]
    card: str


@as_guest
def load_hypernet(name: str | Path) -> PretrainedHypernet:
    """Verify and load a zoo entry.

    Args:
        name: a folder, an installed entry's name (with or without "zoo/"), or
            hf-hub:owner/name.

    Raises:
        ZooError: unknown, incomplete, altered, or with parts that do not belong together.
    """
    check_path("hypernet", name)
    folder = find_entry(name)
    verify_files(folder)
    try:
        config = read_json(folder / CONFIG)
        if config["schema"] != SCHEMA:
            raise ZooError(
                f"{folder}: schema {config['schema']}, this version reads {SCHEMA}; upgrade "
                f"pass-transfer"
            )
        return _load(folder, config, str(name))
    except ZooError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, StorageError) as error:
        why = f"{type(error).__name__}: {error}"
        message = f"{folder}: {CONFIG} or a tensor file is not that of an entry ({why})"
        raise ZooError(message) from error


@as_guest
def verify_entry(name: str | Path) -> dict[str, str]:
    """Check an entry to the bottom: hashes, loading, and that its masks are those of its prompt.

    Returns file names with their sha-256. Raises ZooError.
    """
    entry, folder = load_hypernet(name), find_entry(name)
    path = folder / "masks.safetensors"
    try:
        stored = ChannelMasks.load(path, entry.groups)
    except (MaskError, StorageError) as error:
        raise ZooError(str(error)) from error
    if stored != entry.generate_masks(entry.prompt(), SOURCE_BUDGET):
        raise ZooError(f"{path} are not the masks that the entry's prompt gives")
    return verify_files(folder)


def _load(folder: Path, config: dict[str, Any], name: str) -> PretrainedHypernet:
    spec = BackboneSpec.from_saved(config["backbone"])
    path = folder / "backbone.safetensors"
    stored = read_tensors(path)
    if fingerprint(stored) != config["fingerprint"]:
        raise ZooError(f"{path} is not the backbone this hypernetwork was trained for")
    backbone = build_backbone(spec)
    _load_state(backbone, stored, path)
    groups = find_groups(backbone, spec.image_size)
    if {name: group.width for name, group in groups.items()} != config["groups"]:
        raise ZooError(
            f"{folder}: the channel groups found in {spec.architecture} are not those of {CONFIG}"
        )
    net = Hypernet(HypernetConfig.from_saved(config["hypernet"]), backbone, groups)
    prompt = Prompt(**config["prompt"])
    for module, file in ((net, "hypernet.safetensors"), (prompt, "prompt.safetensors")):
        _load_state(module, read_tensors(folder / file), folder / file)
    dense = PretrainedBackbone(backbone, spec, groups, name)
    return PretrainedHypernet(net, dense, prompt, config)


def _load_state(module: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    own = module.state_dict()
    odd = sorted(set(own) ^ set(tensors))
    if odd:
        what = "missing" if odd[0] in own else "unknown"
        raise ZooError(f"{path}: the tensor {odd[0]} is {what}")
    for name, tensor in tensors.items():
        expected = own[name]
        if tensor.shape != expected.shape:
            found = f"{name} has shape {tuple(tensor.shape)}, not {tuple(expected.shape)}"
            raise ZooError(f"{path}: {found}")
        if tensor.is_floating_point() != expected.is_floating_point():
            raise ZooError(f"{path}: {name} is {tensor.dtype}, not {expected.dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ZooError(f"{path}: {name} holds NaN or infinite values")
    module.load_state_dict(tensors)


@as_guest
def save_entry(
    folder: str | Path,
    net: Hypernet,
    stored_backbone: Mapping[str, torch.Tensor],
    spec: BackboneSpec,
    prompt: Prompt,
    notes: EntryNotes,
) -> PretrainedHypernet:
    """Write a zoo entry and load it back.

    Args:
        stored_backbone: the backbone's tensors exactly as they are to be stored.
        prompt: of the whole source dataset.
    """
    folder = make_folder(folder)
    write_tensors(folder / "backbone.safetensors", stored_backbone)
    write_tensors(folder / "hypernet.safetensors", net.state_dict())
    write_tensors(folder / "prompt.safetensors", prompt.state_dict())
    config = {
        "schema": SCHEMA,
        "library": __version__,
        "backbone": dataclasses.asdict(spec),
        "fingerprint": fingerprint(stored_backbone),
        "groups": {name: group.width for name, group in net.groups.items()},
        "hypernet": dataclasses.asdict(net.config),
        "prompt": prompt.shape,
        "source": dict(notes.source),
        "recipe": dict(notes.recipe),
        "results": dict(notes.results),
    }
    write_json(folder / CONFIG, config)
    write_bytes(folder / "README.md", notes.card.encode())
    entry = _load(folder, read_json(folder / CONFIG), str(folder))
    masks = entry.generate_masks(entry.prompt(), SOURCE_BUDGET)
    masks.save(folder / "masks.safetensors")
    write_manifest(folder)
    return entry
