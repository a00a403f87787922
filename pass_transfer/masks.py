"""Channel masks: an immutable value made from scores by a budget; saved, compared, summarised."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Iterator, Mapping

import torch
from torch import nn

from pass_transfer import ops
from pass_transfer.backbones import ChannelGroups, MacsTable
from pass_transfer.errors import MaskError, UsageError
from pass_transfer.files import read_tensors, write_tensors

FLOOR = 0.1  # of each group is always kept, so that no layer collapses


class ChannelMasks(Mapping[str, torch.Tensor]):
    """Which units of each channel group are kept: group name to a bool tensor (width,).

    The tensors are copies; changing one changes no mask. Masks are equal when they keep
    the same units, in whatever order their groups are.
    """

    def __init__(self, masks: Mapping[str, torch.Tensor]):
        for name, mask in masks.items():
            if mask.dtype != torch.bool or mask.ndim != 1:
                raise MaskError(f"the mask of {name} is {mask.dtype} with shape {tuple(mask.shape)}; it must be bool (width,)")
            if not mask.any():
                raise MaskError(f"the mask of {name} keeps no channel; at least one must stay")
        self._masks = {name: mask.detach().cpu().clone() for name, mask in masks.items()}

    def __getitem__(self, group: str) -> torch.Tensor:
        return self._masks[group].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChannelMasks) and self.issubset(other) and other.issubset(self)

    def __hash__(self) -> int:
        return hash(frozenset((name, tuple(mask.tolist())) for name, mask in self._masks.items()))

    def __repr__(self) -> str:
        return f"ChannelMasks(density={self.density:.3f}, groups={len(self)})"

    @property
    def kept(self) -> dict[str, int]:
        """Units kept in each group."""
        return {name: int(mask.sum()) for name, mask in self._masks.items()}

    @property
    def widths(self) -> dict[str, int]:
        """Units of each group, kept or not."""
        return {name: len(mask) for name, mask in self._masks.items()}

    @property
    def density(self) -> float:
        """Share of all units that is kept."""
        return sum(self.kept.values()) / sum(self.widths.values())

    def difference(self, other: ChannelMasks) -> float:
        """Share of units that one keeps and the other does not. Raises MaskError for masks of another network."""
        if self.widths != other.widths:
            raise MaskError("these masks belong to different networks and cannot be compared")
        return sum(int((self._masks[n] ^ other._masks[n]).sum()) for n in self) / sum(self.widths.values())

    def issubset(self, other: ChannelMasks) -> bool:
        """Whether every unit kept here is kept there too."""
        return self.widths == other.widths and all(not (self._masks[n] & ~other._masks[n]).any() for n in self)

    def apply(self, backbone: nn.Module) -> nn.Module:
        """A copy of a backbone with the dropped channels physically removed."""
        from pass_transfer.surgery import remove_channels

        return remove_channels(backbone, self)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with one uint8 tensor a group."""
        write_tensors(path, {name: mask.to(torch.uint8) for name, mask in self._masks.items()})

    @classmethod
    def load(cls, path: str | Path, groups: ChannelGroups | None = None) -> ChannelMasks:
        """Read what save wrote, in the groups' order. Raises MaskError where it does not fit them."""
        tensors = read_tensors(path)
        if groups is not None:
            if set(tensors) != set(groups) or any(tensors[n].shape != (g.width,) for n, g in groups.items()):
                raise MaskError(f"{path} holds masks of another network")
            tensors = {name: tensors[name] for name in groups}
        if any(t.dtype != torch.uint8 or bool((t > 1).any()) for t in tensors.values()):
            raise MaskError(f"{path} does not hold channel masks (uint8, zeros and ones)")
        return cls({name: t.bool() for name, t in tensors.items()})


def floors(groups: ChannelGroups, share: float = FLOOR) -> torch.Tensor:
    """At least this many units of each group stay, (len(groups),) int64."""
    return torch.tensor([max(1, math.ceil(share * group.width)) for group in groups.values()])


def check_share(name: str, value: float) -> float:
    """A budget as a share of the dense network. Raises UsageError unless 0 < value <= 1."""
    if not (isinstance(value, (int, float)) and math.isfinite(value) and 0 < value <= 1):
        raise UsageError(f"{name} is {value}; it is a share of the dense network, above 0 and at most 1, such as 0.5")
    return float(value)


def select(scores: Mapping[str, torch.Tensor], groups: ChannelGroups, *, density: float | None = None,
           macs: float | None = None, table: MacsTable | None = None, uniform: bool = False) -> ChannelMasks:
    """Masks that keep the highest scores within a budget.

    Args:
        scores: (width,) for each group.
        density: share of all units to keep, or
        macs: share of the dense network's MACs to stay within (needs `table`).
        uniform: the same share of every group, instead of one ranking over all of them
            (the ablation of arXiv 2407.17412, which calls the other one global).

    Raises:
        UsageError: not exactly one budget, or one out of range.
        MaskError: a budget that the floors (a tenth of every group) exceed, or scores of
            another network or that are not finite.
    """
    if (density is None) == (macs is None):
        raise UsageError("give exactly one budget: density= or macs=")
    if macs is not None and table is None:
        raise UsageError("a macs= budget needs the network's MacsTable")
    if any(name not in scores or scores[name].shape != (group.width,) for name, group in groups.items()):
        raise MaskError("these scores belong to another network")
    flat = groups.join(scores).double()
    if not bool(torch.isfinite(flat).all()):
        raise MaskError("channel scores hold NaN or infinite values")
    if uniform:
        flat = groups.join({n: _ranks(s) for n, s in groups.split(flat).items()})
    order = ops.ranking(flat, groups.offsets, floors(groups))
    least = int(floors(groups).sum())
    if density is not None:
        count = round(check_share("density", density) * groups.total)
        if count < least:
            raise MaskError(f"density {density} keeps {count} of {groups.total} channels; the floor of {FLOOR:.0%} in every group "
                            f"needs {least}, so the lowest density is {least / groups.total:.3f}")
    else:
        count = _largest_within(order, least, groups, table, check_share("macs", macs))
    return _from_order(order, count, groups)


def _ranks(scores: torch.Tensor) -> torch.Tensor:
    """Scores replaced by their rank in (0, 1], the best highest."""
    ranks = torch.empty(len(scores), dtype=torch.float64)
    ranks[torch.sort(scores, descending=True, stable=True).indices] = torch.arange(len(scores), 0, -1, dtype=torch.float64)
    return ranks / len(scores)


def _from_order(order: torch.Tensor, count: int, groups: ChannelGroups) -> ChannelMasks:
    flat = torch.zeros(groups.total, dtype=torch.bool)
    flat[order[:count]] = True
    return ChannelMasks(groups.split(flat))


def _largest_within(order: torch.Tensor, least: int, groups: ChannelGroups, table: MacsTable, share: float) -> int:
    """The largest count whose network stays within a share of the dense MACs; more units never cost less."""
    def cost(count: int) -> float:
        return table.macs(_from_order(order, count, groups).kept) / table.dense

    if cost(least) > share:
        raise MaskError(f"macs {share} cannot be met: with a tenth of every group kept the network still has "
                        f"{cost(least):.3f} of the dense MACs, which is the lowest budget")
    low, high = least, groups.total
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle) <= share else (low, middle - 1)
    return low
