import pytest
import torch

from pass_transfer import latency_budget
from pass_transfer.errors import MaskError, UsageError
from pass_transfer.latency_budget import LatencyBudget, fit_latency
from pass_transfer.selection import Cuts


@pytest.fixture
def cuts(groups):
    draw = torch.Generator().manual_seed(3)
    return Cuts({name: torch.randn(group.width, generator=draw) for name, group in groups.items()}, groups, round_to=8)


class Clock:
    """A machine on which a network of n channels takes n * batch milliseconds, give or take what `noise` says for the number of the measurement."""

    def __init__(self, monkeypatch, noise=lambda number: 1.0):
        self.calls, self.noise = 0, noise
        monkeypatch.setattr(latency_budget, "measure_latency", self)

    def __call__(self, networks, image_size, batch_sizes, rounds):
        self.calls += 1
        return {name: {b: n * b * self.noise(self.calls) for b in batch_sizes} for name, n in networks.items()}


def channels(masks):
    return sum(masks.kept.values())


@pytest.mark.parametrize("share", [0.15, 0.4, 0.7, 0.99])
@pytest.mark.parametrize("batch", [1, 4])
def test_the_cut_fits_and_the_next_larger_one_does_not(cuts, groups, monkeypatch, share, batch):
    Clock(monkeypatch)
    limit = share * groups.total * batch
    masks = fit_latency(cuts, channels, LatencyBudget(limit, batch), 32)
    assert channels(masks) * batch <= limit
    more = next(n for n in range(cuts.least, cuts.most + 1) if channels(cuts.masks(n)) > channels(masks))
    assert channels(cuts.masks(more)) * batch > limit


def test_what_fits_whole_stays_whole(cuts, groups, monkeypatch):
    Clock(monkeypatch)
    assert fit_latency(cuts, channels, LatencyBudget(groups.total), 32).density == 1


@pytest.mark.parametrize("disturbed", [{2, 3, 4}, {1, 2}, {5, 9}])
@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_disturbed_measurements_are_found_out_and_repeated(cuts, groups, monkeypatch, disturbed, factor):
    Clock(monkeypatch, lambda number: factor if number in disturbed else 1.0)
    limit = 0.5 * groups.total
    masks = fit_latency(cuts, channels, LatencyBudget(limit), 32)
    Clock(monkeypatch)
    assert masks == fit_latency(cuts, channels, LatencyBudget(limit), 32)


def test_a_budget_that_the_smallest_cut_exceeds_is_refused_with_the_lowest(cuts, monkeypatch):
    Clock(monkeypatch)
    least = channels(cuts.masks(cuts.least))
    with pytest.raises(MaskError, match=f"{least:.2f} ms here, which is the lowest budget"):
        fit_latency(cuts, channels, LatencyBudget(0.9 * least), 32)


def test_a_machine_that_always_contradicts_itself_is_given_up(cuts, groups, monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(clock, "noise", lambda number: 0.01 if number == 1 else 1.0)
    monkeypatch.setattr(latency_budget._Search, "judge", lambda self, count: (2 * self.budget.milliseconds, None, None))
    with pytest.raises(MaskError, match="contradict"):
        fit_latency(cuts, channels, LatencyBudget(0.5 * groups.total), 32)


def test_a_restless_machine_gets_the_largest_cut_that_was_measured_to_fit(cuts, groups, monkeypatch, capsys):
    Clock(monkeypatch)
    limit = 0.5 * groups.total
    judged = []

    def judge(self, count):
        judged.append(count)
        return channels(cuts.masks(count)), cuts.next_larger(count), 0.9 * limit

    monkeypatch.setattr(latency_budget._Search, "judge", judge)
    masks = fit_latency(cuts, channels, LatencyBudget(limit), 32)
    assert channels(masks) <= limit
    assert masks == cuts.masks(max(count for count in judged if channels(cuts.masks(count)) <= limit))
    assert "a larger cut may fit too" in capsys.readouterr().err


@pytest.mark.parametrize("milliseconds", [0, -1, float("nan"), float("inf"), True, "8"])
def test_milliseconds_that_are_none_are_refused(milliseconds):
    with pytest.raises(UsageError, match="--latency-ms"):
        LatencyBudget(milliseconds)


@pytest.mark.parametrize("batch", [0, -1, 1.5, True])
def test_a_batch_that_is_none_is_refused(batch):
    with pytest.raises(UsageError, match="--batch"):
        LatencyBudget(8, batch)
