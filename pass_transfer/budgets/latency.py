"""A budget in measured milliseconds: the largest cut that runs within it on this machine."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from pass_transfer.budgets.kinds import BudgetKind, CutNetwork, register_budget_kind
from pass_transfer.budgets.ranking import RankedCuts
from pass_transfer.errors import MaskError, UsageError
from pass_transfer.latency import ROUNDS, measure_latency
from pass_transfer.masks import ChannelMasks
from pass_transfer.progress import say

TRIES = 6  # searches, before the machine is called too restless
CAREFUL = 4 * ROUNDS  # rounds of the measurement that decides
REFERENCE = "reference"


@dataclass(frozen=True)
class LatencyBudget:
    """Milliseconds that a batch of images may take, as latency.measure_latency measures them."""

    milliseconds: float
    batch: int = 1


class LatencyKind(BudgetKind):
    """Milliseconds for a batch, measured on this machine."""

    name = "latency_ms"

    def parse(self, value: Any) -> float:
        """A positive number of milliseconds. Raises UsageError."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            wanted = "a positive number of milliseconds, such as 8"
            raise UsageError(f"{self.name} is {value}; it is {wanted}", self.name)
        return value

    def check(self, value: float, batch: int, cuts: RankedCuts, network: CutNetwork) -> None:
        """Measure the smallest cut alone. Raises MaskError where it takes longer."""
        check_reachable(cuts, network.build, LatencyBudget(value, batch), network.image_size)

    def masks(
        self, value: float, batch: int, cuts: RankedCuts, network: CutNetwork
    ) -> ChannelMasks:
        """The largest cut that was measured within the budget; it depends on the machine."""
        return fit_latency(cuts, network.build, LatencyBudget(value, batch), network.image_size)


register_budget_kind(LatencyKind())


def check_reachable(
    cuts: RankedCuts,
    network: Callable[[ChannelMasks], nn.Module],
    budget: LatencyBudget,
    image_size: int,
) -> None:
    """Measure the smallest cut alone; arguments as of fit_latency.

    Raises MaskError where it takes longer than the budget.
    """
    _Search(cuts, network, budget, image_size).check_least()


def fit_latency(
    cuts: RankedCuts,
    network: Callable[[ChannelMasks], nn.Module],
    budget: LatencyBudget,
    image_size: int,
) -> ChannelMasks:
    """The masks of the largest cut that was measured within a budget.

    The next larger cut was measured, too, and is not within it. The ranking is bisected first.
    Then the cut and the next larger one are measured together, longer. Where that contradicts
    the bisection, the search goes on above or below them, with all that has been measured.
    Where it comes to no end, the largest cut that was measured longer and is within the budget
    is taken. Where there is none, one more search takes the pace that the machine had so far.

    Args:
        cuts: of one ranking.
        network: masks to the network that is timed, on the device that is meant, in eval mode.
        budget: milliseconds a batch.
        image_size: side of an image in pixels.

    Raises:
        MaskError: even the smallest cut takes longer; or no cut was found within the budget
            twice.
    """
    allowed, batch = f"{budget.milliseconds:g} ms", f"batch {budget.batch}"
    say(f"looking for the largest cut that takes {allowed} at {batch}, by measuring")
    search = _Search(cuts, network, budget, image_size)
    search.check_least()
    low, high = cuts.least, cuts.most
    judged = set()
    for _ in range(TRIES):
        count = cuts.largest(search.fits, low, high)
        above = cuts.next_larger(count)
        search.measure(*([count] if above is None else [count, above]), rounds=CAREFUL)
        judged.add(count)
        if not search.fits(count):
            low, high = cuts.least, max(cuts.least, count - 1)
        elif above is None or not search.fits(above):
            larger = "it is the whole network"
            if above is not None:
                larger = f"the next larger cut takes {search.estimate(above):.2f} ms"
            say(f"{batch} takes {search.estimate(count):.2f} ms of {allowed[:-3]}; {larger}")
            return cuts.masks(count)
        else:
            low, high = above, cuts.most
    fitting = max((count for count in judged if search.fits(count)), default=None)
    if fitting is None:
        fitting = search.at_one_pace()
    if fitting is None:
        raise MaskError(
            f"measurements of {budget.milliseconds} ms contradict each other on this machine: let "
            f"nothing else run on it, or give another budget, such as macs"
        )
    say(
        f"{batch} takes {search.estimate(fitting):.2f} ms of {allowed[:-3]}; measurements "
        f"contradict each other here, so a larger cut may fit too: let nothing else run on this "
        f"machine to know"
    )
    return cuts.masks(fitting)


class _Search:
    """Measurements of cuts, each side by side with one cut that is always the same.

    A shared machine's pace changes from minute to minute. The median over all measurements of
    that one cut is taken for the usual pace.
    """

    def __init__(
        self,
        cuts: RankedCuts,
        network: Callable[[ChannelMasks], nn.Module],
        budget: LatencyBudget,
        image_size: int,
    ):
        self.cuts, self.network, self.budget, self.image_size = cuts, network, budget, image_size
        self.reference = network(cuts.masks((cuts.least + cuts.most) // 2))
        self.paces: list[float] = []  # milliseconds of the reference
        # Of a cut's time to the reference's, by the units that it keeps.
        self.ratios: dict[tuple[int, ...], list[float]] = {}
        self.pace: float | None = None  # what the reference takes, once that is held fast

    def check_least(self) -> None:
        cuts = self.cuts
        if not self.fits(cuts.least):
            raise MaskError(
                f"latency_ms {self.budget.milliseconds} cannot be met: with a tenth of every group "
                f"kept (a whole multiple of {cuts.round_to}, and all of the layers to be kept) a "
                f"batch of {self.budget.batch} still takes {self.estimate(cuts.least):.2f} ms "
                f"here, which is the lowest budget",
                "latency_ms",
            )

    def fits(self, count: int) -> bool:
        """Whether a cut is within the budget by all that is known; measures it if nothing is."""
        if self._key(count) not in self.ratios:
            self.measure(count)
        return self.estimate(count) <= self.budget.milliseconds

    def estimate(self, count: int) -> float:
        """Milliseconds of a measured cut at the machine's usual pace."""
        pace = self.pace or statistics.median(self.paces)
        return statistics.median(self.ratios[self._key(count)]) * pace

    def at_one_pace(self) -> int | None:
        """The largest cut within the budget at the median pace so far, measured longer.

        None where it contradicts itself even so.
        """
        self.pace = statistics.median(self.paces)
        count = self.cuts.largest(self.fits, self.cuts.least, self.cuts.most)
        self.measure(count, rounds=CAREFUL)
        return count if self.fits(count) else None

    def measure(self, *counts: int, rounds: int = ROUNDS) -> None:
        """Measure cuts side by side; a longer measurement counts as several."""
        networks = {str(count): self.network(self.cuts.masks(count)) for count in counts}
        networks[REFERENCE] = self.reference
        batch, weight = self.budget.batch, rounds // ROUNDS
        measured = measure_latency(networks, self.image_size, (batch,), rounds)
        pace = measured[REFERENCE][batch]
        self.paces += [pace] * weight
        for count in counts:
            ratio = measured[str(count)][batch] / pace
            self.ratios.setdefault(self._key(count), []).extend([ratio] * weight)

    def _key(self, count: int) -> tuple[int, ...]:
        return tuple(self.cuts.kept(count).values())
