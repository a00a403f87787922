"""A zoo entry: hypernetwork, backbone, source prompt and source masks in one verified folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from pass_transfer import __version__
from pass_transfer.arguments import check_path
from pass_transfer.budgets import Budget
from pass_transfer.errors import MaskError, PassTransferError, StorageError, UsageError, ZooError
from pass_transfer.files import (
    make_folder,
    read_tensors,
    write_bytes,
    write_json,
    write_tensors,
)
from pass_transfer.hub import dropped_if_damaged, pinned
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import BackboneSpec, build_backbone, find_groups
from pass_transfer.networks.outline import check_images, check_tensors, load_tensors, outline
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.networks.weights import fingerprint
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.surroundings import as_guest
from pass_transfer.zoo.catalogue import CONFIG, find_entry
from pass_transfer.zoo.config import SCHEMA, read_config
from pass_transfer.zoo.verify import verify_files, write_manifest

Module = TypeVar("Module", bound=nn.Module)
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
def load_hypernet(name: str | Path, revision: str | None = None) -> PretrainedHypernet:
    """Verify and load a zoo entry.

    Args:
        name: a folder, an installed entry's name (with or without "zoo/"), or
            hf-hub:owner/name, perhaps with @revision behind it.
        revision: of hf-hub:owner/name: a branch, a tag or a commit; the newest by default.

    Raises:
        ZooError: unknown, incomplete, altered, or with parts that do not belong together.
        UsageError: a revision of anything else.
    """
    check_path("hypernet", name)
    name = pinned(name, revision)
    folder = find_entry(name)
    with dropped_if_damaged(name, folder):
        verify_files(folder)
    config = read_config(folder)
    try:
        return _load(folder, config, str(name))
    except ZooError:
        raise
    except UsageError as error:
        raise ZooError(f"{folder / CONFIG} is not that of an entry: {error}") from error
    except PassTransferError as error:
        raise ZooError(f"{folder} is not a whole entry: {error}") from error
    except (TypeError, AttributeError, ValueError, RuntimeError) as error:
        # a network of another program's builder may not be what its groups were found in
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
    shape = HypernetConfig.from_saved(config["hypernet"])
    path = folder / "backbone.safetensors"
    stored = read_tensors(path)
    if fingerprint(stored) != config["fingerprint"]:
        raise ZooError(f"{path} is not the backbone this hypernetwork was trained for")
    prompt = Prompt.from_saved(config["prompt"], spec.image_size)
    _filled(prompt, *_read(folder / "prompt.safetensors"))
    dense_outline = outline(lambda: build_backbone(spec))
    check_tensors(dense_outline.state_dict(), stored, path)
    check_images(dense_outline, spec)
    backbone = _filled(build_backbone(spec), stored, path)
    groups = find_groups(backbone, spec.image_size)
    if {name: group.width for name, group in groups.items()} != config["groups"]:
        raise ZooError(
            f"{folder}: the channel groups found in {spec.architecture} are not those of {CONFIG}"
        )
    tensors, path = _read(folder / "hypernet.safetensors")
    check_tensors(outline(lambda: Hypernet(shape, None, groups)).state_dict(), tensors, path)
    net = _filled(Hypernet(shape, backbone, groups), tensors, path)
    dense = PretrainedBackbone(backbone, spec, groups, name)
    return PretrainedHypernet(net, dense, prompt, config)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], Path]:
    """A file's tensors, and where they are from."""
    return read_tensors(path), path


def _filled(module: Module, tensors: Mapping[str, torch.Tensor], path: Path) -> Module:
    """A module with the tensors of a file. Raises BackboneError where they do not fit."""
    check_tensors(module.state_dict(), tensors, path)
    load_tensors(module, tensors)
    return module


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
    entry = _load(folder, read_config(folder), str(folder))
    masks = entry.generate_masks(entry.prompt(), SOURCE_BUDGET)
    masks.save(folder / "masks.safetensors")
    write_manifest(folder)
    return entry
