"""From labels to units: which channels make one, and which units are ranked together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pass_transfer.networks.channel_flow import OUTPUTS, Flow
from pass_transfer.networks.labels import NONE, Classes, Ties, together, varies
from pass_transfer.networks.operators import Cut


@dataclass
class Units:
    """The units of one group in a run of the network.

    Fields:
        width: how many.
        writes, holds, reads: by layer, the unit of each channel; NONE for one of another group.
        tensors: by the name of a tensor that no layer of a kind has, its axis and the unit of
            each place on it. The axis is NONE where its units lie on several.
        places: by layer that reads behind a flattening, how many inputs each channel has.
        products: MACs for each unit of products of activations, by where they are made.
    """

    width: int = 0
    writes: dict[str, Tensor] = field(default_factory=dict)
    holds: dict[str, Tensor] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)
    tensors: dict[str, tuple[int, Tensor]] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    products: dict[str, int] = field(default_factory=dict)


def find_units(flow: Flow) -> tuple[list[Units], dict[str, str]]:
    """The groups that can be cut, in forward order, and why others are kept whole.

    Returns:
        The groups, and the reason by the name of a group's first layer.
    """
    grouping = _Grouping(flow)
    why = grouping.reasons()
    found, kept = [], {}
    for number, units in grouping.all_units().items():
        reason = why.get(number) or _why_not_cut(units)
        if units.width == 1:
            reason = why.get(number) or grouping.why_one(number)
        if reason and reason != OUTPUTS:
            kept[next(iter(units.writes))] = reason
        elif not reason and units.reads:
            found.append(units)
    return found, kept


class _Grouping:
    """Of each class of labels, its group and the number of its unit there."""

    def __init__(self, flow: Flow):
        self.flow, self.classes = flow, flow.ties.classes()
        self.made = {name: self.classes.of(labels) for name, labels in flow.made.items()}
        self.group_of = self._groups()
        self.unit = torch.full((self.classes.count + 1,), NONE)  # the last is for NONE itself
        self.widths: dict[int, int] = {}
        for made in self.made.values():
            self._number(made)

    def _groups(self) -> Classes:
        """Of each class its group: layers that make a common channel are in one."""
        joining = Ties()
        joining.new(self.classes.count)
        for made in self.made.values():
            joining.tie_all(made)
        return joining.classes()

    def _number(self, made: Tensor) -> None:
        """Number the units that a layer makes first."""
        group = int(self.group_of.of(made[:1]))
        new = dict.fromkeys(made[self.unit[made] == NONE].tolist())
        first = self.widths.get(group, 0)
        self.widths[group] = first + len(new)
        self.unit[list(new)] = torch.arange(first, first + len(new))

    def _by_group(self, of_class: Tensor) -> dict[int, Tensor]:
        """Of channels' classes, the units of each group in which they have some."""
        groups = self.group_of.of(of_class)
        units = self.unit[torch.where(of_class == NONE, self.classes.count, of_class)]
        present = torch.unique(groups[units != NONE]).tolist()
        return {group: torch.where(groups == group, units, NONE) for group in present}

    def all_units(self) -> dict[int, Units]:
        """The units of every group, by its number, in forward order."""
        found = {group: Units(width) for group, width in self.widths.items()}
        flow = self.flow
        for name, made in self.made.items():
            for group, units in self._by_group(made).items():
                found[group].writes[name] = units
        for name, labels in flow.held.items():
            for group, units in self._by_group(self.classes.of(labels)).items():
                found[group].holds[name] = units
        for name, labels in flow.read.items():
            for group, units in self._by_group(self.classes.of(labels)).items():
                found[group].reads[name] = units
                places = _places(labels[units != NONE])
                if places > 1:
                    found[group].places[name] = places
        for name, labels in flow.tensors.items():
            for group, units in self._by_group(self.classes.of(labels)).items():
                found[group].tensors[name] = _on_axis(units)
        for where, macs, labels in flow.products:
            for group, units in self._by_group(self.classes.of(labels)).items():
                each = macs * int((units != NONE).sum()) // found[group].width
                found[group].products[where] = found[group].products.get(where, 0) + each
        return found

    def reasons(self) -> dict[int, str]:
        """By group, why its channels cannot be removed."""
        found: dict[int, str] = {}
        for labels, why in self.flow.kept:
            for group in self._groups_in(labels):
                found.setdefault(group, why)
        for cut, why in self.flow.cuts:
            if self._hinders(cut):
                for group in self._groups_in(cut.labels):
                    found.setdefault(group, why)
        return found

    def _hinders(self, cut: Cut) -> bool:
        """Whether channels lie where they may not."""
        labels, *beside = together([cut.labels] if cut.beside is None else [cut.labels, cut.beside])
        of_class = self.classes.of(labels)
        if beside and torch.equal(of_class, self.classes.of(*beside)):
            return False
        return sum(varies(of_class, axis) for axis in cut.axes) > cut.most

    def why_one(self, group: int) -> str:
        """Why all channels of a group are one unit."""
        for labels, why in self.flow.told:
            if group in self._groups_in(labels):
                return why
        return "they depend on one another"

    def _groups_in(self, labels: Tensor) -> list[int]:
        of_class = self.classes.of(torch.unique(together((labels,))[0]))
        return torch.unique(self.group_of.of(of_class[of_class != NONE])).tolist()


def _places(labels: Tensor) -> int:
    """How often each label stands among a layer's inputs; 1 where it is not always as often."""
    _, times = torch.unique(labels, return_counts=True)
    return int(times[0]) if bool((times == times[0]).all()) else 1


def _on_axis(units: Tensor) -> tuple[int, Tensor]:
    """The axis of a tensor that its units lie on, and the unit of each place."""
    axes = [axis for axis in range(units.ndim) if varies(units, axis)]
    if len(axes) != 1:
        return NONE, units
    axis = axes[0]
    return axis, units.movedim(axis, 0).reshape(units.shape[axis], -1).amax(1)


def _why_not_cut(units: Units) -> str:
    """Why units cannot be taken out of a group's tensors; empty where they can."""
    sides: tuple[Mapping[str, Tensor], ...] = (units.writes, units.holds, units.reads)
    for side in sides:
        for name, of_channels in side.items():
            if _uneven(of_channels, units.width):
                return f"{name} has more channels of some of them than of others"
    for name, (axis, of_places) in units.tensors.items():
        if axis == NONE:
            return f"{name} has them on several axes"
        if bool((of_places == NONE).any()) or _uneven(of_places, units.width):
            return f"{name} has others among them"
    return ""


def _uneven(units: Tensor, width: int) -> bool:
    """Whether some units have more places than others."""
    counts = torch.bincount(units[units != NONE], minlength=width)
    return bool((counts != counts[0]).any())
