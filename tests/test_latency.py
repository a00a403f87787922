"""Measuring milliseconds."""

import pytest
import torch

from pass_transfer import latency


@pytest.fixture
def networks():
    return {"small": torch.nn.Conv2d(3, 4, 3), "large": torch.nn.Conv2d(3, 64, 3)}


@pytest.mark.parametrize("queue, warned", [(0.0, 0), (1.4, 0), (3.2, 1)])
def test_a_busy_machine_is_named_once(networks, monkeypatch, capfd, queue, warned):
    monkeypatch.setattr(latency, "waiting", lambda: queue)
    latency._say_that_it_is_busy.cache_clear()
    for _ in range(2):
        found = latency.measure_latency(networks, 16, (1, 2), rounds=3)
    batches = {name: list(times) for name, times in found.items()}
    assert batches == {"small": [1, 2], "large": [1, 2]}
    assert min(found["large"].values()) > 0
    said = capfd.readouterr().err
    assert said.count("the machine is busy (3.2 processes for each processor)") == warned


def test_the_queue_is_a_number():
    assert latency.waiting() >= 0


@pytest.mark.parametrize("warm_up, seconds, calls", [(2, 60.0, 9), (2, 0.0, 4), (0, 0.0, 3)])
def test_slow_calls_are_timed_fewer_times(warm_up, seconds, calls):
    made = []
    runs = {"one": lambda: made.append(1)}
    times = latency.interleave(runs, 7, warm_up=warm_up, seconds=seconds)
    assert len(made) == calls
    assert len(times["one"]) == (7 if seconds else latency.LEAST_ROUNDS)
