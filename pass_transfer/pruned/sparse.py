"""Weights of which most are zeros, on disk: a bit for each, and the values that are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from pass_transfer.errors import MaskError
from pass_transfer.weight_masks import BITS, WeightMasks, from_bits, to_bits

VALUES = ".values"
BACKBONE = "backbone."


def pack(tensors: Mapping[str, torch.Tensor], masks: WeightMasks | None) -> dict[str, torch.Tensor]:
    """A network's tensors with the masked ones as bits and values, in the order of their places.

    Args:
        masks: by names in the backbone; without any, the tensors stay as they are.
    """
    packed = dict(tensors)
    for name, mask in {} if masks is None else masks.items():
        weight = packed.pop(BACKBONE + name).detach().cpu()
        packed[BACKBONE + name + BITS] = to_bits(mask)
        packed[BACKBONE + name + VALUES] = weight.contiguous()[mask]
    return packed


def unpack(
    packed: Mapping[str, torch.Tensor], shapes: Mapping[str, Sequence[int]] | None
) -> tuple[dict[str, torch.Tensor], WeightMasks | None]:
    """What pack was given: dense tensors with exact zeros, and the masks.

    Args:
        shapes: of the weights that are packed, by names in the backbone; None where none is.

    Raises MaskError where bits or values are missing, or do not fit.
    """
    if shapes is None:
        return dict(packed), None
    tensors, masks = dict(packed), {}
    for name, shape in shapes.items():
        bits, values = (tensors.pop(BACKBONE + name + end, None) for end in (BITS, VALUES))
        if bits is None or values is None:
            raise MaskError(f"{name} has no bits and values")
        masks[name] = from_bits(bits, torch.Size(shape))
        if values.shape != (int(masks[name].sum()),):
            raise MaskError(f"{name} has {tuple(values.shape)} values, not one for each bit set")
        weight = torch.zeros(shape, dtype=values.dtype)
        weight[masks[name]] = values
        tensors[BACKBONE + name] = weight
    return tensors, WeightMasks(masks)
