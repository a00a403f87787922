"""A backbone as a list of fused steps: convolution, normalisation, residual and ReLU under masks.

Found by torch.fx. A plan exists for networks of convolutions and linear layers whose
channels each belong to one group (ResNets, VGGs); others run with hooks (hooks.py).
"""

from __future__ import annotations

import operator
import weakref
from dataclasses import dataclass

import torch
from torch import fx, nn

from pass_transfer.networks import ChannelGroups

ADDITIONS = (operator.add, operator.iadd, torch.add)
FLATTENINGS = (torch.flatten,)
# Modules that treat every channel alike and on its own.
CHANNELWISE = (
    nn.ReLU,
    nn.ReLU6,
    nn.SiLU,
    nn.Hardswish,
    nn.GELU,
    nn.Identity,
    nn.Dropout,
    nn.Dropout2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
)


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer with what is fused to it. Fields are names of modules, and of values."""

    name: str
    source: str
    layer: str
    norm: str | None
    residual: str | None
    relu: bool
    reads: str | None  # channel groups
    writes: str | None
    pool: tuple[int, ...] = ()  # kernel, stride and padding of a maximum pooling behind it


@dataclass(frozen=True)
class Channelwise:
    """A module, or a flattening (module None), that runs on kept and dropped channels alike."""

    name: str
    source: str
    module: str | None


@dataclass(frozen=True)
class Plan:
    """Steps in the order in which they run; `image` and `result` name the network's input and output."""

    steps: tuple[Layer | Channelwise, ...]
    image: str
    result: str
    last_use: dict[str, int]


_plans: weakref.WeakKeyDictionary[nn.Module, tuple[ChannelGroups, Plan | None]] = (
    weakref.WeakKeyDictionary()
)


def plan_of(backbone: nn.Module, groups: ChannelGroups) -> Plan | None:
    """The plan of a backbone under its groups, made once; None where there is none."""
    known = _plans.get(backbone)
    if known is None or known[0] is not groups:
        known = (groups, _make(backbone, groups))
        _plans[backbone] = known
    return known[1]


class _Unplanned(Exception):
    """Something that no step can be made of."""


def _make(backbone: nn.Module, groups: ChannelGroups) -> Plan | None:
    try:
        graph = fx.Tracer().trace(backbone)
        return _Planner(graph, dict(backbone.named_modules()), groups).plan()
    except Exception:  # a network that cannot be traced has no plan, whatever it failed on
        return None


class _Planner:
    def __init__(self, graph: fx.Graph, modules: dict[str, nn.Module], groups: ChannelGroups):
        self.graph, self.modules = graph, modules
        self.reads = {
            layer: _only(g.name for g in groups.values() if layer in g.reads)
            for g in groups.values()
            for layer in g.reads
        }
        self.writes = {
            layer: _only(g.name for g in groups.values() if layer in g.writes)
            for g in groups.values()
            for layer in g.writes
        }
        for group in groups.values():
            for layer, units in group.writes.items():
                if not torch.equal(units, torch.arange(group.width)):
                    raise _Unplanned(
                        f"{layer} does not write each unit of {group.name} once, in order"
                    )
            for layer, units in group.reads.items():
                if not torch.equal(units, torch.arange(len(units)) // (len(units) // group.width)):
                    raise _Unplanned(f"{layer} does not read the units of {group.name} in order")
        self.value: dict[
            fx.Node, str
        ] = {}  # of each node: the value that holds it, or a later one's beginning
        self.waiting: set[fx.Node] = set()  # for the other summand of the addition behind them
        self.steps: list[Layer | Channelwise] = []
        self.group: dict[str, str | None] = {}  # of each value's channels

    def plan(self) -> Plan:
        image = result = None
        for node in self.graph.nodes:
            if node in self.value or node in self.waiting:
                continue
            if node.op == "placeholder" and image is None:
                image = self.value[node] = node.name
                self.group[node.name] = None
            elif node.op == "output":
                result = self._value(node.args[0])
            elif node.op == "call_module" and isinstance(
                self._module(node), (nn.Conv2d, nn.Linear)
            ):
                self._open(node)
            elif node.op == "call_module" and isinstance(self._module(node), CHANNELWISE):
                self._channelwise(node, node.target)
            elif (
                node.op == "call_function"
                and node.target in FLATTENINGS
                and node.args[1:] == (1,)
                and not node.kwargs
            ):
                self._channelwise(node, None)
            elif node.op == "call_function" and node.target in ADDITIONS and len(node.args) == 2:
                self._close_addition(node)
            else:
                raise _Unplanned(str(node))
        if image is None or result is None or self.group[result] is not None:
            raise _Unplanned("no input, or an output in a channel group")
        last = {}
        for number, step in enumerate(self.steps):
            for used in (step.source, getattr(step, "residual", None)):
                if used:
                    last[used] = number
        return Plan(tuple(self.steps), image, result, last)

    def _module(self, node: fx.Node) -> nn.Module:
        return self.modules[node.target]

    def _value(self, node: fx.Node) -> str:
        if not isinstance(node, fx.Node) or node not in self.value:
            raise _Unplanned(f"{node} is not computed yet")
        return self.value[node]

    def _open(self, node: fx.Node, residual: fx.Node | None = None) -> None:
        """A convolution with the normalisation, addition and ReLU behind it; one that an addition waits for is closed there."""
        layer, end, norm, relu = self._module(node), node, None, False
        if isinstance(layer, nn.Conv2d) and (
            layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str)
        ):
            raise _Unplanned(f"{node.target} is a grouped convolution, or pads in its own way")
        follower = _only_user(end)
        if (
            follower is not None
            and follower.op == "call_module"
            and isinstance(self._module(follower), nn.BatchNorm2d)
            and isinstance(layer, nn.Conv2d)
        ):
            norm, end = follower.target, follower
            if self._module(follower).weight is None or self.writes.get(norm) != self.writes.get(
                node.target
            ):
                raise _Unplanned(f"{norm} has no weight, or another group")
            follower = _only_user(end)
        if (
            residual is None
            and follower is not None
            and follower.op == "call_function"
            and follower.target in ADDITIONS
        ):
            if follower.args[0] is end and follower.args[1] not in self.value:
                self.waiting |= {node, end}
                return  # the other summand is computed first; the addition comes back to this
            if follower.args[0] is end:
                residual = follower.args[1]
        if residual is not None:
            end = _only_user(end)
            follower = _only_user(end)
        if (
            follower is not None
            and follower.op == "call_module"
            and type(self._module(follower)) is nn.ReLU
        ):
            end, relu = follower, True
        pool = ()
        if (
            norm
            and residual is None
            and (follower := _only_user(end)) is not None
            and follower.op == "call_module"
            and (pool := _pooling(self._module(follower)))
        ):
            end = follower
        reads, writes, source = (
            self.reads.get(node.target),
            self.writes.get(node.target),
            self._value(node.args[0]),
        )
        if (
            self.group[source] != reads
            or residual is not None
            and self.group[self._value(residual)] != writes
        ):
            raise _Unplanned(f"{node.target} reads channels of another group than it is given")
        self.steps.append(
            Layer(
                end.name,
                source,
                node.target,
                norm,
                None if residual is None else self._value(residual),
                relu,
                reads,
                writes,
                pool,
            )
        )
        self._mark(node, end)
        self.group[end.name] = writes

    def _mark(self, first: fx.Node, end: fx.Node) -> None:
        node = first
        while True:
            self.value[node] = end.name
            if node is end:
                return
            node = _only_user(node)

    def _close_addition(self, node: fx.Node) -> None:
        first, second = node.args
        start = (
            first.args[0]
            if first.op == "call_module" and isinstance(self._module(first), nn.BatchNorm2d)
            else first
        )
        if (
            start in self.value
            or start.op != "call_module"
            or not isinstance(self._module(start), (nn.Conv2d, nn.Linear))
        ):
            raise _Unplanned(f"{node} adds what no convolution made")
        self._open(start, second)

    def _channelwise(self, node: fx.Node, module: str | None) -> None:
        source = self._value(node.args[0])
        self.steps.append(Channelwise(node.name, source, module))
        self.value[node] = node.name
        self.group[node.name] = self.group[source]


def _pooling(module: nn.Module) -> tuple[int, ...]:
    """Kernel, stride and padding of a maximum pooling that a step takes in; empty for anything else."""
    if (
        type(module) is not nn.MaxPool2d
        or module.dilation != 1
        or module.ceil_mode
        or module.return_indices
    ):
        return ()
    values = (module.kernel_size, module.stride, module.padding)
    return values if all(isinstance(v, int) for v in values) and module.kernel_size < 16 else ()


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _only(names) -> str:
    found = list(names)
    if len(found) != 1:
        raise _Unplanned(f"a layer in {len(found)} groups")
    return found[0]
