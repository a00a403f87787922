"""Masks to a plain smaller network: dropped channels are cut out of every weight.

The cutting is index selection, and a saved network is rebuilt from the shapes of its tensors,
without being followed again.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from pass_transfer.errors import BackboneError, MaskError
from pass_transfer.networks.groups import ChannelGroups, find_groups, kept_channels
from pass_transfer.networks.image import usual_sizes
from pass_transfer.networks.layers import kind_of, layer_kind
from pass_transfer.networks.layers.kind import keep_places, resize_tensors


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
    groups = groups or _groups_at_any_size(backbone)
    if groups.coupling != "grouped":
        raise MaskError(
            "masks with independent coupling cannot be removed: "
            "the layers of a residual stream keep different channels"
        )
    _check_fit(masks, groups)
    small = copy.deepcopy(backbone)
    written, read = kept_channels(groups, masks)
    for layer, kept in written.items():
        kind = kind_of(backbone.get_submodule(layer))  # a cut layer may look like another kind
        kind.keep_outputs(small.get_submodule(layer), kept.nonzero().flatten())
    for layer, kept in read.items():
        kind = kind_of(backbone.get_submodule(layer))
        kind.keep_inputs(small.get_submodule(layer), kept.nonzero().flatten())
    for name, group in groups.items():
        for tensor, (axis, units) in group.tensors.items():
            keep_places(small, tensor, axis, masks[name].cpu()[units].nonzero().flatten())
    _update_sizes(small)
    return small


def _groups_at_any_size(backbone: nn.Module) -> ChannelGroups:
    """A network's groups, which are the same at any size that it takes. Raises BackboneError."""
    *first, last = usual_sizes(backbone)
    for size in first:
        try:
            return find_groups(backbone, size)
        except BackboneError:
            continue
    return find_groups(backbone, last)


def _update_sizes(network: nn.Module) -> None:
    """Numbers that a module keeps of what is inside it, as a count of heads, follow the cut."""
    for module in network.modules():
        kind = layer_kind(module)
        if kind is not None and not kind.has_channels:
            kind.update_sizes(module)


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
    _update_sizes(backbone)


def _of_module(name: str, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    """The shapes of a module's own tensors, by their names in it."""
    found = {}
    for tensor, shape in shapes.items():
        owner, _, leaf = tensor.rpartition(".")
        if owner == name:
            found[leaf] = shape
    return found
