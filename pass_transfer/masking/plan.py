"""A backbone as a list of fused steps: convolution, normalisation, residual and ReLU under masks.

Found by torch.fx. A plan exists for networks of convolutions and linear layers whose
channels each belong to one group (ResNets, VGGs); others run with hooks (hooks.py), and
`why_unplanned` says what stands in the way.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from pass_transfer.masking.graph import (
    Unplanned,
    addition_to,
    given,
    is_flattening,
    only_user,
    summands,
    trace,
)
from pass_transfer.networks import ChannelGroup, ChannelGroups, LayerKind, kind_of, layer_kind
from pass_transfer.networks.layers import Role

COMPUTING = (Role.CONVOLUTION, Role.LINEAR)
ALONE = (Role.CHANNELWISE, Role.RELU, Role.MAX_POOLING)  # these can be a step of their own


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer with what is fused to it.

    Fields:
        name, source, residual: values; what the step makes, is given, and adds.
        layer, norm: modules.
        relu: whether the activation is fused.
        reads, writes: channel groups.
        pool: kernel, stride and padding of a maximum pooling behind it.
    """

    name: str
    source: str
    layer: str
    norm: str | None
    residual: str | None
    relu: bool
    reads: str | None
    writes: str | None
    pool: tuple[int, ...] = ()


@dataclass(frozen=True)
class Channelwise:
    """A module, or a flattening (module None), that runs on kept and dropped channels alike."""

    name: str
    source: str
    module: str | None


@dataclass(frozen=True)
class Plan:
    """Steps in the order in which they run; `image` and `result` are the network's own values."""

    steps: tuple[Layer | Channelwise, ...]
    image: str
    result: str
    last_use: dict[str, int]


@dataclass(frozen=True)
class NoPlan:
    """Why a backbone has no plan."""

    reason: str


_plans: weakref.WeakKeyDictionary[nn.Module, tuple[ChannelGroups, Plan | NoPlan]] = (
    weakref.WeakKeyDictionary()
)


def plan_of(backbone: nn.Module, groups: ChannelGroups) -> Plan | None:
    """The plan of a backbone under its groups, made once; None where there is none."""
    found = _plan_or_reason(backbone, groups)
    return None if isinstance(found, NoPlan) else found


def why_unplanned(backbone: nn.Module, groups: ChannelGroups) -> str | None:
    """Why a backbone has no plan under its groups; None where it has one."""
    found = _plan_or_reason(backbone, groups)
    return found.reason if isinstance(found, NoPlan) else None


def _plan_or_reason(backbone: nn.Module, groups: ChannelGroups) -> Plan | NoPlan:
    known = _plans.get(backbone)
    if known is None or known[0] is not groups:
        known = (groups, _make(backbone, groups))
        _plans[backbone] = known
    return known[1]


def _make(backbone: nn.Module, groups: ChannelGroups) -> Plan | NoPlan:
    try:
        return _Planner(trace(backbone), dict(backbone.named_modules()), groups).plan()
    except Unplanned as reason:
        return NoPlan(str(reason))


@dataclass
class _Open:
    """A step while it is being made: its layer, its last node so far, what it has taken in."""

    first: fx.Node
    end: fx.Node
    norm: str | None = None
    residual: fx.Node | None = None
    relu: bool = False
    pool: tuple[int, ...] = ()


class _Planner:
    def __init__(self, graph: fx.Graph, modules: dict[str, nn.Module], groups: ChannelGroups):
        self.graph, self.modules = graph, modules
        self.reads = _group_of_each((group.name, group.reads) for group in groups.values())
        self.writes = _group_of_each((group.name, group.writes) for group in groups.values())
        for group in groups.values():
            _check_order(group)
        # Of each node: the value that holds it, or a later one's beginning.
        self.value: dict[fx.Node, str] = {}
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
            elif self._role(node) in COMPUTING:
                self._start(node)
            elif self._role(node) in ALONE:
                self._channelwise(node, str(node.target))
            elif is_flattening(node):
                self._channelwise(node, None)
            elif summands(node):
                self._close_addition(node)
            else:
                raise Unplanned(f"there is no step for {self._describe(node)}")
        if image is None or result is None or self.group[result] is not None:
            raise Unplanned("it has no input, or its output is in a channel group")
        return Plan(tuple(self.steps), image, result, _last_uses(self.steps))

    def _start(self, node: fx.Node, residual: fx.Node | None = None) -> None:
        """A layer with what can be fused behind it, unless an addition has to wait.

        Args:
            residual: what the addition behind it adds, where that is known to be computed.
        """
        module = self.modules[str(node.target)]
        hindrance = kind_of(module).why_not_fused(module)
        if hindrance:
            raise Unplanned(f"{node.target} {hindrance}")
        step = _Open(node, node)
        self._take_normalisation(step)
        if residual is None:
            addition = addition_to(step.end)
            if addition is not None and addition not in self.value:
                self.waiting |= {node, step.end}  # until the addition comes
                return
            residual = addition
        self._take_addition(step, residual)
        self._take_relu(step)
        self._take_pooling(step)
        self._close(step)

    def _take_normalisation(self, step: _Open) -> None:
        follower = only_user(step.end)
        if follower is None or self._role(follower) is not Role.NORMALISATION:
            return
        if self._role(step.first) is not Role.CONVOLUTION:
            return
        norm = str(follower.target)
        hindrance = kind_of(self.modules[norm]).why_not_fused(self.modules[norm])
        if hindrance:
            raise Unplanned(f"{norm} {hindrance}")
        if self.writes.get(norm) != self.writes.get(str(step.first.target)):
            raise Unplanned(f"{norm} is in another group than {step.first.target}")
        step.norm, step.end = norm, follower

    def _take_addition(self, step: _Open, residual: fx.Node | None) -> None:
        addition = only_user(step.end)
        if residual is not None and addition is not None:
            step.residual, step.end = residual, addition

    def _take_relu(self, step: _Open) -> None:
        follower = only_user(step.end)
        if follower is not None and self._role(follower) is Role.RELU:
            step.relu, step.end = True, follower

    def _take_pooling(self, step: _Open) -> None:
        follower = only_user(step.end)
        if step.norm is None or step.residual is not None or follower is None:
            return
        if self._role(follower) is Role.MAX_POOLING:
            module = self.modules[str(follower.target)]
            step.pool = kind_of(module).pooling(module)
            step.end = follower if step.pool else step.end

    def _close(self, step: _Open) -> None:
        layer, name = str(step.first.target), step.end.name
        reads, writes = self.reads.get(layer), self.writes.get(layer)
        source = self._value(given(step.first))
        residual = None if step.residual is None else self._value(step.residual)
        if self.group[source] != reads:
            raise Unplanned(f"{layer} reads channels of another group than it is given")
        if residual is not None and self.group[residual] != writes:
            raise Unplanned(f"{layer} is added to channels of another group")
        self.steps.append(
            Layer(name, source, layer, step.norm, residual, step.relu, reads, writes, step.pool)
        )
        self.group[name] = writes
        node: fx.Node | None = step.first
        while node is not None:
            self.value[node] = name
            node = None if node is step.end else only_user(node)

    def _close_addition(self, node: fx.Node) -> None:
        """Make the step that waits for this addition."""
        first, second = summands(node) or (node, node)
        start = first
        if self._role(first) is Role.NORMALISATION:
            start = given(first)
        if start in self.value or self._role(start) not in COMPUTING:
            raise Unplanned(f"{node} adds what no layer made")
        self._start(start, second)

    def _channelwise(self, node: fx.Node, module: str | None) -> None:
        source = self._value(given(node))
        self.steps.append(Channelwise(node.name, source, module))
        self.value[node] = node.name
        self.group[node.name] = self.group[source]

    def _role(self, node: fx.Node) -> Role | None:
        kind = self._kind(node)
        return None if kind is None else kind.role

    def _kind(self, node: fx.Node) -> LayerKind[Any] | None:
        if node.op != "call_module":
            return None
        return layer_kind(self.modules[str(node.target)])

    def _value(self, node: object) -> str:
        if not isinstance(node, fx.Node) or node not in self.value:
            raise Unplanned(f"{node} is not computed yet")
        return self.value[node]

    def _describe(self, node: fx.Node) -> str:
        if node.op != "call_module":
            return f"{node.op} {getattr(node.target, '__name__', node.target)}"
        return f"{node.target} ({type(self.modules[str(node.target)]).__name__})"


def _group_of_each(
    members: Iterable[tuple[str, Iterable[str]]],
) -> dict[str, str]:
    """The group of each layer, given (group, its layers)."""
    found: dict[str, str] = {}
    for group, layers in members:
        for layer in layers:
            if layer in found:
                raise Unplanned(f"{layer} is in several channel groups")
            found[layer] = group
    return found


def _check_order(group: ChannelGroup) -> None:
    """Refuse a group whose members have its units in another order, or several times."""
    for layer, units in group.writes.items():
        if not torch.equal(units, torch.arange(group.width)):
            raise Unplanned(f"{layer} does not write each unit of {group.name} once, in order")
    for layer, units in group.reads.items():
        if not torch.equal(units, torch.arange(len(units)) // (len(units) // group.width)):
            raise Unplanned(f"{layer} does not read the units of {group.name} in order")


def _last_uses(steps: Iterable[Layer | Channelwise]) -> dict[str, int]:
    """Of each value, the number of the last step that is given it."""
    last = {}
    for number, step in enumerate(steps):
        last[step.source] = number
        if isinstance(step, Layer) and step.residual is not None:
            last[step.residual] = number
    return last
