"""Scores to masks: one ranking of all channels, cut where a budget ends."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Mapping, Sequence

import torch

from pass_transfer import ops
from pass_transfer.errors import MaskError, UsageError
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import ChannelGroups, CostTable

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}
WORDS = {"density": "channels", "macs": "MACs", "params": "parameters"}


def top_share(scores: torch.Tensor, groups: ChannelGroups, density: float) -> ops.TopK:
    """A share of all units, those with the highest scores (total,), on the scores' device; with the straight-through gradient.

    Every group keeps its floor, also where the density is too low for that.
    """
    count = max(int(groups.floors.sum()), round(density * groups.total))
    offsets, floors = groups.bounds_on(scores.device)
    return ops.global_topk_mask(scores, offsets, count, floors)


def check_share(name: str, value: float) -> float:
    """A budget as a share of the dense network. Raises UsageError unless 0 < value <= 1."""
    if not (isinstance(value, (int, float)) and math.isfinite(value) and 0 < value <= 1):
        raise UsageError(
            f"{name} is {value}; it is a share of the dense network, above 0 and at most 1, such as 0.5"
        )
    return float(value)


def check_amount(name: str, value: float | str) -> float | int:
    """A budget as a share (float), or as an amount with a unit, "1.2G" or "5M" (int). Raises UsageError."""
    found = (
        re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([KMG])\s*", value, re.IGNORECASE)
        if isinstance(value, str)
        else None
    )
    if found:
        amount = round(float(found[1]) * UNITS[found[2].upper()])
        if amount > 0:
            return amount
    try:
        return check_share(name, float(value) if isinstance(value, str) else value)
    except (UsageError, ValueError) as error:
        raise UsageError(
            f"{name} is {value}; give a share of the dense network, above 0 and at most 1, such as 0.5, "
            "or an amount with K, M or G, such as 1.2G"
        ) from error


def select(
    scores: Mapping[str, torch.Tensor],
    groups: ChannelGroups,
    *,
    density: float | None = None,
    macs: float | str | None = None,
    params: float | str | None = None,
    table: CostTable | None = None,
    uniform: bool = False,
    round_to: int = 1,
    keep_layers: Sequence[str] = (),
    fill: bool = False,
) -> ChannelMasks:
    """Masks that keep the highest scores within a budget.

    Args:
        scores: (width,) for each group.
        density: share of all units to keep, or
        macs: what to stay within, as a share of the dense network's MACs or an amount ("1.2G"), or
        params: the same of its parameters (both need `table`).
        uniform, round_to, keep_layers: see RankedCuts.
        fill: whether single units further down the ranking are kept too, best first, where
            they still fit. Budgets are then met more closely, but a smaller budget's
            channels need not be a subset of a larger one's.

    Raises:
        UsageError: not exactly one budget, one out of range, what RankedCuts refuses, or fill with a round_to.
        MaskError: a budget that the floors (a tenth of every group) exceed, or what RankedCuts refuses.
    """
    given = {"density": density, "macs": macs, "params": params}
    if sum(value is not None for value in given.values()) != 1:
        raise UsageError("give exactly one budget: density=, macs= or params=")
    if density is None and table is None:
        raise UsageError("a macs= or params= budget needs the network's CostTable")
    cuts = RankedCuts(scores, groups, uniform=uniform, round_to=round_to, keep_layers=keep_layers)
    if fill and round_to > 1:
        raise UsageError(f"fill keeps single units; it cannot go with round_to {round_to}")
    kind = next(name for name, value in given.items() if value is not None)
    fits = _budget(cuts, kind, given[kind], table)
    count = cuts.largest(lambda count: fits(cuts.kept(count)))
    return cuts.filled(count, fits) if fill else cuts.masks(count)


class RankedCuts:
    """All cuts of one ranking, by how many units are taken from its top; a longer part never keeps less of any group.

    Args:
        scores: (width,) for each group.
        groups: of the network they belong to.
        uniform: the same share of every group, instead of one ranking over all of them
            (the ablation of arXiv 2407.17412, which calls the other one global).
        round_to: groups keep a multiple of this many units, or all of them.
        keep_layers: layers to leave alone, by name or pattern ("layer1.*"): the groups they write and read stay whole.

    Raises:
        UsageError: a round_to that is no whole number of at least 1, or a pattern that no layer has.
        MaskError: scores of another network, or that are not finite.
    """

    def __init__(
        self,
        scores: Mapping[str, torch.Tensor],
        groups: ChannelGroups,
        *,
        uniform: bool = False,
        round_to: int = 1,
        keep_layers: Sequence[str] = (),
    ):
        if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
            raise UsageError(
                f"round_to is {round_to}; it is a whole number of at least 1, such as 8"
            )
        if any(
            name not in scores or scores[name].shape != (group.width,)
            for name, group in groups.items()
        ):
            raise MaskError("these scores belong to another network")
        flat = groups.join(scores).double()
        if not bool(torch.isfinite(flat).all()):
            raise MaskError("channel scores hold NaN or infinite values")
        if uniform:
            flat = groups.join({n: _ranks(s) for n, s in groups.split(flat).items()})
        self.order = ops.ranking(flat, groups.offsets, groups.floors)
        self.groups, self.round_to = groups, round_to
        self.group_of = torch.bucketize(self.order, groups.offsets[1:], right=True)
        self.least, self.most = int(groups.floors.sum()), groups.total
        whole, self.lowest = whole_groups(groups, keep_layers), {}
        for (name, group), floor in zip(groups.items(), groups.floors.tolist()):
            self.lowest[name] = (
                group.width if name in whole else min(group.width, -(-floor // round_to) * round_to)
            )

    def kept(self, count: int) -> dict[str, int]:
        """Units of each group when the first `count` of the ranking are taken."""
        taken = torch.bincount(self.group_of[:count], minlength=len(self.groups)).tolist()
        return {
            name: group.width
            if n == group.width
            else max(self.lowest[name], n // self.round_to * self.round_to)
            for (name, group), n in zip(self.groups.items(), taken)
        }

    def masks(self, count: int) -> ChannelMasks:
        """The best units of each group, as many as it keeps."""
        flat = torch.zeros(self.groups.total, dtype=torch.bool)
        for number, kept in enumerate(self.kept(count).values()):
            flat[self.order[self.group_of == number][:kept]] = True
        return ChannelMasks(self.groups.split(flat))

    def filled(self, count: int, fits: Callable[[Mapping[str, int]], bool]) -> ChannelMasks:
        """The masks of the first `count`, and of what comes after in the ranking each unit with which the units kept of each group still fit."""
        names, flat, kept = list(self.groups), self.groups.join(self.masks(count)), self.kept(count)
        for unit in self.order[count:].tolist():
            name = names[int(torch.bucketize(unit, self.groups.offsets[1:], right=True))]
            if not flat[unit] and fits(kept | {name: kept[name] + 1}):
                flat[unit], kept = True, kept | {name: kept[name] + 1}
        return ChannelMasks(self.groups.split(flat))

    def largest(
        self, fits: Callable[[int], bool], low: int | None = None, high: int | None = None
    ) -> int:
        """The largest count from low to high (of all) that fits, by bisection; low itself is taken to fit."""
        low, high = self.least if low is None else low, self.most if high is None else high
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low

    def next_larger(self, count: int) -> int | None:
        """The least count whose masks keep more than those of `count`; None where that is everything."""
        kept = self.kept(count)
        same = self.largest(lambda more: self.kept(more) == kept, low=count)
        return same + 1 if same < self.most else None


def whole_groups(groups: ChannelGroups, keep_layers: Sequence[str]) -> set[str]:
    """Names of the groups that layers of these names or patterns write or read. Raises UsageError for a pattern that no layer has."""
    found = set()
    for pattern in keep_layers:
        touched = {
            group.name
            for group in groups.values()
            for layer in {**group.writes, **group.reads}
            if fnmatch.fnmatchcase(layer, pattern)
        }
        if not touched:
            raise UsageError(
                f"--keep-layers {pattern}: no layer whose channels could be cut has that name"
            )
        found |= touched
    return found


def _ranks(scores: torch.Tensor) -> torch.Tensor:
    """Scores replaced by their rank in (0, 1], the best highest."""
    ranks = torch.empty(len(scores), dtype=torch.float64)
    ranks[torch.sort(scores, descending=True, stable=True).indices] = torch.arange(
        len(scores), 0, -1, dtype=torch.float64
    )
    return ranks / len(scores)


def _budget(
    cuts: RankedCuts, kind: str, value: float | str, table: CostTable | None
) -> Callable[[Mapping[str, int]], bool]:
    """Whether the units kept of each group stay within a budget; more units never cost less. Raises MaskError where not even the fewest do."""
    if kind == "density":
        limit, dense, cost, counted = (
            round(check_share("density", value) * cuts.most),
            cuts.most,
            lambda kept: sum(kept.values()),
            False,
        )
    else:
        cost, dense = (
            (table.macs, table.dense)
            if kind == "macs"
            else (table.parameters, table.dense_parameters)
        )
        amount = check_amount(kind, value)
        counted = isinstance(amount, int)
        limit = amount if counted else amount * dense
    lowest = cost(cuts.kept(cuts.least))
    if lowest > limit:
        named = (
            f"{lowest} of {dense}"
            if counted
            else f"{math.ceil(1000 * lowest / dense) / 1000:.3f} of the dense network's {WORDS[kind]}"
        )
        raise MaskError(
            f"{kind} {value} cannot be met: with a tenth of every group kept (a whole multiple of {cuts.round_to}, and all of the layers to be kept) "
            f"the network still has {named}, which is the lowest budget"
        )
    return lambda kept: cost(kept) <= limit
