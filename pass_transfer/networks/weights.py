"""Weights of a network: from a checkpoint's file, or by the name that a library has for them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from pass_transfer.arguments import expanded
from pass_transfer.errors import BackboneError
from pass_transfer.networks.builders import architectures, build_backbone, source_of
from pass_transfer.networks.checkpoints import PICKLE, conversion, file_kind, read_checkpoint
from pass_transfer.networks.classifier import classifier_name, classifier_of
from pass_transfer.networks.layers.open_attention import named_as_open
from pass_transfer.networks.outline import load_tensors, outline
from pass_transfer.networks.spec import BackboneSpec
from pass_transfer.networks.tensor_names import (
    COUNTER,
    Architecture,
    FoundTensors,
    find_network,
    is_pruned,
)
from pass_transfer.progress import say

ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
ANY_SIZE = 224  # pixels, which any network takes
RUN_NOTE = "model.json"  # beside the weights of a finished run


def load_weights(backbone: nn.Module, spec: BackboneSpec, weights: str | Path | None) -> list[str]:
    """Load weights into a spec's network; returns the names of tensors left as they were.

    Args:
        backbone: changed in place.
        weights: a checkpoint's file, safetensors or a pickle (see read_checkpoint), or a name
            of weights that its library downloads, such as "IMAGENET1K_V1"; the default ones
            without it. Names may stand behind any prefix. A classifier of another size or of
            several layers is left out, and may be missing; anything else that does not fit is
            an error.

    Raises:
        BackboneError: missing file, unknown name, missing or misshaped tensors.
        StorageError: a damaged safetensors file.
    """
    tensors, where = _read(spec, weights)
    wanted = _architecture(backbone, spec.architecture)
    found = _find(tensors, backbone, wanted, where)
    own = backbone.state_dict()
    kept = {}
    for name, tensor in found.state.items():
        if not wanted.in_head(name) or (name in own and own[name].shape == tensor.shape):
            kept[name] = tensor
    _fill(backbone, wanted, where, replace(found, state=kept), may_lack_head=True)
    return sorted(set(own) - set(kept))


def load_checkpoint(path: str | Path, spec: BackboneSpec) -> tuple[nn.Module, BackboneSpec]:
    """A network of one's own: weights of a spec's architecture, for any number of classes.

    Args:
        path: a safetensors file. Names may stand behind any prefix, such as "module.". Without
            a classifier, the network gets one row of zeros for one (see has_classifier).
        spec: architecture, image size and preprocessing.

    Returns:
        The network in eval mode, and the spec with its number of classes.

    Raises:
        BackboneError: a pickle (with the way to convert it), or a tensor that is missing,
            unknown, of another shape or kind, or not finite; it is named.
        StorageError: a file that is missing or damaged.
    """
    path = expanded(path)
    if file_kind(path) == PICKLE:
        raise BackboneError(conversion(path))
    return load_dense(spec, path)


def load_dense(spec: BackboneSpec, weights: str | Path | None) -> tuple[nn.Module, BackboneSpec]:
    """A spec's network with weights, in eval mode, and the spec with their number of classes.

    Args:
        weights: a file or a name, as of load_weights; its classifier may be of any size, or
            missing (see load_checkpoint).

    Raises BackboneError, StorageError: as load_checkpoint and load_weights.
    """
    tensors, where = _read(spec, weights)
    backbone = build_backbone(spec)
    wanted = _architecture(backbone, spec.architecture)
    found = _find(tensors, backbone, wanted, where)
    head = _head(found, wanted, where)
    classes = len(head["weight"])
    if classes != spec.classes:
        spec = replace(spec, classes=classes)
        backbone = build_backbone(spec)
        wanted = _architecture(backbone, spec.architecture)
    named = {f"{wanted.head}.{leaf}": tensor for leaf, tensor in head.items()}
    _fill(backbone, wanted, where, replace(found, state=found.state | named))
    return backbone.eval(), spec


def is_file(weights: str | Path) -> bool:
    """Whether weights are given as a file, and not by the name of those of a library."""
    path = expanded(weights)
    return path.exists() or path.suffix in ENDINGS or len(path.parts) > 1


def _read(
    spec: BackboneSpec, weights: str | Path | None
) -> tuple[Mapping[str, torch.Tensor], str | Path]:
    """Tensors by name, and what they are called in a message."""
    if weights is not None and is_file(weights):
        path = expanded(weights)
        return read_checkpoint(path), path
    name = None if weights is None else str(weights)
    state = source_of(spec.architecture).pretrained(spec, name)
    return state, f"the weights {name or 'by default'} of {spec.architecture}"


def has_classifier(backbone: nn.Module) -> bool:
    """Whether a checkpoint's network came with a classifier, or has zeros for one."""
    return bool(classifier_of(backbone).get_parameter("weight").any())


def _architecture(backbone: nn.Module, name: str) -> Architecture:
    shapes = {tensor: value.shape for tensor, value in backbone.state_dict().items()}
    return Architecture(name, shapes, classifier_name(backbone))


def _find(
    tensors: Mapping[str, torch.Tensor],
    backbone: nn.Module,
    wanted: Architecture,
    path: str | Path,
) -> FoundTensors:
    """A network's tensors in a file, for its image size; says what else is there.

    Raises BackboneError.
    """
    try:
        found = find_network(named_as_open(tensors, wanted.shapes), wanted)
    except BackboneError as error:
        raise BackboneError(f"{path} {error}") from error
    if found.left_out:
        more = f" and {len(found.left_out) - 1} more" if len(found.left_out) > 1 else ""
        taken = f"of {path}, the tensors behind {found.prefix} are taken"
        say(f"{taken}; left out: {found.left_out[0]}{more}")
    adjusted = source_of(wanted.name).adjusted(found.state, backbone)
    return replace(found, state=adjusted)


def _head(found: FoundTensors, wanted: Architecture, path: str | Path) -> dict[str, torch.Tensor]:
    """The classifier's weight and bias; zeros where there is none. Raises BackboneError."""
    own = {n: t for n, t in found.state.items() if wanted.in_head(n)}
    features = wanted.shapes[f"{wanted.head}.weight"][1:]
    if not own:
        rows = {"weight": torch.zeros(1, *features), "bias": torch.zeros(1)}
        return {leaf: row for leaf, row in rows.items() if f"{wanted.head}.{leaf}" in wanted.shapes}
    weight = own.get(f"{wanted.head}.weight")
    deeper = [n for n in own if n.rpartition(".")[0] != wanted.head]
    if weight is None and deeper:
        raise BackboneError(
            f"{path}: its classifier has several layers ({', '.join(sorted(deeper)[:4])}), where "
            f"{wanted.name} has one layer {wanted.head}. Save the file without a "
            "classifier, that is without these, and a new one is made"
        )
    if weight is None or weight.ndim != 1 + len(features):
        what = (
            "is missing"
            if weight is None
            else f"has shape {tuple(weight.shape)}, not (classes, features)"
        )
        raise BackboneError(
            f"{path}: the tensor {found.prefix}{wanted.head}.weight {what}; these are not weights "
            f"of {wanted.name}"
        )
    return {name.rpartition(".")[2]: tensor for name, tensor in own.items()}


def _fill(
    backbone: nn.Module,
    wanted: Architecture,
    path: str | Path,
    found: FoundTensors,
    may_lack_head: bool = False,
) -> None:
    """Load what was found. Raises BackboneError for the first tensor that does not fit."""
    own, state = backbone.state_dict(), found.state
    where = f"{path}: the tensor {found.prefix}"
    not_these = f"these are not weights of {wanted.name}"
    for name, tensor in own.items():
        given = state.get(name)
        optional = name.endswith(COUNTER) or (may_lack_head and wanted.in_head(name))
        if given is None and not optional:
            raise BackboneError(f"{where}{name} is missing; {not_these}{_but(state, wanted)}")
        if given is not None and given.shape != tensor.shape:
            shapes = f"has shape {tuple(given.shape)}, not {tuple(tensor.shape)}"
            if is_pruned(state, wanted):
                raise BackboneError(_pruned(path, wanted, f"{found.prefix}{name} {shapes}"))
            raise BackboneError(f"{where}{name} {shapes}; {not_these}{_but(state, wanted)}")
    unknown = sorted(set(state) - set(own))
    if unknown:
        raise BackboneError(
            f"{path}: unknown tensor {found.prefix}{unknown[0]} (and {len(unknown) - 1} more); "
            f"{not_these}{_but(state, wanted)}"
        )
    for name, tensor in state.items():
        if tensor.is_floating_point() != own[name].is_floating_point():
            quantised = " in floating point, but perhaps quantised ones"
            raise BackboneError(
                f"{where}{name} is {tensor.dtype}, not {own[name].dtype}; {not_these}"
                f"{quantised if own[name].is_floating_point() else ''}"
            )
        values = tensor.to(own[name].dtype)
        if tensor.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise BackboneError(f"{where}{name} holds NaN or infinite values")
    load_tensors(backbone, state, strict=False)


def _but(state: Mapping[str, torch.Tensor], wanted: Architecture) -> str:
    """Of which other architecture the tensors are, if they are of one that can be built."""
    found = {n: t.shape for n, t in state.items() if not n.endswith(COUNTER)}
    for name in _of_families(found):
        other = None if name == wanted.name else _known(name)
        if other is None:
            continue
        body = {n: other.shapes[n] for n in other.body}
        rest = set(found) - set(body)
        heads = all(other.in_head(n) or wanted.in_head(n) for n in rest)
        if heads and all(found.get(n) == body[n] for n in body):
            return f", but of {name}"
    return ""


def _of_families(names: Collection[str]) -> Iterator[str]:
    """Architectures of the families whose first one's first tensor has one of these names."""
    families: dict[str, list[str]] = {}
    for name in architectures():
        families.setdefault(name.partition("_")[0].rstrip("0123456789"), []).append(name)
    for members in families.values():
        first = _known(members[0])
        if first is not None and first.body[0] in names:
            yield from members


@functools.cache
def _known(name: str) -> Architecture | None:
    """An architecture's tensors; None of one that cannot be built without values."""
    try:
        size = source_of(name).inputs(name, None)["image_size"]
        return _architecture(outline(lambda: build_backbone(BackboneSpec(name, 2, size))), name)
    except Exception:  # a builder of somebody's own may raise anything
        return None


def _pruned(path: str | Path, wanted: Architecture, tensor: str) -> str:
    """What to say of a network that has fewer channels."""
    folder = Path(path).parent
    said = f"{path} holds a pruned {wanted.name} ({tensor}), which is no whole one. "
    if (folder / RUN_NOTE).is_file():
        return f"{said}Cut it again with adapt from its run folder {folder} (from_run)"
    return f"{said}Only a run folder of adapt can be cut again (from_run)"


def fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """sha-256 over names, shapes and bytes of a state dict: which weights these are."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
