"""Importances of Torch-Pruning as scores of our channel groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch_pruning.pruner.importance import Importance

from pass_transfer.networks import ChannelGroup, ChannelGroups
from pass_transfer.networks.dependency_graph import dependency_groups, reads_channels

if TYPE_CHECKING:
    import torch_pruning


def by_importance(
    importance: Importance, backbone: nn.Module, groups: ChannelGroups, image_size: int
) -> dict[str, torch.Tensor]:
    """Scores (width,) of every group by an importance of Torch-Pruning: means over units.

    They are on that importance's own scale. With independent coupling a layer's scores are
    of the layers that its channels belong to alone.
    """
    names = {module: name for name, module in backbone.named_modules()}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in groups}
    for parts in dependency_groups(backbone, image_size):
        for group, own in _of_groups(parts, groups, names):
            values = importance(own)
            if values is not None:
                found[group.name].append(values.detach().cpu().view(group.width, -1).mean(1))
    return {name: torch.stack(values).mean(0) for name, values in found.items()}


def _of_groups(
    parts: torch_pruning.Group, groups: ChannelGroups, names: Mapping[nn.Module, str]
) -> Iterator[tuple[ChannelGroup, torch_pruning.Group]]:
    """What of Torch-Pruning's group is whose.

    All of it is one of our groups'; with independent coupling each has some layers.
    """
    if groups.coupling == "grouped":
        root = names[parts[0].dep.target.module]
        yield from ((group, parts) for group in groups.values() if root in group.writes)
        return
    for group in groups.values():
        own = type(parts)()
        written, read = [], []
        for item in parts:
            name = names.get(item.dep.target.module)
            if reads_channels(item) and name in group.reads:
                read.append(item)
            elif not reads_channels(item) and name in group.writes:
                written.append(item)
        own.items.extend(written + read)
        if written:
            yield group, own
