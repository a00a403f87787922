"""A network in eval mode, or frozen, for a while; afterwards it is as it was before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[nn.Module]:
    """A network in eval mode; afterwards every module is in the mode it was in before."""
    before = [(module, module.training) for module in network.modules()]
    try:
        yield network.eval()
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Parameters want no gradients within this context."""
    wanted = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
