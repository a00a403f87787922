"""torchvision's networks: how they are built, what their weights take in, and where these are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pass_transfer.errors import BackboneError
from pass_transfer.hub import in_words
from pass_transfer.networks.source import meant
from pass_transfer.networks.spec import BackboneSpec

POSITIONS = "encoder.pos_embedding"  # of a VisionTransformer
SIZED = ("vit_",)  # whose names begin so are built for a size
WITHOUT_AUXILIARY = {"googlenet": {"aux_logits": False, "init_weights": False}}
AUXILIARY = ("aux1.", "aux2.")  # classifiers that only training had


def build(spec: BackboneSpec) -> nn.Module:
    """A network with random weights."""
    from torchvision.models import get_model

    name = spec.architecture
    options: dict[str, Any] = dict(WITHOUT_AUXILIARY.get(name, {}))
    if name.startswith(SIZED):
        options["image_size"] = spec.image_size
    return get_model(name, weights=None, num_classes=spec.classes, **options)


def inputs(architecture: str, weights: str | None) -> dict[str, Any]:
    """What weights take in, by the fields of a spec; the default ones', where none are named.

    Raises BackboneError for weights that torchvision does not have.
    """
    known = _weights(architecture, weights)
    seen = known.transforms()
    return {
        "image_size": seen.crop_size[0],
        "mean": tuple(seen.mean),
        "std": tuple(seen.std),
        "crop_share": seen.crop_size[0] / max(seen.resize_size[0], seen.crop_size[0]),
        "interpolation": seen.interpolation.value,
    }


def pretrained(spec: BackboneSpec, weights: str | None) -> Mapping[str, torch.Tensor]:
    """The tensors of weights, downloaded by torch.hub where it has not kept them.

    Raises BackboneError for weights that torchvision does not have, or that do not come.
    """
    known = _weights(spec.architecture, weights)
    try:
        state = known.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # urllib and torch.hub raise many kinds
        raise BackboneError(
            f"cannot download the torchvision weights {known.name} of {spec.architecture} "
            f"({in_words(error)}); where there is no internet, give a .pth or .safetensors file "
            "(weights)"
        ) from error
    return {name: tensor for name, tensor in state.items() if not name.startswith(AUXILIARY)}


def adjusted(state: dict[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors with positions for the network's own image size."""
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    if not isinstance(network, VisionTransformer) or POSITIONS not in state:
        return state
    positions = state[POSITIONS]
    if positions.shape == network.encoder.pos_embedding.shape or positions.ndim != 3:
        return state
    try:
        found = interpolate_embeddings(
            network.image_size, network.patch_size, {POSITIONS: positions.float()}
        )
    except ValueError:  # positions of no square image, which are refused by their shape
        return state
    return state | {POSITIONS: found[POSITIONS]}


def _weights(architecture: str, name: str | None) -> Any:
    """One of torchvision's weights. Raises BackboneError; it names those that there are."""
    from torchvision.models import get_model_weights

    known = get_model_weights(architecture)
    if name is None:
        return known.DEFAULT
    if name not in known.__members__:
        raise BackboneError(
            f"{name!r} is neither a .pth or .safetensors file nor torchvision weights of "
            f"{architecture}{meant(name, known.__members__)}; torchvision has "
            f"{', '.join(known.__members__)}"
        )
    return known[name]
