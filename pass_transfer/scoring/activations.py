"""Two measures of a channel by its feature maps alone: without labels, without a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from pass_transfer.float64 import to_float64
from pass_transfer.networks import ChannelGroups
from pass_transfer.scoring.unit_inputs import observe_units

AT_ONCE = 2**22  # numbers of the matrices whose eigenvalues are found together

Samples = Iterable[tuple[torch.Tensor, torch.Tensor]]
Forward = Callable[[torch.Tensor], torch.Tensor]


def unit_variances(
    backbone: nn.Module, groups: ChannelGroups, samples: Samples, forward: Forward
) -> dict[str, torch.Tensor]:
    """Variance (width,) of what each unit's readers take in, over images and places.

    The mean over readers and over a unit's channels: what is lost where a unit is replaced by
    its mean (variance-based pruning, arXiv 2507.12988). Arguments as of observe_units.
    """
    sums: dict[tuple[str, str], list[torch.Tensor]] = {}
    counts: dict[tuple[str, str], int] = {}

    def look(group: str, reader: str, maps: torch.Tensor) -> None:
        exact, key = to_float64(maps).cpu(), (group, reader)
        parts = [exact.sum((0, 3)), exact.square().sum((0, 3))]
        sums[key] = [a + b for a, b in zip(sums[key], parts)] if key in sums else parts
        counts[key] = counts.get(key, 0) + len(maps) * maps.shape[3]

    observe_units(backbone, groups, samples, forward, look)
    found = {}
    for key, (total, squares) in sums.items():
        mean = total / counts[key]
        found[key] = (squares / counts[key] - mean.square()).mean(1)
    return _over_readers(found, groups)


def channel_independence(
    backbone: nn.Module, groups: ChannelGroups, samples: Samples, forward: Forward
) -> dict[str, torch.Tensor]:
    """How much of the nuclear norm of an image's feature maps is lost with each unit, (width,).

    Of the matrix of all units' maps, with a row for each channel, averaged over images (the
    channel independence of CHIP, arXiv 2110.13981). Where a group has several readers, each
    counts alike. Arguments as of observe_units.
    """
    sums: dict[tuple[str, str], torch.Tensor] = {}

    def look(group: str, reader: str, maps: torch.Tensor) -> None:
        lost = torch.stack([lost_norms(image) for image in to_float64(maps)]).sum(0).cpu()
        sums[group, reader] = sums.get((group, reader), torch.zeros_like(lost)) + lost

    observe_units(backbone, groups, samples, forward, look)
    equal = {key: lost / lost.mean().clamp(min=1e-30) for key, lost in sums.items()}
    return _over_readers(equal, groups)


def lost_norms(maps: torch.Tensor) -> torch.Tensor:
    """Of maps (units, channels of a unit, places), what the nuclear norm loses with each unit.

    Singular values are the roots of the eigenvalues of the smaller Gram matrix.
    """
    units, each, places = maps.shape
    rows = maps.flatten(0, 1)
    by_place = places <= len(rows)
    whole = rows.T @ rows if by_place else rows @ rows.T
    left = []
    for part in torch.arange(units, device=maps.device).split(max(1, AT_ONCE // whole.numel())):
        if by_place:
            own = maps[part]
            grams = whole - own.transpose(1, 2) @ own
        else:
            unit = torch.arange(len(rows), device=maps.device) // each
            stays = (unit != part[:, None]).to(whole)
            grams = whole * stays[:, :, None] * stays[:, None, :]
        left.append(_nuclear(grams))
    return _nuclear(whole) - torch.cat(left)


def _nuclear(grams: torch.Tensor) -> torch.Tensor:
    """Nuclear norms of matrices, from their Gram matrices (..., N, N)."""
    return torch.linalg.eigvalsh(grams).clamp(min=0).sqrt().sum(-1)


def _over_readers(
    found: Mapping[tuple[str, str], torch.Tensor], groups: ChannelGroups
) -> dict[str, torch.Tensor]:
    """The mean over each group's readers."""
    means = {}
    for name in groups:
        own = [values for (group, _), values in found.items() if group == name]
        means[name] = torch.stack(own).mean(0)
    return means
