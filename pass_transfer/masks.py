"""Channel masks: an immutable value made from scores by a budget; saved, compared, summarised."""

from __future__ import annotations

import fnmatch
import math
import re
from pathlib import Path
from typing import Iterator, Mapping, Sequence

import torch
from torch import nn

from pass_transfer import ops
from pass_transfer.backbones import ChannelGroups, CostTable
from pass_transfer.errors import MaskError, UsageError
from pass_transfer.files import read_tensors, write_tensors

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}
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


def check_amount(name: str, value: float | str) -> float | int:
    """A budget as a share (float), or as an amount with a unit, "1.2G" or "5M" (int). Raises UsageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([KMG])\s*", value, re.IGNORECASE) if isinstance(value, str) else None
    if found:
        amount = round(float(found[1]) * UNITS[found[2].upper()])
        if amount > 0:
            return amount
    try:
        return check_share(name, float(value) if isinstance(value, str) else value)
    except (UsageError, ValueError) as error:
        raise UsageError(f"{name} is {value}; give a share of the dense network, above 0 and at most 1, such as 0.5, "
                         "or an amount with K, M or G, such as 1.2G") from error


def select(scores: Mapping[str, torch.Tensor], groups: ChannelGroups, *, density: float | None = None, macs: float | str | None = None,
           params: float | str | None = None, table: CostTable | None = None, uniform: bool = False, round_to: int = 1,
           keep_layers: Sequence[str] = ()) -> ChannelMasks:
    """Masks that keep the highest scores within a budget.

    Args:
        scores: (width,) for each group.
        density: share of all units to keep, or
        macs: what to stay within, as a share of the dense network's MACs or an amount ("1.2G"), or
        params: the same of its parameters (both need `table`).
        uniform: the same share of every group, instead of one ranking over all of them
            (the ablation of arXiv 2407.17412, which calls the other one global).
        round_to: groups keep a multiple of this many units, or all of them.
        keep_layers: layers to leave alone, by name or pattern ("layer1.*"): the groups they write and read stay whole.

    Raises:
        UsageError: not exactly one budget, one out of range, or a pattern that no layer has.
        MaskError: a budget that the floors (a tenth of every group) exceed, or scores of
            another network or that are not finite.
    """
    given = {"density": density, "macs": macs, "params": params}
    if sum(value is not None for value in given.values()) != 1:
        raise UsageError("give exactly one budget: density=, macs= or params=")
    if density is None and table is None:
        raise UsageError("a macs= or params= budget needs the network's CostTable")
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise UsageError(f"round_to is {round_to}; it is a whole number of at least 1, such as 8")
    if any(name not in scores or scores[name].shape != (group.width,) for name, group in groups.items()):
        raise MaskError("these scores belong to another network")
    flat = groups.join(scores).double()
    if not bool(torch.isfinite(flat).all()):
        raise MaskError("channel scores hold NaN or infinite values")
    if uniform:
        flat = groups.join({n: _ranks(s) for n, s in groups.split(flat).items()})
    cuts = _Cuts(ops.ranking(flat, groups.offsets, floors(groups)), groups, round_to, whole_groups(groups, keep_layers))
    kind = next(name for name, value in given.items() if value is not None)
    return cuts.masks(_largest_within(cuts, kind, given[kind], table))


def whole_groups(groups: ChannelGroups, keep_layers: Sequence[str]) -> set[str]:
    """Names of the groups that layers of these names or patterns write or read. Raises UsageError for a pattern that no layer has."""
    found = set()
    for pattern in keep_layers:
        touched = {group.name for group in groups.values() for layer in {**group.writes, **group.reads} if fnmatch.fnmatchcase(layer, pattern)}
        if not touched:
            raise UsageError(f"--keep-layers {pattern}: no layer whose channels could be cut has that name")
        found |= touched
    return found


def _ranks(scores: torch.Tensor) -> torch.Tensor:
    """Scores replaced by their rank in (0, 1], the best highest."""
    ranks = torch.empty(len(scores), dtype=torch.float64)
    ranks[torch.sort(scores, descending=True, stable=True).indices] = torch.arange(len(scores), 0, -1, dtype=torch.float64)
    return ranks / len(scores)


class _Cuts:
    """All cuts of one ranking, rounded: the longer the part of the ranking that is taken, the more every group keeps."""

    def __init__(self, order: torch.Tensor, groups: ChannelGroups, round_to: int, whole: set[str]):
        self.order, self.groups, self.round_to = order, groups, round_to
        self.group_of = torch.bucketize(order, groups.offsets[1:], right=True)
        self.least = int(floors(groups).sum())
        self.lowest = {}
        for (name, group), floor in zip(groups.items(), floors(groups).tolist()):
            self.lowest[name] = group.width if name in whole else min(group.width, -(-floor // round_to) * round_to)

    def kept(self, count: int) -> dict[str, int]:
        """Units of each group when the first `count` of the ranking are taken."""
        taken = torch.bincount(self.group_of[:count], minlength=len(self.groups)).tolist()
        return {name: group.width if n == group.width else max(self.lowest[name], n // self.round_to * self.round_to)
                for (name, group), n in zip(self.groups.items(), taken)}

    def masks(self, count: int) -> ChannelMasks:
        """The best units of each group, as many as it keeps."""
        flat = torch.zeros(self.groups.total, dtype=torch.bool)
        for number, kept in enumerate(self.kept(count).values()):
            flat[self.order[self.group_of == number][:kept]] = True
        return ChannelMasks(self.groups.split(flat))


def _largest_within(cuts: _Cuts, kind: str, value: float | str, table: CostTable | None) -> int:
    """The longest part of the ranking whose network stays within the budget; more units never cost less."""
    if kind == "density":
        limit, dense, cost = round(check_share("density", value) * cuts.groups.total), cuts.groups.total, lambda kept: sum(kept.values())
    else:
        cost, dense = (table.macs, table.dense) if kind == "macs" else (table.parameters, table.dense_parameters)
        amount = check_amount(kind, value)
        limit = amount if isinstance(amount, int) else amount * dense
    lowest = cost(cuts.kept(cuts.least))
    if lowest > limit:
        named = f"{lowest} of {dense}" if isinstance(value, str) else f"{math.ceil(1000 * lowest / dense) / 1000:.3f} of the dense network's"
        raise MaskError(f"{kind} {value} cannot be met: with a tenth of every group kept (a whole multiple of {cuts.round_to}, and all of the layers to be kept) "
                        f"the network still has {named}, which is the lowest budget")
    low, high = cuts.least, cuts.groups.total
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(cuts.kept(middle)) <= limit else (low, middle - 1)
    return low
