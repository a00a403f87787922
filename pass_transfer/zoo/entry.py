"""A zoo entry: hypernetwork, backbone, source prompt and source masks in one verified folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pass_transfer import __version__
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
from pass_transfer.networks import (
    BackboneSpec,
    build_backbone,
    find_groups,
)
from pass_transfer.networks.weights import fingerprint
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.zoo.catalogue import CONFIG, find_entry
from pass_transfer.zoo.verify import verify_files, write_manifest

SCHEMA = 1
SOURCE_MACS = 0.5  # budget of the source masks an entry carries


def load_hypernet(name: str | Path) -> PretrainedHypernet:
    """Verify and load a zoo entry.

    Args:
        name: a folder, an installed entry's name (with or without "zoo/"), or hf-hub:owner/name.

    Raises:
        ZooError: unknown, incomplete, altered, or with parts that do not belong together.
    """
    folder = find_entry(name)
    verify_files(folder)
    try:
        config = read_json(folder / CONFIG)
        if config["schema"] != SCHEMA:
            raise ZooError(
                f"{folder}: schema {config['schema']}, this version reads {SCHEMA}; upgrade pass-transfer"
            )
        return _load(folder, config, str(name))
    except ZooError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, StorageError) as error:
        raise ZooError(
            f"{folder}: {CONFIG} or a tensor file is not that of an entry ({type(error).__name__}: {error})"
        ) from error


def verify_entry(name: str | Path) -> dict[str, str]:
    """Check an entry to the bottom: hashes, loading, and that its masks are those of its prompt.

    Returns file names with their sha-256. Raises ZooError.
    """
    entry, folder = load_hypernet(name), find_entry(name)
    try:
        stored = ChannelMasks.load(folder / "masks.safetensors", entry.groups)
    except (MaskError, StorageError) as error:
        raise ZooError(str(error)) from error
    if stored != entry.generate_masks(entry.prompt(), macs=SOURCE_MACS):
        raise ZooError(
            f"{folder / 'masks.safetensors'} are not the masks that the entry's prompt gives"
        )
    return verify_files(folder)


def _load(folder: Path, config: dict[str, Any], name: str) -> PretrainedHypernet:
    spec = BackboneSpec.from_saved(config["backbone"])
    stored = read_tensors(folder / "backbone.safetensors")
    if fingerprint(stored) != config["fingerprint"]:
        raise ZooError(
            f"{folder / 'backbone.safetensors'} is not the backbone this hypernetwork was trained for"
        )
    backbone = build_backbone(spec)
    _load_state(backbone, stored, folder / "backbone.safetensors")
    groups = find_groups(backbone, spec.image_size)
    if {n: g.width for n, g in groups.items()} != config["groups"]:
        raise ZooError(
            f"{folder}: the channel groups found in {spec.architecture} are not those of {CONFIG}"
        )
    net = Hypernet(HypernetConfig.from_saved(config["hypernet"]), backbone, groups)
    _load_state(net, read_tensors(folder / "hypernet.safetensors"), folder / "hypernet.safetensors")
    prompt = Prompt(**config["prompt"])
    _load_state(prompt, read_tensors(folder / "prompt.safetensors"), folder / "prompt.safetensors")
    return PretrainedHypernet(net, backbone, prompt, spec, config, name)


def _load_state(module: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    own = module.state_dict()
    odd = sorted(set(own) ^ set(tensors))
    if odd:
        raise ZooError(
            f"{path}: the tensor {odd[0]} is {'missing' if odd[0] in own else 'unknown'}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise ZooError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, not {tuple(own[name].shape)}"
            )
        if tensor.is_floating_point() != own[name].is_floating_point():
            raise ZooError(f"{path}: {name} is {tensor.dtype}, not {own[name].dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ZooError(f"{path}: {name} holds NaN or infinite values")
    module.load_state_dict(tensors)


def save_entry(
    folder: str | Path,
    net: Hypernet,
    stored_backbone: Mapping[str, torch.Tensor],
    spec: BackboneSpec,
    prompt: Prompt,
    source: Mapping[str, Any],
    recipe: Mapping[str, Any],
    results: Mapping[str, Any],
    card: str,
) -> PretrainedHypernet:
    """Write a zoo entry and load it back.

    Args:
        stored_backbone: the backbone's tensors exactly as they are to be stored.
        prompt: of the whole source dataset.
        source: at least "task" and "class_names".
        recipe: the settings it was trained with.
        results: measured figures.
        card: the model card, markdown.
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
        "groups": {n: g.width for n, g in net.groups.items()},
        "hypernet": dataclasses.asdict(net.config),
        "prompt": prompt.shape,
        "source": dict(source),
        "recipe": dict(recipe),
        "results": dict(results),
    }
    write_json(folder / CONFIG, config)
    write_bytes(folder / "README.md", card.encode())
    entry = _load(folder, read_json(folder / CONFIG), str(folder))
    entry.generate_masks(entry.prompt(), macs=SOURCE_MACS).save(folder / "masks.safetensors")
    write_manifest(folder)
    return entry
