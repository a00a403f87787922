"""Channel groups: what must be kept or removed together.

Channels are followed through one run of the network (networks/channel_flow.py).
A residual stream (stem, every block's output, downsample) is one group, a convolution's
private output is another; a grouped convolution moves whole groups of its channels, and
attention whole heads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from pass_transfer.arguments import check_is
from pass_transfer.errors import BackboneError
from pass_transfer.networks.channel_flow import Flow, follow
from pass_transfer.networks.image import blank_image
from pass_transfer.networks.labels import NONE
from pass_transfer.networks.layers import kind_of, layer_kind
from pass_transfer.networks.modes import eval_mode
from pass_transfer.networks.plain_weights import check_plain_weights
from pass_transfer.networks.units import Units, find_units
from pass_transfer.surroundings import as_guest

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
            Where a layer has channels of several groups, those of others are NONE.
        places: for each layer that reads behind a flattening, how many inputs a channel has:
            one for each place of its map.
        tensors: for each tensor of the network's own that has these channels, and is in no
            layer: its axis, and the unit of each place on it.
        products: by the place where they are made, MACs for each unit of products of
            activations, such as attention's, at the size that the groups were found at.
    """

    name: str
    width: int
    writes: Mapping[str, torch.Tensor]
    reads: Mapping[str, torch.Tensor]
    places: Mapping[str, int] = field(default_factory=dict)
    tensors: Mapping[str, tuple[int, torch.Tensor]] = field(default_factory=dict)
    products: Mapping[str, int] = field(default_factory=dict)


class ChannelGroups(Mapping[str, ChannelGroup]):
    """All groups of a backbone by name, in forward order of their first member.

    `steps` names the layers that the recurrence steps over, in forward order: convolutions
    without shortcut projections, and linear layers that write a group. `coupling` is
    "grouped", or "independent" for one group a step, which can be masked but not removed.
    `kept_whole` says of channels that cannot be removed why, by the first layer that makes them.
    """

    def __init__(
        self,
        groups: Mapping[str, ChannelGroup],
        steps: tuple[str, ...],
        coupling: str,
        kept_whole: Mapping[str, str] | None = None,
    ):
        self._groups = dict(groups)
        self.steps = steps
        self.coupling = coupling
        self.kept_whole = dict(kept_whole or {})
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
        backbone: any network; what of it cannot be followed is kept whole.
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
    flow = _follow(backbone, image_size)
    units, kept_whole = find_units(flow)
    found = [_group(part) for part in units]
    if not found:
        raise BackboneError(_nothing_found(backbone, kept_whole))
    order = list(flow.made)
    steps = _steps(found, backbone, order)
    if coupling == "independent":
        found = [part for group in found for part in _separate(group, order, steps)]
    found.sort(key=lambda group: order.index(group.name))
    return ChannelGroups({group.name: group for group in found}, steps, coupling, kept_whole)


def _nothing_found(backbone: nn.Module, kept_whole: Mapping[str, str]) -> str:
    """What stands in the way of every cut."""
    why = [f"{name}: {reason}" for name, reason in list(kept_whole.items())[:3]]
    for name, module in backbone.named_modules():
        own = [tensor for tensor in module.parameters(recurse=False) if tensor.ndim > 1]
        if own and layer_kind(module) is None:
            why.append(f"{name} ({type(module).__name__}) is of no layer kind")
            break
    what = f" ({'; '.join(why)})" if why else ""
    return f"no removable channels found in {type(backbone).__name__}{what}"


def _follow(backbone: nn.Module, image_size: int) -> Flow:
    """One run of a network. Raises BackboneError for one that does not take the image."""
    kind, size = type(backbone).__name__, f"(1, 3, {image_size}, {image_size})"
    if next(backbone.parameters(), None) is None:
        raise BackboneError(f"{kind} has no weights, so there is nothing to remove from it")
    check_plain_weights(backbone)
    try:
        with eval_mode(backbone):
            return follow(backbone, blank_image(backbone, image_size))
    except BackboneError as error:
        raise BackboneError(f"{kind} cannot be cut: {error}") from error
    except Exception as error:  # a network may be anybody's, and raise anything
        why = f"{type(error).__name__}: {error}"
        raise BackboneError(f"{kind} does not take images {size}: {why}") from error


def _group(units: Units) -> ChannelGroup:
    name = next(iter(units.writes))
    writes = units.writes | units.holds
    return ChannelGroup(
        name, units.width, writes, units.reads, units.places, units.tensors, units.products
    )


def channels_of_units(
    sides: Iterable[Mapping[str, torch.Tensor]], of_units: Iterable[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """By layer, what a tensor says of the unit of each channel; True for channels of no group.

    Args:
        sides: of each group, its writes or its reads.
        of_units: of each group, bool (width,).
    """
    found: dict[str, torch.Tensor] = {}
    for side, values in zip(sides, of_units):
        for layer, units in side.items():
            own = (units == NONE) | values.cpu()[units.clamp(min=0)]
            found[layer] = found[layer] & own if layer in found else own
    return found


def kept_channels(
    groups: ChannelGroups, masks: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Which outputs and which inputs of each layer masks keep: bool by layer."""
    of_units = [masks[name].bool() for name in groups]
    written = channels_of_units((group.writes for group in groups.values()), of_units)
    return written, channels_of_units((group.reads for group in groups.values()), of_units)


def cut_groups(groups: ChannelGroups, kept: Mapping[str, Sequence[int]]) -> ChannelGroups:
    """The groups of a network of which only some units are left, numbered from 0 again.

    Args:
        groups: of the whole network, with "grouped" coupling.
        kept: for each group the units that are left, in rising order.
    """
    masks = {n: torch.zeros(g.width, dtype=torch.bool) for n, g in groups.items()}
    for name, units in kept.items():
        masks[name][list(units)] = True
    written, read = kept_channels(groups, masks)
    found = {}
    for name, group in groups.items():
        number = torch.full((group.width,), NONE)
        number[list(kept[name])] = torch.arange(len(kept[name]))
        writes, reads = (
            {layer: _renumbered(units[left[layer]], number) for layer, units in side.items()}
            for side, left in ((group.writes, written), (group.reads, read))
        )
        tensors = {
            tensor: (axis, _renumbered(units[masks[name][units]], number))
            for tensor, (axis, units) in group.tensors.items()
        }
        found[name] = ChannelGroup(
            name, len(kept[name]), writes, reads, group.places, tensors, group.products
        )
    return ChannelGroups(found, groups.steps, groups.coupling, groups.kept_whole)


def _renumbered(units: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    return torch.where(units == NONE, NONE, number[units.clamp(min=0)])


def _steps(groups: list[ChannelGroup], backbone: nn.Module, order: list[str]) -> tuple[str, ...]:
    """What the recurrence steps over: layers that always are a step, and writers of a group."""
    writers = {name for group in groups for name in group.writes}
    always = {name for name in order if kind_of(backbone.get_submodule(name)).always_step}
    return tuple(n for n in order if n in writers | always and not is_shortcut(n))


def is_shortcut(name: str) -> bool:
    """Whether a layer is a residual block's shortcut projection (torchvision: downsample)."""
    return "downsample" in name.split(".")


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
