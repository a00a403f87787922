"""Random scores: what a criterion has to beat."""

from __future__ import annotations

import torch

from pass_transfer.networks import ChannelGroups
from pass_transfer.random_streams import stream


def random_scores(groups: ChannelGroups, seed: int) -> dict[str, torch.Tensor]:
    """Uniform scores in [0, 1) for every unit."""
    draw = stream(seed, "random scores")
    return {name: torch.rand(group.width, generator=draw) for name, group in groups.items()}
