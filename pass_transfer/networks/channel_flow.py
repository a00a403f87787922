"""Follows channels through one run of a network: who makes them, who reads them, what ties them.

The network runs once, in inference mode, on a black image.
Layers that make or hold channels are taken as wholes, by their kind (networks/layers/).
Between them every operator of torch is followed by its rule (networks/operators.py).
What has no rule keeps its channels: they cannot be removed, and the reason is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pass_transfer.networks.calls import Call, plain_name, tensors_in
from pass_transfer.networks.labels import NONE, Ties
from pass_transfer.networks.layers import LayerKind, layer_kind
from pass_transfer.networks.operators import Cut, Rules, Unfollowed

OUTPUTS = "they are the network's outputs"
MARK = "_pass_transfer_labels"
COMPOSED = torch._C.DispatchKey.CompositeImplicitAutograd  # operators that consist of others


@dataclass
class Flow:
    """What one run has shown.

    Fields:
        ties: which labels belong together.
        made: for each layer that makes channels, in the order they ran: its labels (outputs,).
        read: for each layer that takes channels in: of each input its label.
        held: for each layer that passes channels on and has tensors of them.
        tensors: labels of tensors that belong to no layer of a kind, by their names.
        kept: labels that cannot go, each with the reason.
        told: labels that were tied by a layer as a whole, each with the reason.
        cuts, products: see networks/operators.py.
    """

    ties: Ties = field(default_factory=Ties)
    made: dict[str, Tensor] = field(default_factory=dict)
    read: dict[str, Tensor] = field(default_factory=dict)
    held: dict[str, Tensor] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    kept: list[tuple[Tensor, str]] = field(default_factory=list)
    told: list[tuple[Tensor, str]] = field(default_factory=list)
    cuts: list[tuple[Cut, str]] = field(default_factory=list)
    products: list[tuple[str, int, Tensor]] = field(default_factory=list)


def follow(network: nn.Module, image: Tensor) -> Flow:
    """Follow channels through a network in eval mode, on one image (1, C, S, S)."""
    flow = Flow()
    mode = _Following(network, flow)
    with torch.inference_mode(), mode.hooked(network), mode:
        result = network(image)
    for layer, where in mode.lent.items():
        sides = (flow.made, flow.read, flow.held)
        mode.keep([side.get(layer) for side in sides], f"{where} computes with tensors of {layer}")
    for tensor in tensors_in(result):
        labels = labels_of(tensor)
        if labels is not None:
            flow.kept.append((labels, OUTPUTS))
    return flow


def labels_of(tensor: Tensor) -> Tensor | None:
    """The labels of a tensor, if it has any."""
    return getattr(tensor, MARK, None)


class _Following(TorchDispatchMode):
    """Gives every result of every operator its labels."""

    def __init__(self, network: nn.Module, flow: Flow):
        super().__init__()
        self.flow, self.rules = flow, Rules(flow.ties)
        self.within: list[tuple[str, bool]] = []  # modules that run, the innermost last
        self.whole = 0  # how many layers that are taken as wholes run
        self.names: dict[int, str] = {}
        self.owners: dict[int, str] = {}  # of tensors of layers that are taken as wholes
        self.lent: dict[str, str] = {}  # by layer, where else its tensors are computed with
        for name, module in network.named_modules():
            kind, own = layer_kind(module), module.named_parameters(recurse=False)
            if kind is None or not kind.has_channels:
                self.names |= {id(t): f"{name}.{n}".lstrip(".") for n, t in own}
            else:
                self.owners |= {id(t): name for _, t in own}

    @contextmanager
    def hooked(self, network: nn.Module) -> Iterator[None]:
        """Hooks on every module, for as long as this lasts."""
        handles = []
        for name, module in network.named_modules():
            kind = layer_kind(module)
            whole = kind if kind is not None and kind.has_channels else None
            handles += [
                module.register_forward_pre_hook(self._entering(name, whole)),
                module.register_forward_hook(self._leaving(name, whole), with_kwargs=True),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, name: str, kind: LayerKind[Any] | None) -> Any:
        def enter(module: nn.Module, given: Any) -> None:
            known = layer_kind(module)
            counting = known is not None and known.counts_by_weights
            self.within.append((f"{name} ({type(module).__name__})".lstrip(), counting))
            self.whole += kind is not None

        return enter

    def _leaving(self, name: str, kind: LayerKind[Any] | None) -> Any:
        def leave(module: nn.Module, args: Any, kwargs: Any, made: Any) -> None:
            where, _ = self.within.pop()
            if kind is None:
                return
            self.whole -= 1
            if not self.whole and isinstance(made, Tensor):
                (given,) = tensors_in([*args, *kwargs.values()])[:1]
                labels = labels_of(given)
                axis = kind.channel_axis % given.ndim
                passed = None if labels is None else _columns(labels, axis)
                if kind.makes_channels:
                    self._made(name, module, kind, passed, made)
                elif labels is not None and passed is not None:
                    self._held(name, where, module, kind, labels, made)

        return leave

    def _made(
        self, name: str, module: nn.Module, kind: LayerKind[Any], given: Tensor | None, made: Tensor
    ) -> None:
        """A layer made channels of its own out of what it was given, (P, inputs) labels."""
        flow = self.flow
        if name not in flow.made:
            flow.made[name] = flow.ties.new(kind.output_channels(module))
        outputs, blocks = flow.made[name], kind.block_count(module)
        if given is not None:
            flow.ties.tie_along(given, (0,))
            inputs = given.amax(0)
            if blocks != len(inputs):  # else it passes each channel on by itself
                if name in flow.read:
                    flow.ties.tie(flow.read[name], inputs)
                flow.read[name] = inputs
            if blocks:
                both = torch.cat([inputs.view(blocks, -1), outputs.view(blocks, -1)], dim=1)
                flow.ties.tie_along(both, (1,))
        elif blocks:
            flow.ties.tie_along(outputs.view(blocks, -1), (1,))
        axis = kind.channel_axis % made.ndim
        shape = [1] * made.ndim
        shape[axis] = -1
        setattr(made, MARK, outputs.view(shape).expand(made.shape))

    def _held(
        self,
        name: str,
        where: str,
        module: nn.Module,
        kind: LayerKind[Any],
        labels: Tensor,
        made: Tensor,
    ) -> None:
        """A layer passed channels on."""
        columns = _columns(labels, kind.channel_axis % labels.ndim)
        blocks = kind.block_count(module)
        if blocks:
            parts = columns.view(len(columns), blocks, -1)
            self.flow.ties.tie_along(parts, (2,))
            self.flow.told.append((columns.amax(0), f"{where} normalises over them together"))
        if len(columns) == 1 or bool((columns == columns[0]).all()):
            self.flow.held[name] = columns[0]
        elif not blocks:
            self.flow.kept.append((columns, f"{where} holds several channels in one place"))
        setattr(made, MARK, labels)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.whole:
            return func(*args, **kwargs)
        if func.has_kernel_for_dispatch_key(COMPOSED):
            with self:
                return func.decompose(*args, **kwargs)
        made = func(*args, **kwargs)
        tensors = tensors_in([*args, *kwargs.values()])
        self._note_lent(tensors)
        labels = tuple(self._labels(tensor) for tensor in tensors)
        if all(part is None for part in labels):
            return made
        results = tensors_in(made)
        self._follow(func, args, kwargs, labels, results)
        return made

    def _follow(
        self, func: Any, args: Any, kwargs: Any, labels: Any, results: list[Tensor]
    ) -> None:
        where, counting = self.within[-1]
        call = Call(func, plain_name(func), args, kwargs, labels, tuple(results))
        if call.written is not None and labels_of(call.written) is None:
            self.keep(labels, f"{where} writes into a tensor by {call.name}")
        rules = self.rules
        cuts, products = len(rules.cuts), len(rules.products)
        try:
            found = rules.results(call)
        except Unfollowed:
            self.keep(labels, f"{where} mixes channels by {call.name}")
            for result in results:
                setattr(result, MARK, None)
            return
        for cut in rules.cuts[cuts:]:
            if counting and cut.beside is not None:
                continue  # what it makes of its own weights has as many channels as they have
            allowed = cut if counting else replace(cut, most=0)
            why = (
                "takes them apart" if cut.beside is None else "joins them with a tensor that stays"
            )
            self.flow.cuts.append((allowed, f"{where} {why}"))
        self.flow.products += [(where, p.macs, p.labels) for p in rules.products[products:]]
        for result, part in zip(results, found):
            setattr(result, MARK, None if bool((part == NONE).all()) else part)

    def _note_lent(self, tensors: list[Tensor]) -> None:
        where, counting = self.within[-1]
        for tensor in tensors:
            owner = self.owners.get(id(tensor))
            if owner is not None and not counting:
                self.lent.setdefault(owner, where)

    def keep(self, labels: Iterable[Tensor | None], why: str) -> None:
        """Note that labels cannot go, and why."""
        self.flow.kept += [(part, why) for part in labels if part is not None]

    def _labels(self, tensor: Tensor) -> Tensor | None:
        """A tensor's labels; one of the network's own gets some when it is first used."""
        found = labels_of(tensor)
        name = self.names.get(id(tensor))
        if found is not None or name is None:
            return found
        if name not in self.flow.tensors:
            labels = self.flow.ties.new_own(tensor.numel()).view(tensor.shape)
            self.flow.tensors[name] = labels
        return self.flow.tensors[name]


def _columns(labels: Tensor, axis: int) -> Tensor:
    """Labels as (places, channels), with equal places once."""
    for other in range(labels.ndim):
        if other != axis and labels.stride(other) == 0:
            labels = labels.narrow(other, 0, 1)
    return labels.movedim(axis, -1).flatten(0, -2)
