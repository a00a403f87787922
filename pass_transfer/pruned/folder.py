"""A small network on disk: model.safetensors, and the JSON that rebuilds and vouches for it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pass_transfer import __version__
from pass_transfer.errors import BackboneError, MaskError, RunError, StorageError, UsageError
from pass_transfer.files import (
    make_folder,
    read_object,
    read_tensors,
    sha256,
    write_json,
    write_tensors,
)
from pass_transfer.hub import HUB_PREFIX, download, dropped_if_damaged
from pass_transfer.networks import BackboneSpec, build_backbone, kind_of
from pass_transfer.networks.network import Network
from pass_transfer.networks.outline import check_images, check_tensors, load_tensors, outline
from pass_transfer.networks.removal import resize_like
from pass_transfer.prompts import Prompt
from pass_transfer.pruned.deployed import DeployedNetwork
from pass_transfer.pruned.sparse import pack, unpack
from pass_transfer.settings import (
    OBJECT,
    TEXT,
    check_fields,
    listed,
    maybe,
    named,
    shown,
    whole,
)

FORMAT, SPARSE_FORMAT = 2, 3  # with single weights that went
DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"
FIELDS = {
    "format": whole(),
    "library": TEXT,
    "backbone": OBJECT,
    "class_names": listed(TEXT),
    "prompt": maybe(OBJECT),
    "widths": named(whole(1)),
    "kept": OBJECT,
    "sha256": named(TEXT),
}
SPARSE = {"sparse": named(listed(whole(1)))}  # shapes of weights that are bits and values
VOUCHED = {  # a run's own
    WEIGHTS,
    "masks.safetensors",
    "scores.safetensors",
    "prompt.safetensors",
    "prior.safetensors",
    "evaluation.safetensors",
    "data.safetensors",
}
UNKNOWN = "network"  # the argument that an error is about where a network's name is not known
WEIGHT_FILES = {".safetensors", ".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5"}


def write_folder(folder: str | Path, model: DeployedNetwork) -> None:
    """Write model.json and model.safetensors. Raises StorageError; a reader sees no half a file."""
    folder = make_folder(folder)
    spec, kept = model.spec, model.kept
    tensors, prompt = model.network.state_dict(), model.network.prompt
    write_tensors(folder / WEIGHTS, pack(tensors, model.masks))
    sizes = _sizes(spec, kept, tensors)
    widths = {
        name: _width(len(units), small, dense)
        for (name, units), (small, dense) in zip(kept.items(), sizes)
    }
    weights_digest = {WEIGHTS: sha256(folder / WEIGHTS)}
    note = {
        "format": FORMAT,
        "library": __version__,
        "backbone": dataclasses.asdict(spec),
        "class_names": list(model.class_names),
        "prompt": None if prompt is None else prompt.shape,
        "widths": widths,
        "kept": kept,
        "sha256": weights_digest,
    }
    if model.masks is not None:
        shapes = {name: list(mask.shape) for name, mask in model.masks.items()}
        note |= {"format": SPARSE_FORMAT, "sparse": shapes}
    digests = weights_digest | {DESCRIPTION: _digest(note)}
    write_json(folder / DESCRIPTION, note | {"sha256": digests})


def read_folder(folder: str | Path) -> DeployedNetwork:
    """Read and check both files, and rebuild the network; see load_pruned for what is raised."""
    if str(folder).startswith(HUB_PREFIX):
        folder = _fetched(str(folder))
    folder = Path(folder)
    if not (folder / DESCRIPTION).is_file():
        what = "is no folder, so it is not a finished run"
        if folder.is_dir():
            what = f"holds no {DESCRIPTION} and is no run of adapt; give one, such as runs/c100"
        if (folder / "config.json").is_file():
            what = (
                f"holds no {DESCRIPTION}: it is not a finished run. "
                "Continue it with pass-transfer adapt --resume."
            )
        raise RunError(f"{folder} {what}")
    _check_files(folder)
    note = read_object(folder / DESCRIPTION)
    try:
        return _rebuild(folder, note)
    except (UsageError, BackboneError, MaskError) as error:
        said = f"does not describe {WEIGHTS}: {error}"
        if isinstance(error, UsageError) and error.argument == UNKNOWN:
            own = "one of your own is registered first, pt.register_network(NAME, build)"
            said = f"cannot be loaded here: {error}; {own}"
        raise StorageError(f"{folder / DESCRIPTION} {said}") from error


def _fetched(name: str) -> Path:
    """The folder of a model on the hub, whose weights are those that its description names."""
    folder = download(name, RunError, (DESCRIPTION, WEIGHTS))
    if (folder / DESCRIPTION).is_file():
        with dropped_if_damaged(name, folder):
            _check_weights(folder, read_object(folder / DESCRIPTION))
    return folder


def _check_weights(folder: Path, note: Mapping[str, Any]) -> None:
    """Refuse weights that the description does not vouch for."""
    path, vouched = folder / WEIGHTS, note.get("sha256")
    digest = vouched.get(WEIGHTS) if isinstance(vouched, dict) else None
    if not path.is_file() or sha256(path) != digest:
        raise StorageError(
            f"{path} is missing or not the file that was saved (its sha-256 differs)"
        )


def _rebuild(folder: Path, note: dict[str, Any]) -> DeployedNetwork:
    where = folder / DESCRIPTION
    _check_format(where, note)
    _check_weights(folder, note)
    spec, names = BackboneSpec.from_saved(note["backbone"]), note["class_names"]
    if len(names) != spec.classes:
        raise StorageError(f"{where} does not name the {spec.classes} classes of its network")
    tensors, masks = unpack(read_tensors(folder / WEIGHTS), note.get("sparse"))
    _check_kept(where, spec, note["kept"], note["widths"], tensors)
    if note["sha256"].pop(DESCRIPTION, None) != _digest(note):
        raise StorageError(
            f"{where} was altered or is damaged: its sha-256 is not the one it names"
        )
    shape = note["prompt"]
    prompt = None if shape is None else Prompt.from_saved(shape, spec.image_size)
    plan = outline(lambda: _empty(spec, tensors, None))
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith("prompt.")}
    check_tensors(plan.state_dict(), own, folder / WEIGHTS)
    check_images(plan, spec)
    network = _empty(spec, tensors, prompt)
    check_tensors(network.state_dict(), tensors, folder / WEIGHTS)
    load_tensors(network, tensors)
    return DeployedNetwork(network, spec, names, note["kept"], masks)


def _check_format(where: Path, note: dict[str, Any]) -> None:
    """Refuse a description of another version, or with a field that is not of its kind."""
    check_fields(note, {"format": whole()})
    if note["format"] not in (FORMAT, SPARSE_FORMAT):
        older = note["format"] < FORMAT
        advice = "an earlier version wrote it, adapt again" if older else "upgrade pass-transfer"
        raise StorageError(
            f"{where} has format {note['format']}, this version reads {FORMAT} and "
            f"{SPARSE_FORMAT}: {advice}"
        )
    own = SPARSE if note["format"] == SPARSE_FORMAT else {}
    check_fields(note, FIELDS | own, closed=True)


def _empty(
    spec: BackboneSpec, tensors: Mapping[str, torch.Tensor], prompt: Prompt | None
) -> Network:
    """The network of the saved sizes, whose weights are to be loaded."""
    backbone = build_backbone(spec)
    resize_like(backbone, _backbone_shapes(tensors))
    return Network(backbone, spec.mean, spec.std, prompt)


def _backbone_shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    """The shapes of the backbone's tensors, by their names in it."""
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    return {name.removeprefix("backbone."): tensor.shape for name, tensor in own.items()}


def _digest(note: Mapping[str, Any]) -> str:
    """sha-256 of a description, without its own digest."""
    return hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()


def _check_files(folder: Path) -> None:
    """Refuse weights that nobody vouches for."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in WEIGHT_FILES and path.name not in VOUCHED:
            raise StorageError(
                f"{path} does not belong to the model: {DESCRIPTION} vouches for {WEIGHTS} alone; "
                "move it elsewhere"
            )


def _check_kept(
    where: Path,
    spec: BackboneSpec,
    kept: Mapping[str, list[int]],
    widths: Mapping[str, int],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Refuse kept units that are none of their group, or not those of the weights."""
    if list(kept) != list(widths):
        raise StorageError(f"{where}: kept and widths name different channel groups")
    for (name, units), (small, dense) in zip(kept.items(), _sizes(spec, kept, tensors)):
        width = widths[name]
        if not isinstance(units, list) or not units or not all(type(unit) is int for unit in units):
            raise StorageError(f"{where}: kept of {name} is no list of channels")
        if sorted(set(units)) != units:
            raise StorageError(f"{where}: kept of {name} holds a channel twice or is not sorted")
        if units[0] < 0 or units[-1] >= width:
            wrong = units[0] if units[0] < 0 else units[-1]
            raise StorageError(
                f"{where}: kept of {name} holds channel {wrong}, out of range for {width} channels"
            )
        if _width(len(units), small, dense) != width:
            raise StorageError(
                f"{where}: kept of {name} has {len(units)} of {width} channels, "
                f"the weights {small} of {dense}"
            )


def _sizes(
    spec: BackboneSpec, kept: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> list[tuple[int, int]]:
    """Output channels of each group's first layer, as saved and in the dense network."""
    dense = outline(lambda: build_backbone(spec))
    layers, sizes = dict(dense.named_modules()), []
    for name in kept:
        weight = tensors.get(f"backbone.{name}.weight")
        if name not in layers or weight is None or weight.ndim == 0:
            raise BackboneError(f"kept names {shown(name)}, which is no layer with weights")
        layer, small = layers[name], len(weight)
        sizes.append((small, kind_of(layer).output_channels(layer)))
    return sizes


def _width(units: int, small: int, dense: int) -> int:
    """Units of a group of which `units` are left, with `small` of `dense` channels.

    0 where they do not divide evenly.
    """
    each, rest = divmod(small, units)
    return 0 if rest or each == 0 or dense % each else dense // each
