"""A batch shared out among threads, each of which trains the whole network on its part.

Two threads that share every layer of a small network wait for each other: a step with half
a batch on each takes three quarters of the time (docs/experiments.md). As with several
processes, BatchNorm sees each part by itself, and its running statistics are the parts' mean.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch
from torch import nn

from pass_transfer.training.runtime import Runtime

IMAGES_LEAST = 32  # a thread: BatchNorm's statistics are of these

Work = Callable[..., tuple[torch.Tensor, torch.Tensor]]
Part = tuple[torch.Tensor, ...]  # of a batch: images, labels and what else belongs to them


@dataclass(frozen=True)
class _Result:
    """What one network made of its part: a share of the loss, its gradients, the values."""

    loss: torch.Tensor
    gradients: tuple[torch.Tensor, ...]
    values: torch.Tensor


class Replicas:
    """A network and twins of it, which share its parameters and have buffers of their own.

    Args:
        network: on the CPU; it stays the one that is trained, saved and evaluated.
        count: how many networks there are, at least 2.
    """

    def __init__(self, network: nn.Module, count: int):
        shared = {id(parameter): parameter for parameter in network.parameters()}
        twins = [copy.deepcopy(network, dict(shared)) for _ in range(count - 1)]
        self.networks = [network, *twins]
        self.threads = max(1, torch.get_num_threads() // count)
        # What starts a thread must not hold the replicas, or the threads would never end.
        self.pool = ThreadPoolExecutor(count - 1, "replica", torch.set_num_threads, (self.threads,))

    @classmethod
    def fitting(cls, network: nn.Module, runtime: Runtime, batch_size: int) -> Replicas | None:
        """As many networks as torch has threads, if each gets images enough.

        Returns None where one network is to do it all.
        """
        alone = runtime.device.type == "cpu" and runtime.processes.count == 1
        if not alone:
            return None
        count = min(torch.get_num_threads(), batch_size // IMAGES_LEAST)
        return cls(network, count) if count > 1 else None

    def backward(self, work: Work, *batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Set the gradients of the mean loss over a batch.

        The same to the last bit every time, as the parts are added in their order.

        Args:
            work: a network and a part of the batch to the mean loss over it, and a value
                (N, ...) for each image.
            batch: tensors (B, ...) that are shared out along the images.

        Returns:
            The mean loss, and the values of all images (B, ...), both without a graph.
        """
        main, *twins = self.networks
        statistics = [_float_buffers(network) for network in self.networks]
        for twin, own in zip(twins, statistics[1:]):
            twin.train(main.training)
            torch._foreach_copy_(own, statistics[0])
        shares = [tensor.tensor_split(len(self.networks)) for tensor in batch]
        parts = [part for part in zip(*shares) if len(part[0])]
        results = self._differentiate_all(work, parts, len(batch[0]))
        with torch.no_grad():
            self._set_gradients(results)
            _average(statistics[: len(parts)])
        loss = results[0].loss
        for result in results[1:]:
            loss = loss + result.loss
        return loss, torch.cat([result.values for result in results])

    def _differentiate_all(self, work: Work, parts: Sequence[Part], images: int) -> list[_Result]:
        """Every part by a network of its own, the first one in this thread."""
        main, *twins = self.networks
        trained = _trained(main)

        def differentiate(network: nn.Module, part: Part) -> _Result:
            loss, values = work(network, *part)
            loss = loss * (len(part[0]) / images)
            gradients = torch.autograd.grad(
                loss, trained, allow_unused=True, materialize_grads=True
            )
            return _Result(loss.detach(), gradients, values.detach())

        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            others = [
                self.pool.submit(differentiate, twin, part) for twin, part in zip(twins, parts[1:])
            ]
            try:
                first = differentiate(main, parts[0])
            finally:
                wait(others)  # no thread is left at work
            return [first, *(other.result() for other in others)]
        finally:
            torch.set_num_threads(threads)

    def _set_gradients(self, results: Sequence[_Result]) -> None:
        gradients = list(results[0].gradients)
        for result in results[1:]:
            torch._foreach_add_(gradients, result.gradients)
        for parameter, gradient in zip(_trained(self.networks[0]), gradients):
            parameter.grad = gradient


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _float_buffers(network: nn.Module) -> list[torch.Tensor]:
    return [buffer for buffer in network.buffers() if buffer.is_floating_point()]


def _average(statistics: Sequence[list[torch.Tensor]]) -> None:
    """The mean over networks, in the buffers of the first one."""
    means, *others = statistics
    for own in others:
        torch._foreach_add_(means, own)
    torch._foreach_div_(means, len(statistics))
