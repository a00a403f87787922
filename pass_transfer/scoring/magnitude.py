"""Group magnitude: how large the weights of a unit are, over all layers of its group.

The mean norm over the layers that make, hold or read its channels, divided by the group's mean
so that groups can be ranked together (arXiv 2301.12900, section 3.3).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from pass_transfer.networks import ChannelGroup, ChannelGroups, kind_of
from pass_transfer.networks.labels import NONE


def group_l1(backbone: nn.Module, groups: ChannelGroups) -> dict[str, torch.Tensor]:
    """L1 scores (width,) of every group, each with mean 1."""
    return {name: _magnitude(backbone, group, 1) for name, group in groups.items()}


def group_l2(backbone: nn.Module, groups: ChannelGroups) -> dict[str, torch.Tensor]:
    """Squared L2 scores (width,) of every group, each with mean 1."""
    return {name: _magnitude(backbone, group, 2) for name, group in groups.items()}


@torch.no_grad()
def _magnitude(backbone: nn.Module, group: ChannelGroup, power: int) -> torch.Tensor:
    """The mean over a group's layers of the p-norms of its units' weights, to the power p."""
    parts = list(_norms(backbone, group, power))
    total = torch.zeros_like(parts[0])
    for part in parts:
        total += part
    mean = total / len(parts)
    return (mean / mean.mean()).cpu()


def _norms(backbone: nn.Module, group: ChannelGroup, power: int) -> Iterator[torch.Tensor]:
    """Of each layer with weights, what each unit's channels have on average: (width,)."""
    for side, norms_of in ((group.writes, _of_outputs), (group.reads, _of_inputs)):
        for name, units in side.items():
            norms = norms_of(backbone.get_submodule(name), power)
            if norms is not None:
                yield _by_unit(norms, units, group.width, group.places.get(name, 1))


def _of_outputs(layer: nn.Module, power: int) -> torch.Tensor | None:
    """The norm of the weights of each output; None for a layer without weights."""
    weight = getattr(layer, "weight", None)
    if weight is None:
        return None
    return weight.detach().float().reshape(len(weight), -1).abs().pow(power).sum(1)


def _of_inputs(layer: nn.Module, power: int) -> torch.Tensor:
    """The norm of the weights of each input."""
    weight = layer.get_parameter("weight").detach().float()
    blocks = max(1, kind_of(layer).block_count(layer))
    by_block = weight.view(blocks, len(weight) // blocks, weight.shape[1], -1)
    return by_block.abs().pow(power).sum((1, 3)).flatten()


def _by_unit(norms: torch.Tensor, units: torch.Tensor, width: int, places: int) -> torch.Tensor:
    """Channels' norms as units': the mean over a unit's channels, each summed over its places."""
    own, units = norms[(units != NONE).to(norms.device)], units[units != NONE].to(norms.device)
    total = torch.zeros(width, device=norms.device).index_add(0, units, own)
    return total * width * places / len(units)
