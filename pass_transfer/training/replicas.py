"""A batch shared out among threads, each of which trains the whole network on its part.

Two threads that share every layer of a small network wait for each other: a step with half
a batch on each takes three quarters of the time (docs/experiments.md). As with several
processes, BatchNorm sees each part by itself, and its running statistics are the parts' mean.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import torch
from torch import nn

from pass_transfer.training.runtime import Runtime

IMAGES_LEAST = 32  # a thread: BatchNorm's statistics are of these


class Replicas:
    """A network and twins of it, which share its parameters and have buffers of their own.

    Args:
        network: on the CPU; it stays the one that is trained, saved and evaluated.
        count: how many networks there are, at least 2.
    """

    def __init__(self, network: nn.Module, count: int):
        shared = {id(parameter): parameter for parameter in network.parameters()}
        self.networks = [network, *(copy.deepcopy(network, dict(shared)) for _ in range(count - 1))]
        self.threads = max(1, torch.get_num_threads() // count)
        self.pool = ThreadPoolExecutor(
            count - 1, "replica", lambda: torch.set_num_threads(self.threads)
        )

    @classmethod
    def fitting(cls, network: nn.Module, runtime: Runtime, batch_size: int) -> Replicas | None:
        """As many as torch has threads, if each gets images enough; None where one network is to do it all."""
        alone = runtime.device.type == "cpu" and runtime.accelerator.num_processes == 1
        count = min(torch.get_num_threads(), batch_size // IMAGES_LEAST) if alone else 1
        return cls(network, count) if count > 1 else None

    def backward(
        self, work: Callable[..., tuple[torch.Tensor, torch.Tensor]], *batch: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Set the gradients of the mean loss over a batch.

        The same to the last bit every time, as the parts are added in their order.

        Args:
            work: a network and a part of the batch to the mean loss over it, and a value (N, ...) for each image.
            batch: tensors (B, ...) that are shared out along the images.

        Returns:
            The mean loss, and the values of all images (B, ...), both without a graph.
        """
        main, *twins = self.networks
        statistics = [
            [b for b in network.buffers() if b.is_floating_point()] for network in self.networks
        ]
        trained = [p for p in main.parameters() if p.requires_grad]
        count, threads = len(batch[0]), torch.get_num_threads()
        for twin, own in zip(twins, statistics[1:]):
            twin.train(main.training)
            torch._foreach_copy_(own, statistics[0])

        def differentiate(network: nn.Module, part: tuple[torch.Tensor, ...]) -> tuple:
            loss, values = work(network, *part)
            loss = loss * (len(part[0]) / count)
            return (
                torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True),
                loss.detach(),
                values.detach(),
            )

        parts = list(zip(*(tensor.tensor_split(len(self.networks)) for tensor in batch)))
        parts = [part for part in parts if len(part[0])]
        torch.set_num_threads(self.threads)
        try:
            others = [self.pool.submit(differentiate, *given) for given in zip(twins, parts[1:])]
            try:
                first = differentiate(main, parts[0])
            finally:
                wait(others)  # no thread is left at work
            results = [first, *(other.result() for other in others)]
        finally:
            torch.set_num_threads(threads)
        with torch.no_grad():
            gradients = list(results[0][0])
            for more, _, _ in results[1:]:
                torch._foreach_add_(gradients, more)
            for parameter, gradient in zip(trained, gradients):
                parameter.grad = gradient
            means = statistics[0]
            for own in statistics[1 : len(parts)]:
                torch._foreach_add_(means, own)
            torch._foreach_div_(means, len(parts))
        return sum(loss for _, loss, _ in results), torch.cat([values for _, _, values in results])
