"""Weights of a network: by torchvision name (downloaded), or from a .safetensors or .pth file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pass_transfer.errors import BackboneError
from pass_transfer.files import read_tensors
from pass_transfer.networks.builders import build_backbone
from pass_transfer.networks.classifier import classifier_name
from pass_transfer.networks.spec import BackboneSpec

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
CONVERSION = (
    "{old} is a pickle, which could run code; --backbone reads safetensors. "
    "If you trust the file, convert it once in Python:\n"
    "    import torch, safetensors.torch\n"
    "    safetensors.torch.save_file({{n: t.contiguous() for n, t in "
    'torch.load({old!r}, "cpu", weights_only=True).items()}}, {new!r})'
)


def load_weights(backbone: nn.Module, architecture: str, weights: str | Path) -> list[str]:
    """Load weights into a backbone; returns the names of tensors left as they were.

    Args:
        backbone: changed in place.
        architecture: its torchvision name, to look a weight name up by.
        weights: a .safetensors or .pth file, or a torchvision weight name such as
            "IMAGENET1K_V1" (downloaded). A classifier of another size is left out,
            anything else that does not fit is an error.

    Raises:
        BackboneError: missing file, unknown name, missing or misshaped tensors.
    """
    return _fill(
        backbone,
        architecture,
        weights,
        _read_state(architecture, weights),
        (classifier_name(backbone) + ".",),
    )


def load_checkpoint(path: str | Path, spec: BackboneSpec) -> tuple[nn.Module, BackboneSpec]:
    """A network of one's own: weights of a spec's architecture, for any number of classes.

    Args:
        path: a .safetensors file. Names may begin with "module." or, where PrunedModel
            wrote it, "backbone."; such a file's prompt is left out.
        spec: architecture, image size and preprocessing.

    Returns:
        The network in eval mode, and the spec with its number of classes.

    Raises:
        BackboneError: a pickle (with the way to convert it), or a tensor that is missing,
            unknown, of another shape or kind, or not finite; it is named.
        StorageError: a file that is missing or damaged.
    """
    path = Path(path).expanduser()
    if path.suffix in PICKLES:
        raise BackboneError(
            CONVERSION.format(old=str(path), new=str(path.with_suffix(".safetensors")))
        )
    if path.suffix != ".safetensors":
        raise BackboneError(
            f"{path} is no .safetensors file; "
            f"give the file with the state dict of a {spec.architecture}"
        )
    state = _plain_names(read_tensors(path))
    head = f"{classifier_name(build_backbone(spec))}.weight"
    if head not in state or state[head].ndim != 2:
        what = (
            "is missing"
            if head not in state
            else f"has shape {tuple(state[head].shape)}, not (classes, features)"
        )
        raise BackboneError(
            f"{path}: the tensor {head} {what}; these are not weights of {spec.architecture}"
        )
    spec = replace(spec, classes=len(state[head]))
    backbone = build_backbone(spec)
    _fill(backbone, spec.architecture, path, state)
    return backbone.eval(), spec


def _fill(
    backbone: nn.Module,
    architecture: str,
    weights: str | Path,
    state: Mapping[str, torch.Tensor],
    left_out: tuple[str, ...] = (),
) -> list[str]:
    """Load a state dict; returns the names of what was left as it was.

    What begins with one of `left_out` may be missing or have another shape, nothing else.
    """
    own = backbone.state_dict()
    not_these = f"these are not weights of {architecture}"
    kept = {}
    for name, tensor in own.items():
        given = state.get(name)
        if given is not None and given.shape == tensor.shape:
            kept[name] = given
        elif not name.startswith(left_out) and not name.endswith("num_batches_tracked"):
            what = (
                "is missing"
                if given is None
                else f"has shape {tuple(given.shape)}, not {tuple(tensor.shape)}"
            )
            raise BackboneError(f"{weights}: the tensor {name} {what}; {not_these}")
    unknown = sorted(set(state) - set(own))
    if unknown:
        raise BackboneError(
            f"{weights}: unknown tensor {unknown[0]} (and {len(unknown) - 1} more); {not_these}"
        )
    for name, tensor in kept.items():
        if tensor.is_floating_point() != own[name].is_floating_point():
            raise BackboneError(
                f"{weights}: the tensor {name} is {tensor.dtype}, not {own[name].dtype}; "
                f"{not_these}"
            )
        if tensor.is_floating_point() and not bool(
            torch.isfinite(tensor.to(own[name].dtype)).all()
        ):
            raise BackboneError(f"{weights}: the tensor {name} holds NaN or infinite values")
    backbone.load_state_dict(kept, strict=False)
    return sorted(set(own) - set(kept))


def _plain_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A backbone's tensors without what a parallel wrapper or PrunedModel puts around them."""
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if any(name.startswith("backbone.") for name in state):
        return {
            name.removeprefix("backbone."): tensor
            for name, tensor in state.items()
            if not name.startswith("prompt.")
        }
    return state


def _read_state(architecture: str, weights: str | Path) -> Mapping[str, torch.Tensor]:
    path = Path(weights).expanduser()
    state: Mapping[str, Any]
    if path.suffix == ".safetensors":
        state = read_tensors(path)
    elif path.suffix in PICKLES:
        if not path.is_file():
            raise BackboneError(f"no weights file {path}")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged archive
            raise BackboneError(
                f"{path} is not a file of plain tensors ({type(error).__name__})"
            ) from error
    else:
        state = _torchvision_state(architecture, str(weights))
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, Mapping) or not all(
        isinstance(t, torch.Tensor) for t in state.values()
    ):
        raise BackboneError(f"{path} does not hold a state dict (names with tensors)")
    return _plain_names(state)


def _torchvision_state(architecture: str, name: str) -> Mapping[str, torch.Tensor]:
    from torchvision.models import get_model_weights

    known = get_model_weights(architecture).__members__
    if name not in known:
        raise BackboneError(
            f"{name!r} is neither a .pth or .safetensors file "
            f"nor torchvision weights of {architecture}; torchvision has {', '.join(known)}"
        )
    try:
        return known[name].get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # urllib and torch.hub raise many kinds
        raise BackboneError(
            f"cannot download the torchvision weights {name} of {architecture} "
            f"({type(error).__name__}: {error}). "
            "Without a network, give a .pth or .safetensors file."
        ) from error


def fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """sha-256 over names, shapes and bytes of a state dict: which weights these are."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
