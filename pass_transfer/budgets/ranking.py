"""One ranking of all channels, and the masks that its parts give."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from pass_transfer import ops
from pass_transfer.errors import MaskError, UsageError
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import ChannelGroup, ChannelGroups
from pass_transfer.settings import is_whole


def top_share(scores: torch.Tensor, groups: ChannelGroups, density: float) -> ops.TopK:
    """A share of all units, those with the highest scores, with the straight-through gradient.

    Every group keeps its floor, also where the density is too low for that.

    Args:
        scores: (total,) over all groups, on the device that the masks are wanted on.
        density: share of all units that is kept.
    """
    count = max(int(groups.floors.sum()), round(density * groups.total))
    offsets, floors = groups.bounds_on(scores.device)
    return ops.global_topk_mask(scores, offsets, count, floors)


class RankedCuts:
    """All cuts of one ranking, by how many units are taken from its top.

    A longer part of the ranking never keeps less of any group.

    Args:
        scores: (width,) for each group.
        groups: of the network they belong to.
        uniform: the same share of every group, instead of one ranking over all of them
            (the ablation of arXiv 2407.17412, which calls the other one global).
        round_to: groups keep a multiple of this many units, or all of them; attention any number
            of heads.
        keep_layers: layers to leave alone, by name or pattern ("layer1.*"): the groups they
            write and read stay whole.

    Raises:
        UsageError: a round_to that is no whole number of at least 1, or a pattern that no
            layer has.
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
        if not is_whole(round_to):
            message = f"round_to is {round_to}; it is a whole number of at least 1, such as 8"
            raise UsageError(message, "round_to")
        flat = _checked(scores, groups)
        if uniform:
            ranks = {name: _ranks(part) for name, part in groups.split(flat).items()}
            flat = groups.join(ranks)
        self.order = ops.ranking(flat, groups.offsets, groups.floors)
        self.groups, self.round_to = groups, round_to
        self.group_of = torch.bucketize(self.order, groups.offsets[1:], right=True)
        self.least, self.most = int(groups.floors.sum()), groups.total
        self.lowest = _lowest(groups, round_to, whole_groups(groups, keep_layers))

    def kept(self, count: int) -> dict[str, int]:
        """Units of each group when the first `count` of the ranking are taken."""
        taken = torch.bincount(self.group_of[:count], minlength=len(self.groups)).tolist()
        found = {}
        for (name, group), units in zip(self.groups.items(), taken):
            step = _step(group, self.round_to)
            rounded = units // step * step
            found[name] = group.width if units == group.width else max(self.lowest[name], rounded)
        return found

    def masks(self, count: int) -> ChannelMasks:
        """The best units of each group, as many as it keeps."""
        flat = torch.zeros(self.groups.total, dtype=torch.bool)
        for number, kept in enumerate(self.kept(count).values()):
            flat[self.order[self.group_of == number][:kept]] = True
        return ChannelMasks(self.groups.split(flat))

    def filled(self, count: int, fits: Callable[[Mapping[str, int]], bool]) -> ChannelMasks:
        """The masks of the first `count`, and each later unit that still fits, best first.

        A budget is then met more closely, but a smaller budget's channels need not be a
        subset of a larger one's.

        Args:
            fits: whether the units kept of each group are within the budget.
        """
        names = list(self.groups)
        flat, kept = self.groups.join(self.masks(count)), self.kept(count)
        for unit in self.order[count:].tolist():
            name = names[int(torch.bucketize(unit, self.groups.offsets[1:], right=True))]
            more = kept | {name: kept[name] + 1}
            if not flat[unit] and fits(more):
                flat[unit], kept = True, more
        return ChannelMasks(self.groups.split(flat))

    def largest(
        self, fits: Callable[[int], bool], low: int | None = None, high: int | None = None
    ) -> int:
        """The largest count from low to high (of all) that fits, by bisection.

        `low` itself is taken to fit.
        """
        low = self.least if low is None else low
        high = self.most if high is None else high
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low

    def next_larger(self, count: int) -> int | None:
        """The least count whose masks keep more than those of `count`.

        None where that is everything.
        """
        kept = self.kept(count)
        same = self.largest(lambda more: self.kept(more) == kept, low=count)
        return same + 1 if same < self.most else None


def layer_names(keep_layers: object) -> tuple[str, ...]:
    """Names or patterns of layers, as a tuple. Raises UsageError for what is no list of them."""
    listed = isinstance(keep_layers, Iterable) and not isinstance(keep_layers, str)
    names = tuple(keep_layers) if isinstance(keep_layers, Iterable) else ()
    if not listed or not all(isinstance(name, str) for name in names):
        message = f"keep_layers is {keep_layers!r}; it is a list of names or patterns"
        raise UsageError(message, "keep_layers")
    return names


def whole_groups(groups: ChannelGroups, keep_layers: Sequence[str]) -> set[str]:
    """Names of the groups that layers of these names or patterns write or read.

    Raises UsageError for a pattern that no layer has.
    """
    found: set[str] = set()
    for pattern in keep_layers:
        touched = set()
        for group in groups.values():
            if fnmatch.filter([*group.writes, *group.reads], pattern):
                touched.add(group.name)
        if not touched:
            message = f"keep_layers: no layer whose channels could be cut is called {pattern}"
            raise UsageError(message, "keep_layers")
        found |= touched
    return found


def _checked(scores: Mapping[str, torch.Tensor], groups: ChannelGroups) -> torch.Tensor:
    """Scores over all groups, (total,) float64. Raises MaskError where they do not fit."""
    for name, group in groups.items():
        if name not in scores or scores[name].shape != (group.width,):
            raise MaskError("these scores belong to another network")
    flat = groups.join(scores).double()
    if not bool(torch.isfinite(flat).all()):
        raise MaskError("channel scores hold NaN or infinite values")
    return flat


def _step(group: ChannelGroup, round_to: int) -> int:
    """Of how many units a group keeps a multiple: heads are wide, and are not rounded."""
    return 1 if group.products else round_to


def _lowest(groups: ChannelGroups, round_to: int, whole: set[str]) -> dict[str, int]:
    """The fewest units that each group may keep."""
    found = {}
    for (name, group), floor in zip(groups.items(), groups.floors.tolist()):
        step = _step(group, round_to)
        rounded = -(-floor // step) * step
        found[name] = group.width if name in whole else min(group.width, rounded)
    return found


def _ranks(scores: torch.Tensor) -> torch.Tensor:
    """Scores replaced by their rank in (0, 1], the best highest."""
    ranks = torch.empty(len(scores), dtype=torch.float64)
    best_first = torch.sort(scores, descending=True, stable=True).indices
    ranks[best_first] = torch.arange(len(scores), 0, -1, dtype=torch.float64)
    return ranks / len(scores)
