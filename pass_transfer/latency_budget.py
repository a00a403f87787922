"""A budget in measured milliseconds: the largest cut of a ranking that runs within it on this machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable

from torch import nn

from pass_transfer.errors import MaskError, UsageError
from pass_transfer.latency import ROUNDS, measure_latency
from pass_transfer.masks import ChannelMasks
from pass_transfer.progress import say
from pass_transfer.selection import Cuts

TRIES = 6  # searches from fresh measurements, before the machine is called too restless
CAREFUL = 4 * ROUNDS  # rounds of the measurement that decides


@dataclass(frozen=True)
class LatencyBudget:
    """Milliseconds that a batch of images may take, as latency.measure_latency measures them. Raises UsageError for what is no budget."""

    milliseconds: float
    batch: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.milliseconds, bool) or not isinstance(self.milliseconds, (int, float)) or not 0 < self.milliseconds < math.inf:
            raise UsageError(f"--latency-ms is {self.milliseconds}; it is a positive number of milliseconds, such as 8")
        check_batch(self.batch)


def check_batch(batch: int) -> None:
    """Raises UsageError for what is no number of images."""
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise UsageError(f"--batch is {batch}; it is a number of images, at least 1")


def check_reachable(cuts: Cuts, network: Callable[[ChannelMasks], nn.Module], budget: LatencyBudget, image_size: int) -> None:
    """Measure the smallest cut alone. Raises MaskError where it takes longer than the budget; arguments as of fit_latency."""
    _Search(cuts, network, budget, image_size).check_least()


def fit_latency(cuts: Cuts, network: Callable[[ChannelMasks], nn.Module], budget: LatencyBudget, image_size: int) -> ChannelMasks:
    """The masks of the largest cut that was measured within a budget while the next larger one was not.

    Bisection over the ranking; then the cut and the next larger one are measured together,
    longer, and the search starts again above or below them where that contradicts it. On a
    machine too restless for that, the largest cut whose longer measurement was within the budget.

    Args:
        cuts: of one ranking.
        network: masks to the network that is timed, on the device that is meant, in eval mode.
        budget: milliseconds a batch.
        image_size: side of an image in pixels.

    Raises:
        MaskError: even the smallest cut takes longer; or no cut was found within the budget twice.
    """
    search = _Search(cuts, network, budget, image_size)
    search.check_least()
    low, high = cuts.least, cuts.most
    fitting: tuple[int, float] | None = None
    for _ in range(TRIES):
        count = cuts.largest(search.fits, low, high)
        found, above, beyond = search.judge(count)
        if found > budget.milliseconds:
            low, high = cuts.least, max(cuts.least, count - 1)
            continue
        fitting = max(fitting or (count, found), (count, found))
        if beyond is None or beyond > budget.milliseconds:
            larger = "it is the whole network" if beyond is None else f"the next larger cut takes {beyond:.2f} ms"
            say(f"batch {budget.batch} takes {found:.2f} ms of {budget.milliseconds:g}; {larger}")
            return cuts.masks(count)
        low, high = above, cuts.most
    if fitting is None:
        raise MaskError(f"measurements of {budget.milliseconds} ms contradict each other on this machine: let nothing else run on it, or give --macs instead")
    count, found = fitting
    say(f"batch {budget.batch} takes {found:.2f} ms of {budget.milliseconds:g}; measurements contradict each other here, so a larger cut may fit too: "
        "let nothing else run on this machine to know")
    return cuts.masks(count)


class _Search:
    def __init__(self, cuts: Cuts, network: Callable[[ChannelMasks], nn.Module], budget: LatencyBudget, image_size: int):
        self.cuts, self.network, self.budget, self.image_size = cuts, network, budget, image_size

    def check_least(self) -> None:
        least, cuts = self.measure(self.cuts.least), self.cuts
        if least > self.budget.milliseconds:
            raise MaskError(f"latency {self.budget.milliseconds} ms cannot be met: with a tenth of every group kept (a whole multiple of {cuts.round_to}, and all of the "
                            f"layers to be kept) a batch of {self.budget.batch} still takes {least:.2f} ms here, which is the lowest budget")

    def fits(self, count: int) -> bool:
        return self.measure(count) <= self.budget.milliseconds

    def measure(self, *counts: int, rounds: int = ROUNDS) -> float | list[float]:
        """Median milliseconds of cuts, measured side by side."""
        networks = {str(count): self.network(self.cuts.masks(count)) for count in counts}
        times = measure_latency(networks, self.image_size, (self.budget.batch,), rounds)
        found = [times[str(count)][self.budget.batch] for count in counts]
        return found[0] if len(found) == 1 else found

    def judge(self, count: int) -> tuple[float, int | None, float | None]:
        """A cut's milliseconds, the next larger cut, and its milliseconds."""
        above = self.cuts.next_larger(count)
        if above is None:
            return self.measure(count, rounds=CAREFUL), None, None
        found, beyond = self.measure(count, above, rounds=CAREFUL)
        return found, above, beyond
