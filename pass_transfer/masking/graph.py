"""The graph of a backbone by torch.fx, and questions about its nodes."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn

from pass_transfer.networks import layer_kind

ADDITIONS = (operator.add, operator.iadd, torch.add)
FLATTENINGS = (torch.flatten,)
# What symbolic tracing raises: the first where the network's course depends on values, the
# others where Python asks one for a number (len, range, an index).
TRACING_ERRORS = (fx.proxy.TraceError, TypeError, RuntimeError)


class Unplanned(Exception):
    """Something that no step can be made of; its text says what."""


class _Tracer(fx.Tracer):
    """Layers with a kind are not looked into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return layer_kind(m) is not None or super().is_leaf_module(m, module_qualified_name)


def trace(backbone: nn.Module) -> fx.Graph:
    """The graph of a backbone. Raises Unplanned where torch.fx cannot trace it."""
    try:
        return _Tracer().trace(backbone)
    except TRACING_ERRORS as error:
        raise Unplanned(f"torch.fx cannot trace it: {error}") from error


def given(node: fx.Node) -> fx.Node:
    """What a module or function is given first."""
    if not node.args or not isinstance(node.args[0], fx.Node):
        raise Unplanned(f"{node} is not given its input by position")
    return node.args[0]


def is_flattening(node: fx.Node) -> bool:
    """Whether a node flattens everything behind the batch."""
    called = node.op == "call_function" and node.target in FLATTENINGS
    return called and node.args[1:] == (1,) and not node.kwargs


def summands(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Both values of an addition of two; None for anything else."""
    if node.op != "call_function" or node.target not in ADDITIONS or node.kwargs:
        return None
    if len(node.args) != 2:
        return None
    first, second = node.args
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        return None
    return first, second


def addition_to(node: fx.Node) -> fx.Node | None:
    """What is added to a value that only an addition uses, as its first summand."""
    follower = only_user(node)
    both = None if follower is None else summands(follower)
    return both[1] if both is not None and both[0] is node else None


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that uses a value; None where there are several, or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None
