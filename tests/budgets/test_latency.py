"""A budget in milliseconds, on machines whose clock is made up."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pass_transfer.budgets import Budget, CutNetwork
from pass_transfer.budgets import latency as latency_budget
from pass_transfer.budgets.latency import LatencyBudget, fit_latency
from pass_transfer.budgets.ranking import RankedCuts
from pass_transfer.errors import MaskError, UsageError


@pytest.fixture
def scores(groups):
    draw = torch.Generator().manual_seed(3)
    return {name: torch.randn(group.width, generator=draw) for name, group in groups.items()}


@pytest.fixture
def cuts(scores, groups):
    return RankedCuts(scores, groups, round_to=8)


class Clock:
    """A machine on which a network of n channels takes n * batch milliseconds.

    Give or take its `pace` at the number of the measurement, and `noise` for that number, the
    network's name and the rounds.
    """

    def __init__(
        self, monkeypatch, noise=lambda number, name, rounds: 1.0, pace=lambda number: 1.0
    ):
        self.calls, self.noise, self.pace = 0, noise, pace
        self.measured = set()  # channels of the networks
        monkeypatch.setattr(latency_budget, "measure_latency", self)

    def __call__(self, networks, image_size, batch_sizes, rounds):
        self.calls += 1
        self.measured |= set(networks.values())
        times = {}
        for name, n in networks.items():
            factor = self.pace(self.calls) * self.noise(self.calls, name, rounds)
            times[name] = {batch: n * batch * factor for batch in batch_sizes}
        return times


def noisy_where(disturbed, factor):
    """Noise of a factor for cuts, not for the reference, in measurements that `disturbed` names."""

    def noise(number, name, rounds):
        cut = name != latency_budget.REFERENCE
        return factor if cut and disturbed(number, rounds) else 1.0

    return noise


def careful(number, rounds):
    """Whether a measurement is one of those that decide."""
    return rounds > latency_budget.ROUNDS


def channels(masks):
    return sum(masks.kept.values())


@pytest.mark.parametrize("share", [0.15, 0.4, 0.7, 0.99])
@pytest.mark.parametrize("batch", [1, 4])
def test_the_cut_fits_and_the_next_larger_one_does_not(cuts, groups, monkeypatch, share, batch):
    Clock(monkeypatch)
    limit = share * groups.total * batch
    masks = fit_latency(cuts, channels, LatencyBudget(limit, batch), 32)
    assert channels(masks) * batch <= limit
    counts = range(cuts.least, cuts.most + 1)
    more = next(n for n in counts if sum(cuts.kept(n).values()) > channels(masks))
    assert channels(cuts.masks(more)) * batch > limit


def test_what_fits_whole_stays_whole(cuts, groups, monkeypatch):
    Clock(monkeypatch)
    assert fit_latency(cuts, channels, LatencyBudget(groups.total), 32).density == 1


@pytest.mark.parametrize("disturbed", [{2, 3, 4}, {1, 2}, {5, 9}])
@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_disturbed_measurements_are_found_out_and_repeated(
    cuts, groups, monkeypatch, disturbed, factor
):
    Clock(monkeypatch, pace=lambda number: factor if number in disturbed else 1.0)
    limit = 0.5 * groups.total
    masks = fit_latency(cuts, channels, LatencyBudget(limit), 32)
    Clock(monkeypatch)
    assert masks == fit_latency(cuts, channels, LatencyBudget(limit), 32)


@pytest.mark.parametrize("disturbed", [{2}, {3}, {5}, {2, 6}])
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_disturbed_cut_still_fits_and_is_as_near_as_its_disturbance(
    cuts, groups, monkeypatch, disturbed, factor
):
    Clock(monkeypatch, noisy_where(lambda number, rounds: number in disturbed, factor))
    limit = 0.5 * groups.total
    assert 0.9 * limit < channels(fit_latency(cuts, channels, LatencyBudget(limit), 32)) <= limit


LOW, HIGH = 0.71875, 1.25
CONTRADICTS_ITSELF_TO_THE_LAST_TRY = [
    *(HIGH, HIGH, HIGH, LOW, LOW, HIGH, LOW),
    *(LOW, 1.0, 0.75, LOW, HIGH, HIGH, HIGH),
]


@settings(max_examples=40)
@given(st.lists(st.floats(0.7, 1.4), min_size=1, max_size=40), st.floats(0.3, 0.6))
@example(CONTRADICTS_ITSELF_TO_THE_LAST_TRY, 0.46875)
def test_where_only_the_pace_wanders_the_cut_is_right_for_one_of_its_paces(
    cuts, groups, paces, share
):
    limit = share * groups.total
    with pytest.MonkeyPatch.context() as patch:
        Clock(patch, pace=lambda number: paces[number % len(paces)])
        masks = fit_latency(cuts, channels, LatencyBudget(limit), 32)
    count = cuts.largest(lambda n: channels(cuts.masks(n)) <= channels(masks))
    next_larger = cuts.masks(cuts.next_larger(count))
    assert min(paces) * channels(masks) <= limit < max(paces) * channels(next_larger)


def test_a_budget_that_the_smallest_cut_exceeds_is_refused_with_the_lowest(cuts, monkeypatch):
    Clock(monkeypatch)
    least = channels(cuts.masks(cuts.least))
    with pytest.raises(MaskError, match=f"{least:.2f} ms here, which is the lowest budget"):
        fit_latency(cuts, channels, LatencyBudget(0.9 * least), 32)


def test_a_machine_that_always_contradicts_itself_is_given_up(cuts, groups, monkeypatch):
    Clock(monkeypatch, noisy_where(careful, 3.0))
    with pytest.raises(MaskError, match="contradict"):
        fit_latency(cuts, channels, LatencyBudget(0.5 * groups.total), 32)


def test_a_restless_machine_gets_the_largest_cut_that_was_measured_to_fit(
    cuts, groups, monkeypatch, capsys
):
    limit = 0.5 * groups.total
    Clock(monkeypatch)
    quiet = fit_latency(cuts, channels, LatencyBudget(limit), 32)
    Clock(monkeypatch, noisy_where(careful, 0.7))
    masks = fit_latency(cuts, channels, LatencyBudget(limit), 32)
    assert channels(quiet) < channels(masks) <= limit / 0.7
    assert "a larger cut may fit too" in capsys.readouterr().err


@pytest.fixture
def network(groups):
    """A network that takes as long as it has channels; what it costs is not asked."""
    return CutNetwork(groups, None, channels, 32)


def test_a_budget_of_milliseconds_is_cut_by_measuring(scores, cuts, groups, network, monkeypatch):
    Clock(monkeypatch)
    limit = 2 * 0.5 * groups.total
    masks = Budget(latency_ms=limit, batch=2).cut(scores, network)
    assert masks == fit_latency(cuts, channels, LatencyBudget(limit, 2), 32)


def test_a_budget_is_checked_by_measuring_the_smallest_cut_alone(
    scores, cuts, network, monkeypatch
):
    clock = Clock(monkeypatch)
    least = channels(cuts.masks(cuts.least))
    middle = channels(cuts.masks((cuts.least + cuts.most) // 2))
    Budget(latency_ms=least).check(scores, network)
    assert clock.measured == {least, middle}, "and the reference that it is measured beside"
    with pytest.raises(MaskError, match=f"{least:.2f} ms here, which is the lowest budget"):
        Budget(latency_ms=0.9 * least).check(scores, network)


@pytest.mark.parametrize("milliseconds", [0, -1, float("nan"), float("inf"), True, "8"])
def test_milliseconds_that_are_none_are_refused(milliseconds):
    with pytest.raises(UsageError, match="latency_ms is "):
        Budget(latency_ms=milliseconds)


@pytest.mark.parametrize("batch", [0, -1, 1.5, True])
def test_a_batch_that_is_none_is_refused(batch):
    with pytest.raises(UsageError, match="batch is "):
        Budget(latency_ms=8, batch=batch)
