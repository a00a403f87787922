"""Masks to a plain smaller network: dropped channels are cut out of every weight.

Torch-Pruning finds which channels belong together (networks/groups.py). The cutting is
index selection here, because a saved network must be rebuilt without tracing it, and
because Torch-Pruning cannot take whole groups out of a grouped convolution.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from pass_transfer.errors import MaskError
from pass_transfer.networks.groups import ChannelGroups, find_groups
from pass_transfer.networks.layers import kind_of, layer_kind
from pass_transfer.networks.layers.kind import resize_tensors

ANY_SIZE = 64  # grouping does not depend on the input size, so a small one will do


def remove_channels(
    backbone: nn.Module, masks: Mapping[str, torch.Tensor], groups: ChannelGroups | None = None
) -> nn.Module:
    """A copy of a backbone without the channels that masks drop.

    Args:
        backbone: left as it is.
        masks: bool (width,) for each of its channel groups.
        groups: its groups, if already found.

    Raises:
        MaskError: masks of another network, or with independent coupling, which only masks.
    """
    groups = groups or find_groups(backbone, ANY_SIZE)
    if groups.coupling != "grouped":
        raise MaskError(
            "masks with independent coupling cannot be removed: "
            "the layers of a residual stream keep different channels"
        )
    _check_fit(masks, groups)
    small = copy.deepcopy(backbone)
    for name, group in groups.items():
        for layer, units in group.writes.items():
            kind = kind_of(backbone.get_submodule(layer))  # a cut layer may look like another kind
            kept = masks[name][units].nonzero().flatten()
            kind.keep_outputs(small.get_submodule(layer), kept)
        for layer, units in group.reads.items():
            kind = kind_of(backbone.get_submodule(layer))
            kept = masks[name][units].nonzero().flatten()
            kind.keep_inputs(small.get_submodule(layer), kept)
    return small


def _check_fit(masks: Mapping[str, torch.Tensor], groups: ChannelGroups) -> None:
    """Refuse masks that lack a group, or have one of another name or width."""
    for name in sorted({*masks, *groups}):
        known = name in masks and name in groups
        if not known or masks[name].shape != (groups[name].width,):
            raise MaskError(
                "these masks belong to another network: "
                f"{name} is not a channel group of this width here"
            )


def resize_like(backbone: nn.Module, shapes: Mapping[str, torch.Size]) -> None:
    """Give a freshly built network the layer sizes of a smaller one, by its tensors' shapes.

    Weights become empty.

    Raises:
        MaskError: a tensor that the network lacks, or that is missing for it.
    """
    own = backbone.state_dict()
    if set(own) != set(shapes):
        odd = sorted(set(own) ^ set(shapes))[0]
        raise MaskError(
            f"the tensor {odd} is {'missing' if odd in own else 'unknown to this architecture'}"
        )
    for name, module in backbone.named_modules():
        of_module = _of_module(name, shapes)
        kind = layer_kind(module)
        if kind is not None:
            kind.resize(module, of_module)
        else:
            resize_tensors(module, of_module)


def _of_module(name: str, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    """The shapes of a module's own tensors, by their names in it."""
    found = {}
    for tensor, shape in shapes.items():
        owner, _, leaf = tensor.rpartition(".")
        if owner == name:
            found[leaf] = shape
    return found
