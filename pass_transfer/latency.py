"""Measured latency of several networks, interleaved so that a machine's moods hit all alike."""

from __future__ import annotations

import statistics
import time
from typing import Mapping, Sequence

import torch
from torch import nn

WARM_UP = 3
ROUNDS = 15


@torch.inference_mode()
def measure_latency(networks: Mapping[str, nn.Module], image_size: int, batch_sizes: Sequence[int] = (1, 32),
                    rounds: int = ROUNDS) -> dict[str, dict[int, float]]:
    """Median milliseconds of a forward pass in float32, channels_last, by network and batch size.

    Every round runs each network once; the first WARM_UP rounds do not count.
    """
    device = next(next(iter(networks.values())).parameters()).device
    result: dict[str, dict[int, float]] = {name: {} for name in networks}
    for batch_size in batch_sizes:
        images = torch.rand(batch_size, 3, image_size, image_size, device=device).contiguous(memory_format=torch.channels_last)
        times: dict[str, list[float]] = {name: [] for name in networks}
        for number in range(WARM_UP + rounds):
            for name, network in networks.items():
                seconds = _time_once(network, images, device)
                if number >= WARM_UP:
                    times[name].append(1000 * seconds)
        for name in networks:
            result[name][batch_size] = round(statistics.median(times[name]), 3)
    return result


def _time_once(network: nn.Module, images: torch.Tensor, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    network(images)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
