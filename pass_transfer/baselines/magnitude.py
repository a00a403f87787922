"""Group magnitude and other importances of Torch-Pruning, as scores of our channel groups.

Magnitude is the mean norm of a channel's weights over all layers of its group
(GroupMagnitudeImportance), divided by the group's mean so that groups can be ranked
together.
"""

from __future__ import annotations

import torch
from torch import nn
from torch_pruning.pruner.importance import GroupMagnitudeImportance, Importance

from pass_transfer.backbones import ChannelGroups
from pass_transfer.backbones.groups import dependency_groups


def by_importance(importance: Importance, backbone: nn.Module, groups: ChannelGroups, image_size: int) -> dict[str, torch.Tensor]:
    """Scores (width,) of every group by an importance of Torch-Pruning, on that importance's own scale; the mean over a unit's channels."""
    names = {module: name for name, module in backbone.named_modules()}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in groups}
    for parts in dependency_groups(backbone, image_size):
        values = importance(parts)
        root = names[parts[0].dep.target.module]
        group = next((g for g in groups.values() if root in g.writes), None)
        if group is not None and values is not None:
            found[group.name].append(values.detach().cpu().view(group.width, -1).mean(1))
    return {name: torch.stack(values).mean(0) for name, values in found.items()}


def group_l1(backbone: nn.Module, groups: ChannelGroups, image_size: int) -> dict[str, torch.Tensor]:
    """L1 scores (width,) of every group, each with mean 1."""
    return by_importance(GroupMagnitudeImportance(p=1, group_reduction="mean", normalizer="mean"), backbone, groups, image_size)


def group_l2(backbone: nn.Module, groups: ChannelGroups, image_size: int) -> dict[str, torch.Tensor]:
    """Squared L2 scores (width,) of every group, each with mean 1."""
    return by_importance(GroupMagnitudeImportance(p=2, group_reduction="mean", normalizer="mean"), backbone, groups, image_size)
