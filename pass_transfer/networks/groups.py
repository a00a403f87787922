"""Channel groups: what must be kept or removed together, by Torch-Pruning's dependency graph.

A residual stream (stem, every block's output, downsample) is one group, a convolution's
private output is another; a grouped convolution moves whole groups of its channels.
"""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pass_transfer.arguments import check_is
from pass_transfer.errors import BackboneError
from pass_transfer.networks.classifier import classifier_name
from pass_transfer.networks.layers import kind_of, layer_kind, named_layers
from pass_transfer.networks.modes import eval_mode
from pass_transfer.surroundings import as_guest

if TYPE_CHECKING:
    import torch_pruning

COUPLINGS = ("grouped", "independent")
FLOOR = 0.1  # of each group is always kept, so that no layer collapses


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that live or die together.

    A unit is what is kept or removed: one channel of each layer, or all channels of one
    group of a grouped convolution.

    Fields:
        name: of the first member in forward order.
        width: number of units.
        writes: for each layer that produces these channels (those that make them in forward
            order, then those that pass them on): the unit of each of its output channels.
        reads: for each layer that takes them in (forward order): the unit of each input.
    """

    name: str
    width: int
    writes: Mapping[str, torch.Tensor]
    reads: Mapping[str, torch.Tensor]


class ChannelGroups(Mapping[str, ChannelGroup]):
    """All groups of a backbone by name, in forward order of their first member.

    `steps` names the layers that the recurrence steps over, in forward order: convolutions
    without shortcut projections, and linear layers that write a group. `coupling` is
    "grouped", or "independent" for one group a step, which can be masked but not removed.
    """

    def __init__(self, groups: Mapping[str, ChannelGroup], steps: tuple[str, ...], coupling: str):
        self._groups = dict(groups)
        self.steps = steps
        self.coupling = coupling
        self._bounds: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def __getitem__(self, name: str) -> ChannelGroup:
        return self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    @cached_property
    def total(self) -> int:
        """Number of units over all groups."""
        return sum(group.width for group in self.values())

    @cached_property
    def offsets(self) -> torch.Tensor:
        """Where each group starts in the concatenation of all groups' scores, (len + 1,) int64."""
        ends = itertools.accumulate(group.width for group in self.values())
        return torch.tensor([0, *ends], device="cpu")

    @cached_property
    def floors(self) -> torch.Tensor:
        """At least this many units of each group are kept, (len,) int64."""
        least = [max(1, math.ceil(FLOOR * group.width)) for group in self.values()]
        return torch.tensor(least, device="cpu")

    def bounds_on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """(offsets, floors) on a device, where they stay.

        A step that is captured in a CUDA graph can fetch nothing.
        """
        if device not in self._bounds:
            self._bounds[device] = self.offsets.to(device), self.floors.to(device)
        return self._bounds[device]

    def split(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """A tensor (total,) as views by group name."""
        return dict(zip(self, flat.split([group.width for group in self.values()])))

    def join(self, by_group: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Tensors by group name as one (total,)."""
        return torch.cat([by_group[name] for name in self])


@as_guest
def find_groups(backbone: nn.Module, image_size: int, coupling: str = "grouped") -> ChannelGroups:
    """Find a backbone's channel groups.

    Args:
        backbone: any network that Torch-Pruning can trace.
        image_size: side of its input in pixels.
        coupling: "grouped" (can be removed), or "independent": every layer on its own,
            as arXiv 2407.17412 masks them; such masks on a shared stream only mask.

    Raises:
        UsageError: no network.
        BackboneError: unknown coupling, no group found, or a network that takes no images.
    """
    if coupling not in COUPLINGS:
        raise BackboneError(
            f"coupling is {coupling!r}; it can be {' or '.join(map(repr, COUPLINGS))}"
        )
    check_is("backbone", backbone, nn.Module, "a network")
    if any(parameter.is_inference() for parameter in backbone.parameters()):
        backbone = copy.deepcopy(backbone)  # made in inference mode, where nothing can be traced
    order = _forward_order(backbone, image_size)
    parts = dependency_groups(backbone, image_size)
    made = [_to_group(part, backbone, order) for part in parts]
    found = [group for group in made if group is not None]
    found = _merge_grouped_convolutions(found, backbone, order)
    if not found:
        raise BackboneError(f"no removable channels found in {type(backbone).__name__}")
    steps = _steps(found, backbone, order)
    if coupling == "independent":
        found = [part for group in found for part in _separate(group, order, steps)]
    found.sort(key=lambda group: order.index(group.name))
    return ChannelGroups({group.name: group for group in found}, steps, coupling)


def cut_groups(groups: ChannelGroups, kept: Mapping[str, Sequence[int]]) -> ChannelGroups:
    """The groups of a network of which only some units are left, numbered from 0 again.

    Args:
        groups: of the whole network, with "grouped" coupling.
        kept: for each group the units that are left, in rising order.
    """
    found = {}
    for name, group in groups.items():
        units = torch.tensor(kept[name])
        number = torch.full((group.width,), -1)
        number[units] = torch.arange(len(units))
        sides = []
        for side in (group.writes, group.reads):
            left = {layer: number[whole] for layer, whole in side.items()}
            sides.append({layer: new[new >= 0] for layer, new in left.items()})
        found[name] = ChannelGroup(name, len(units), *sides)
    return ChannelGroups(found, groups.steps, groups.coupling)


def _steps(groups: list[ChannelGroup], backbone: nn.Module, order: list[str]) -> tuple[str, ...]:
    """What the recurrence steps over: layers that always are a step, and writers of a group."""
    writers = {name for group in groups for name in group.writes}
    always = {name for name in order if kind_of(backbone.get_submodule(name)).always_step}
    return tuple(n for n in order if n in writers | always and not is_shortcut(n))


def is_shortcut(name: str) -> bool:
    """Whether a layer is a residual block's shortcut projection (torchvision: downsample)."""
    return "downsample" in name.split(".")


def dependency_graph(backbone: nn.Module, image_size: int) -> torch_pruning.DependencyGraph:
    """Torch-Pruning's graph of a backbone (in eval mode, on its own device)."""
    import torch_pruning

    from pass_transfer.networks.unknown_layers import pruners_of

    required = [p.requires_grad for p in backbone.parameters()]
    backbone.requires_grad_(True)  # the graph is traced through autograd
    try:
        with warnings.catch_warnings(), torch.enable_grad(), eval_mode(backbone):
            warnings.simplefilter("ignore")
            return torch_pruning.DependencyGraph().build_dependency(
                backbone,
                example_inputs=blank_image(backbone, image_size),
                customized_pruners=pruners_of(backbone),
            )
    finally:
        for parameter, value in zip(backbone.parameters(), required):
            parameter.requires_grad_(value)


def dependency_groups(backbone: nn.Module, image_size: int) -> Iterator[torch_pruning.Group]:
    """Torch-Pruning's own groups of everything but the classifier."""
    head = backbone.get_submodule(classifier_name(backbone))
    graph = dependency_graph(backbone, image_size)
    makers = {type(layer) for _, layer, _ in named_layers(backbone, lambda k: k.makes_channels)}
    yield from graph.get_all_groups(ignored_layers=[head], root_module_types=list(makers))


def reads_channels(item: Any) -> bool:
    """Whether a layer in Torch-Pruning's group takes the group's channels in."""
    return item.dep.handler.__name__ == "prune_in_channels"


def blank_image(network: nn.Module, image_size: int) -> torch.Tensor:
    """A black image (1, 3, S, S) on a network's device, in its dtype."""
    parameter = next(network.parameters())
    size = (1, 3, image_size, image_size)
    return torch.zeros(size, device=parameter.device, dtype=parameter.dtype)


def _forward_order(backbone: nn.Module, image_size: int) -> list[str]:
    """Names of the layers that make channels, in the order they run."""
    order: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, module, _ in named_layers(backbone, lambda kind: kind.makes_channels)
    ]
    try:
        with torch.no_grad(), eval_mode(backbone):
            _run_once(backbone, image_size)
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(order))


def _run_once(backbone: nn.Module, image_size: int) -> None:
    """Let one image through. Raises BackboneError for a network that does not take it."""
    kind, size = type(backbone).__name__, f"(1, 3, {image_size}, {image_size})"
    if next(backbone.parameters(), None) is None:
        raise BackboneError(f"{kind} has no weights, so there is nothing to remove from it")
    try:
        backbone(blank_image(backbone, image_size))
    except Exception as error:  # a network may be anybody's, and raise anything
        why = f"{type(error).__name__}: {error}"
        raise BackboneError(f"{kind} does not take images {size}: {why}") from error


def _to_group(
    parts: torch_pruning.Group, backbone: nn.Module, order: list[str]
) -> ChannelGroup | None:
    """A Torch-Pruning group as ours, or None for one that no layer writes or nothing reads."""
    names = {module: name for name, module in backbone.named_modules()}
    writes: dict[str, torch.Tensor] = {}
    reads: dict[str, torch.Tensor] = {}
    holders: dict[str, torch.Tensor] = {}
    for item in parts:
        module = item.dep.target.module
        kind = layer_kind(module)
        if kind is None:
            continue
        units = torch.empty(len(item.idxs), dtype=torch.int64)
        units[torch.tensor(item.idxs)] = torch.tensor(item.root_idxs)
        if kind.holds_channels:
            holders[names[module]] = units
        elif kind.takes_channels and reads_channels(item):
            reads[names[module]] = units
        elif kind.makes_channels:
            writes[names[module]] = units
    if not writes or not reads:
        return None
    width = int(max(int(u.max()) for u in writes.values())) + 1
    makers = {n: writes[n] for n in sorted(writes, key=order.index)}
    readers = {n: reads[n] for n in sorted(reads, key=order.index)}
    return ChannelGroup(next(iter(makers)), width, makers | holders, readers)


def _merge_grouped_convolutions(
    groups: list[ChannelGroup], backbone: nn.Module, order: list[str]
) -> list[ChannelGroup]:
    """Join what a grouped convolution reads and writes: its groups are the units of both.

    Torch-Pruning would thin out every group instead; only whole groups can go without
    leaving the others another shape.
    """
    merged = list(groups)
    for name in order:
        layer = backbone.get_submodule(name)
        blocks = kind_of(layer).block_count(layer)
        before = next((g for g in merged if name in g.reads), None)
        after = next((g for g in merged if name in g.writes), None)
        if blocks == 1 or before is None or after is None or before is after:
            continue
        merged = [g for g in merged if g is not before and g is not after]
        merged.append(_of_blocks(before, after, blocks, order))
    return merged


def _of_blocks(
    before: ChannelGroup, after: ChannelGroup, blocks: int, order: list[str]
) -> ChannelGroup:
    """Two groups joined by a layer of so many blocks, which become the units."""
    in_block, out_block = before.width // blocks, after.width // blocks
    writes = {n: u // in_block for n, u in before.writes.items()}
    writes |= {n: u // out_block for n, u in after.writes.items()}
    reads = {n: u // in_block for n, u in before.reads.items()}
    reads |= {n: u // out_block for n, u in after.reads.items()}
    last = len(order)
    ordered = sorted(writes, key=lambda n: order.index(n) if n in order else last)
    return ChannelGroup(before.name, blocks, {n: writes[n] for n in ordered}, reads)


def _separate(group: ChannelGroup, order: list[str], steps: tuple[str, ...]) -> list[ChannelGroup]:
    """One group for each step of a group; a reader follows the last of them that ran before it."""
    members = [n for n in group.writes if n in steps]
    reads: dict[str, dict[str, torch.Tensor]] = {name: {} for name in members}
    for reader, units in group.reads.items():
        earlier = [m for m in members if order.index(m) < order.index(reader)]
        if earlier:
            reads[earlier[-1]][reader] = units
    return [
        ChannelGroup(m, group.width, {m: group.writes[m]}, reads[m]) for m in members if reads[m]
    ]
