"""The prior a hypernetwork corrects: scores of one spread in every group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from pass_transfer.networks import ChannelGroups
from pass_transfer.scoring.magnitude import group_l1


def standardise(scores: Mapping[str, torch.Tensor], limit: float = 2.5) -> dict[str, torch.Tensor]:
    """Scores (width,) of each group as normal quantiles of their ranks, cut at +-limit.

    The order inside a group is kept; every group gets the same distribution, so that one
    ranking over all groups gives all of them the same width. Ties go to the lower index.
    """
    out = {}
    for name, values in scores.items():
        ranks = torch.empty(len(values), dtype=torch.float64)
        best_first = torch.sort(values, descending=True, stable=True).indices
        ranks[best_first] = torch.arange(len(values), 0, -1, dtype=torch.float64)
        out[name] = torch.special.ndtri((ranks - 0.5) / len(values)).clamp(-limit, limit).float()
    return out


def blend(*parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Several scorings (width,) of each group in equal shares, standardised alone and together."""
    return mix([(1.0, part) for part in parts])


def mix(
    parts: Sequence[tuple[float, Mapping[str, torch.Tensor]]],
) -> dict[str, torch.Tensor]:
    """Several scorings (width,) of each group by weights, standardised alone and together."""
    total: dict[str, torch.Tensor] = {}
    for weight, part in parts:
        for name, values in standardise(part).items():
            total[name] = total.get(name, torch.zeros_like(values)) + weight * values
    return standardise(total)


def make_prior(
    kind: str,
    backbone: nn.Module,
    groups: ChannelGroups,
    importance: Callable[[], Mapping[str, torch.Tensor]] | None = None,
) -> dict[str, torch.Tensor] | None:
    """The prior (width,) of every group for a backbone's weights; None where the kind is "none".

    Args:
        kind: of HypernetConfig.prior.
        importance: measures Taylor importance (width,) of every group, where the kind asks
            for it; without it magnitude stands alone.
    """
    if kind == "none":
        return None
    magnitude = group_l1(backbone, groups)
    if kind == "l1" or importance is None:
        return standardise(magnitude)
    return blend(magnitude, importance())
