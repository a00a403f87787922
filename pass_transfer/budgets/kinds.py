"""Kinds of budget: a bound on one quantity of the small network.

A kind says how its value is read, and how a ranking is cut within it. Those here count what
is kept; budgets/latency.py has the one that measures. Each registers itself by name.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pass_transfer.budgets.ranking import RankedCuts
from pass_transfer.errors import MaskError, UsageError
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import ChannelGroups, CostTable

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9}
AMOUNT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([KMG])\s*", re.IGNORECASE)
SHARE = "a share of the dense network, above 0 and at most 1, such as 0.5"

Fits = Callable[[Mapping[str, int]], bool]


@dataclass(frozen=True)
class CutNetwork:
    """The network that a budget is for.

    Fields:
        groups: its channel groups.
        table: its MACs and parameters at any widths, with the task's classifier.
        build: masks to the small network in eval mode, on the device whose time counts.
        image_size: side of its images in pixels.
    """

    groups: ChannelGroups
    table: CostTable
    build: Callable[[ChannelMasks], nn.Module]
    image_size: int


class BudgetKind(ABC):
    """One quantity that can be bounded. `name` is the keyword that it is given by."""

    name: str

    @abstractmethod
    def parse(self, value: Any) -> Any:
        """The value as it is kept. Raises UsageError for one that is not allowed."""

    @abstractmethod
    def check(self, value: Any, batch: int, cuts: RankedCuts, network: CutNetwork) -> None:
        """Raise MaskError for a budget that not even the smallest cut meets."""

    @abstractmethod
    def masks(self, value: Any, batch: int, cuts: RankedCuts, network: CutNetwork) -> ChannelMasks:
        """The masks of the largest cut within the budget. Raises MaskError where there is none.

        Args:
            value: as parse gave it.
            batch: images at once, for a kind that measures.
        """

    def filled(self, value: Any, batch: int, cuts: RankedCuts, network: CutNetwork) -> ChannelMasks:
        """The same, filled up with single units that still fit, where a kind can tell."""
        return self.masks(value, batch, cuts, network)


BUDGET_KINDS: dict[str, BudgetKind] = {}


def register_budget_kind(kind: BudgetKind) -> None:
    """Make a kind of budget known by its name."""
    BUDGET_KINDS[kind.name] = kind


class CountedKind(BudgetKind):
    """A budget on what can be counted without building the network."""

    words: str  # what is counted
    amounts = True  # whether an amount may be given in place of a share

    @abstractmethod
    def cost(self, network: CutNetwork) -> tuple[Callable[[Mapping[str, int]], int], int]:
        """What the units kept of each group cost, and what the dense network costs."""

    def parse(self, value: Any) -> float | str:
        """A share as a float; an amount ("70M") as it was written."""
        if self.amounts:
            return value if isinstance(check_amount(self.name, value), int) else float(value)
        return check_share(self.name, value)

    def check(self, value: Any, batch: int, cuts: RankedCuts, network: CutNetwork) -> None:
        """Raise MaskError for a budget that not even the smallest cut meets."""
        self._fits(value, cuts, network)

    def masks(self, value: Any, batch: int, cuts: RankedCuts, network: CutNetwork) -> ChannelMasks:
        """The masks of the largest part of the ranking within the budget."""
        fits = self._fits(value, cuts, network)
        return cuts.masks(cuts.largest(lambda count: fits(cuts.kept(count))))

    def filled(self, value: Any, batch: int, cuts: RankedCuts, network: CutNetwork) -> ChannelMasks:
        """The same, and each later unit of the ranking that still fits, best first."""
        fits = self._fits(value, cuts, network)
        return cuts.filled(cuts.largest(lambda count: fits(cuts.kept(count))), fits)

    def _fits(self, value: float | str, cuts: RankedCuts, network: CutNetwork) -> Fits:
        """Whether the units kept of each group stay within the budget.

        More units never cost less. Raises MaskError where not even the fewest fit.
        """
        cost, dense = self.cost(network)
        limit = self._limit(value, dense)
        lowest = cost(cuts.kept(cuts.least))
        if lowest > limit:
            raise MaskError(
                f"{self.name} {value} cannot be met: with a tenth of every group kept (a whole "
                f"multiple of {cuts.round_to}, and all of the layers to be kept) the network "
                f"still has {self._named(value, lowest, dense)}, which is the lowest budget",
                self.name,
            )
        return lambda kept: cost(kept) <= limit

    def _limit(self, value: float | str, dense: int) -> float:
        amount = check_amount(self.name, value)
        if not isinstance(amount, int):
            return amount * dense
        if amount > dense:
            raise UsageError(
                f"{self.name} is {value}, more than the whole network has: {dense} {self.words}; "
                "give less, or a share such as 0.5",
                self.name,
            )
        return amount

    def _named(self, value: float | str, lowest: int, dense: int) -> str:
        """The lowest budget, in the form in which the refused one was given."""
        if isinstance(check_amount(self.name, value), int):
            return f"{lowest} of {dense}"
        share = math.ceil(1000 * lowest / dense) / 1000
        return f"{share:.3f} of the dense network's {self.words}"


class MacsKind(CountedKind):
    """Multiply-accumulates for one image."""

    name, words = "macs", "MACs"

    def cost(self, network: CutNetwork) -> tuple[Callable[[Mapping[str, int]], int], int]:
        """MACs, counted by the cost table."""
        return network.table.macs, network.table.dense


class ParamsKind(CountedKind):
    """Parameters."""

    name, words = "params", "parameters"

    def cost(self, network: CutNetwork) -> tuple[Callable[[Mapping[str, int]], int], int]:
        """Parameters, counted by the cost table."""
        return network.table.parameters, network.table.dense_parameters


class DensityKind(CountedKind):
    """Share of all channels that is kept."""

    name, words, amounts = "density", "channels", False

    def cost(self, network: CutNetwork) -> tuple[Callable[[Mapping[str, int]], int], int]:
        """Units over all groups."""
        return lambda kept: sum(kept.values()), network.groups.total

    def _limit(self, value: float | str, dense: int) -> float:
        return round(float(value) * dense)


register_budget_kind(MacsKind())
register_budget_kind(ParamsKind())
register_budget_kind(DensityKind())


def check_share(name: str, value: Any) -> float:
    """A share of the dense network. Raises UsageError unless 0 < value <= 1."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 < value <= 1:
        raise UsageError(f"{name} is {value}; it is {SHARE}", name)
    return float(value)


def check_amount(name: str, value: Any) -> float | int:
    """A share (float), or an amount with a unit, "1.2G" or "5M" (int). Raises UsageError."""
    found = AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if found:
        amount = round(float(found[1]) * UNITS[found[2].upper()])
        if amount > 0:
            return amount
    try:
        return check_share(name, float(value) if isinstance(value, str) else value)
    except (UsageError, ValueError) as error:
        message = f"{name} is {value}; give {SHARE}, or an amount with K, M or G, such as 1.2G"
        raise UsageError(message, name) from error
