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
from pass_transfer.networks import ChannelGroups, find_groups

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
            "masks with independent coupling cannot be removed: the layers of a residual stream keep different channels"
        )
    wrong = sorted(
        n
        for n in {*masks, *groups}
        if n not in masks or n not in groups or masks[n].shape != (groups[n].width,)
    )
    if wrong:
        raise MaskError(
            f"these masks belong to another network: {wrong[0]} is not a channel group of this width here"
        )
    small = copy.deepcopy(backbone)
    for name, group in groups.items():
        for layer, units in group.writes.items():
            _keep_outputs(
                small.get_submodule(layer),
                masks[name][units].nonzero().flatten(),
                int(masks[name].sum()),
            )
        for layer, units in group.reads.items():
            if getattr(backbone.get_submodule(layer), "groups", 1) > 1:
                continue  # a grouped convolution's inputs leave with its groups
            _keep_inputs(small.get_submodule(layer), masks[name][units].nonzero().flatten())
    return small


def resize_like(backbone: nn.Module, shapes: Mapping[str, torch.Size]) -> None:
    """Give a freshly built network the layer sizes of a smaller one, by its tensors' shapes; weights become empty.

    Raises:
        MaskError: a tensor that the network lacks, or that is missing for it.
    """
    own = backbone.state_dict()
    if set(own) != set(shapes):
        odd = sorted(set(own) ^ set(shapes))[0]
        raise MaskError(
            f"the tensor {odd} is {'missing' if odd in own else 'unknown to this architecture'}"
        )
    for name, layer in backbone.named_modules():
        shape = shapes.get(f"{name}.weight")
        if shape is None:
            continue
        if isinstance(layer, nn.Conv2d):
            _resize_convolution(layer, shape)
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = shape
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.num_features = shape[0]
        for key in layer.state_dict():
            _set(
                layer,
                key,
                torch.empty(shapes[f"{name}.{key}"], dtype=layer.state_dict()[key].dtype),
            )


def _resize_convolution(layer: nn.Conv2d, shape: torch.Size) -> None:
    outputs, inputs = shape[0], shape[1]
    if layer.groups > 1:
        layer.groups = outputs // (layer.out_channels // layer.groups)
    layer.out_channels, layer.in_channels = outputs, inputs * layer.groups


def _keep_outputs(layer: nn.Module, kept: torch.Tensor, units: int) -> None:
    for key, tensor in list(layer.state_dict(keep_vars=True).items()):
        if tensor.ndim > 0:
            _set(layer, key, tensor.detach().index_select(0, kept.to(tensor.device)))
    if isinstance(layer, nn.Conv2d):
        if layer.groups > 1:
            layer.in_channels = layer.in_channels // layer.groups * units
            layer.groups = units
        layer.out_channels = len(kept)
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
        layer.num_features = len(kept)


def _keep_inputs(layer: nn.Module, kept: torch.Tensor) -> None:
    _set(layer, "weight", layer.weight.detach().index_select(1, kept.to(layer.weight.device)))
    if isinstance(layer, nn.Linear):
        layer.in_features = len(kept)
    else:
        layer.in_channels = len(kept)


def _set(layer: nn.Module, key: str, tensor: torch.Tensor) -> None:
    old = getattr(layer, key)
    if isinstance(old, nn.Parameter):
        setattr(layer, key, nn.Parameter(tensor, requires_grad=old.requires_grad))
    else:
        setattr(layer, key, tensor)
