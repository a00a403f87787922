"""Measured latency of several networks.

They run in turn, so that a machine that is slower for a while is slower for all of them.
"""

from __future__ import annotations

import functools
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from pass_transfer.progress import say
from pass_transfer.random_streams import stream

CPU = torch.device("cpu")
WARM_UP = 3
ROUNDS = 15
LEAST_ROUNDS = 3  # however long they take
SECONDS = 10.0  # of one batch size, after which no more rounds are begun than the least
# Processes that want to run, for each processor, above which a time is mostly waiting.
BUSY = 1.5


def interleave(
    runs: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
    device: torch.device = CPU,
    warm_up: int = WARM_UP,
    seconds: float = math.inf,
) -> dict[str, list[float]]:
    """Milliseconds of every call, by name.

    Each round makes each call once; the first `warm_up` rounds do not count. Calls so slow that
    `seconds` pass are warmed up by one round, and timed in three. On a GPU the time is that
    between two events on the device.
    """
    end = time.monotonic() + seconds
    clock = {"cuda": _cuda_milliseconds, "mps": _mps_milliseconds}.get(device.type, _milliseconds)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(warm_up):
        if number and time.monotonic() > end:
            break
        for run in runs.values():
            clock(run)  # waits for the device
    for number in range(rounds):
        if number >= LEAST_ROUNDS and time.monotonic() > end:
            break
        for name, run in runs.items():
            times[name].append(clock(run))
    return times


def _milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def _mps_milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    torch.mps.synchronize()
    return 1000 * (time.perf_counter() - start)


def _cuda_milliseconds(run: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def random_images(
    batch: int,
    image_size: int,
    device: torch.device,
    memory_format: torch.memory_format = torch.channels_last,
) -> torch.Tensor:
    """Images (batch, 3, S, S) in [0, 1] to time a network with."""
    images = torch.rand(batch, 3, image_size, image_size, generator=stream(0, "timed images"))
    return images.to(device).contiguous(memory_format=memory_format)


def waiting() -> float:
    """Processes that want to run, for each processor, over the last minute.

    0 where the system does not say.
    """
    if not hasattr(os, "getloadavg"):
        return 0.0
    return os.getloadavg()[0] / (os.cpu_count() or 1)


@functools.cache  # a latency budget measures many times
def _say_that_it_is_busy() -> None:
    say(
        f"the machine is busy ({waiting():.1f} processes for each processor): "
        "milliseconds measured now are not those of an idle one; "
        "pass-transfer bench measures a run's network again"
    )


@torch.inference_mode()
def measure_latency(
    networks: Mapping[str, nn.Module],
    image_size: int,
    batch_sizes: Sequence[int] = (1, 32),
    rounds: int = ROUNDS,
) -> dict[str, dict[int, float]]:
    """Median milliseconds of a forward pass in float32, channels_last, by network and batch size.

    On a busy CPU it says that an idle one would be faster.
    """
    device = next(next(iter(networks.values())).parameters()).device
    if device.type == "cpu" and waiting() > BUSY:
        _say_that_it_is_busy()
    result: dict[str, dict[int, float]] = {name: {} for name in networks}
    for batch_size in batch_sizes:
        images = random_images(batch_size, image_size, device)
        runs = {name: functools.partial(network, images) for name, network in networks.items()}
        for name, values in interleave(runs, rounds, device, seconds=SECONDS).items():
            result[name][batch_size] = round(statistics.median(values), 3)
    return result
