"""Eval mode for a while, with each module's own mode put back."""

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
