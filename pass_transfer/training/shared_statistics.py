"""BatchNorm over the whole batch where several processes share it out.

torch's SyncBatchNorm does so on GPUs alone. Mean and variance are sums over all processes, through
which gradients flow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.distributed.nn import functional as over_processes

from pass_transfer.training.processes import Processes


@contextmanager
def shared_statistics(network: nn.Module, processes: Processes) -> Iterator[None]:
    """While it is entered, every BatchNorm that trains sees all processes' parts of a batch."""
    kinds = nn.modules.batchnorm._BatchNorm
    norms = [module for module in network.modules() if isinstance(module, kinds)]
    if processes.count == 1:
        norms = []
    for norm in norms:
        vars(norm)["forward"] = partial(_normalise, norm, processes)
    try:
        yield
    finally:
        for norm in norms:
            del vars(norm)["forward"]


def _normalise(
    norm: nn.modules.batchnorm._BatchNorm, processes: Processes, given: torch.Tensor
) -> torch.Tensor:
    """As the layer does, with statistics of all processes in training. Inputs (B, C, ...)."""
    if not norm.training:
        return type(norm).forward(norm, given)
    x = given.float()
    over = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    count = torch.tensor(float(x.numel() // x.shape[1]))
    processes.add_up([count])
    mean = _sum(x.sum(over), processes) / count
    centred = x - mean.view(shape)
    variance = _sum(centred.square().sum(over), processes) / count
    _store(norm, mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
    made = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        made = made * norm.weight.view(shape) + norm.bias.view(shape)
    return made.to(given.dtype)


def _sum(own: torch.Tensor, processes: Processes) -> torch.Tensor:
    """The sum over processes, with its gradient."""
    group = processes.group if own.device.type == "cpu" else None
    return over_processes.all_reduce(own, group=group)


@torch.no_grad()
def _store(
    norm: nn.modules.batchnorm._BatchNorm, mean: torch.Tensor, variance: torch.Tensor
) -> None:
    """Running statistics, as torch keeps them."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    share = 1.0 / float(norm.num_batches_tracked) if momentum is None else momentum
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance, share)
