"""Group magnitude: the mean L1 norm of a channel's weights over all layers of its group.

Torch-Pruning's GroupMagnitudeImportance, with its scores divided by the group's mean so
that groups can be ranked together.
"""

from __future__ import annotations

import torch
from torch import nn
from torch_pruning.pruner.importance import GroupMagnitudeImportance

from pass_transfer.backbones import ChannelGroups
from pass_transfer.backbones.groups import dependency_groups


def group_l1(backbone: nn.Module, groups: ChannelGroups, image_size: int) -> dict[str, torch.Tensor]:
    """L1 scores (width,) of every group, each with mean 1."""
    importance = GroupMagnitudeImportance(p=1, group_reduction="mean", normalizer="mean")
    names = {module: name for name, module in backbone.named_modules()}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in groups}
    for parts in dependency_groups(backbone, image_size):
        values = importance(parts)
        root = names[parts[0].dep.target.module]
        group = next((g for g in groups.values() if root in g.writes), None)
        if group is not None and values is not None:
            found[group.name].append(values.detach().cpu().view(group.width, -1).mean(1))
    return {name: torch.stack(values).mean(0) for name, values in found.items()}
