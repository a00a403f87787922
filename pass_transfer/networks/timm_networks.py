"""timm's networks, by the name "timm/NAME". timm is an extra, imported when one is asked for.

A name may end in the tag of its weights, as timm writes it: "timm/resnet18d.ra2_in1k".
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn

from pass_transfer.errors import BackboneError, UsageError
from pass_transfer.hub import in_words, quiet
from pass_transfer.networks.source import meant
from pass_transfer.networks.spec import BackboneSpec

PREFIX = "timm/"
INSTALL = "pip install 'pass-transfer[timm]'"
SQUASHING = "squash"  # of timm's crop modes, the one that lets an image's aspect ratio go


def installed() -> bool:
    """Whether timm can be imported."""
    return importlib.util.find_spec("timm") is not None


def names() -> list[str]:
    """Names of all networks that timm has, as they are asked for here."""
    return [f"{PREFIX}{name}" for name in _timm().list_models()]


def has(architecture: str) -> bool:
    """Whether timm has a network. Raises UsageError where timm is not installed."""
    return _timm().is_model(architecture.removeprefix(PREFIX))


def build(spec: BackboneSpec) -> nn.Module:
    """A network with random weights, for the spec's image size where it is built for one."""
    return _created(spec.architecture, spec.image_size, num_classes=spec.classes)


def inputs(architecture: str, weights: str | None) -> dict[str, Any]:
    """What weights take in, by the fields of a spec; the default ones', where no tag is given.

    Raises BackboneError for a tag that timm does not have.
    """
    from timm.data import resolve_data_config

    config = _config(architecture, weights)
    found = resolve_data_config({}, pretrained_cfg={} if config is None else config.to_dict())
    size = found["input_size"][-1]
    return {
        "image_size": size,
        "mean": tuple(found["mean"]),
        "std": tuple(found["std"]),
        "crop_share": size / math.floor(size / min(1.0, found["crop_pct"])),
        "interpolation": "bilinear" if found["interpolation"] == "bilinear" else "bicubic",
        "fit": "squash" if found["crop_mode"] == SQUASHING else "crop",
    }


def pretrained(spec: BackboneSpec, weights: str | None) -> Mapping[str, torch.Tensor]:
    """The tensors of weights, downloaded by timm where it has not kept them, at the spec's size.

    Raises BackboneError for a tag that timm does not have, or weights that do not come.
    """
    config = _config(spec.architecture, weights)
    if config is None or not config.has_weights:
        raise BackboneError(
            f"timm has no pretrained weights of {spec.architecture}; give a file (weights)"
        )
    name = f"{spec.architecture}.{config.tag}" if config.tag else spec.architecture
    try:
        with quiet():
            return _created(name, spec.image_size, pretrained=True).state_dict()
    except Exception as error:  # huggingface_hub and timm raise many kinds
        raise BackboneError(
            f"cannot download timm's weights {name.removeprefix(PREFIX)} ({in_words(error)}); "
            "where there is no internet, give a .pth or .safetensors file (weights)"
        ) from error


def adjusted(state: dict[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors as timm brings them to a network: positions at its image size.

    Names of a model's earlier versions become those of today, too.
    """
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if all(own.get(name) == tensor.shape for name, tensor in state.items()):
        return state
    bring = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if bring is None:
        return state
    try:
        return dict(bring(dict(state), network))
    except Exception:  # of tensors that are not this network's: they are refused by name and shape
        return state


def _timm() -> ModuleType:
    """timm itself. Raises UsageError where it is not installed."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UsageError(f"networks named {PREFIX}NAME need timm: {INSTALL}") from error


def _created(architecture: str, image_size: int, **options: Any) -> nn.Module:
    """A network of timm; without a size where it takes images of any."""
    name = architecture.removeprefix(PREFIX)
    try:
        return _timm().create_model(name, img_size=image_size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return _timm().create_model(name, **options)


def _config(architecture: str, tag: str | None) -> Any:
    """What timm knows of weights; None for a network that it has no weights of."""
    timm, name = _timm(), architecture.removeprefix(PREFIX)
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
    if tag is not None and tag not in tags:
        known = ", ".join(tags) or "none"
        raise BackboneError(
            f"{tag!r} is neither a .pth or .safetensors file nor a tag of timm's weights of "
            f"{architecture}{meant(tag, tags)}; timm has {known}"
        )
    return timm.models.get_pretrained_cfg(f"{name}.{tag}" if tag else name)
