"""Folding: each cut channel is merged with the kept one that is most like it, without images.

Model folding (arXiv 2502.10216) clusters the channels of a layer by their weights. A cluster's
channel is the mean of its members, and what reads it adds up what its members were read with.
Here the kept channels are the centres: they are chosen by the method that is compared, and each
cut one joins the nearest. BatchNorm is measured again after it, as that paper repairs it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from pass_transfer.networks import ChannelGroup, ChannelGroups, kind_of
from pass_transfer.networks.labels import NONE


@torch.no_grad()
def folded(
    backbone: nn.Module, masks: Mapping[str, torch.Tensor], groups: ChannelGroups
) -> nn.Module:
    """A copy of a whole backbone whose kept channels do the work of the cut ones, too.

    Cut channels are still there, and are to be removed or masked.

    Args:
        masks: bool (width,) of each group.
    """
    made = copy.deepcopy(backbone)
    for group in groups.values():
        kept = masks[group.name].cpu()
        if bool(kept.all()):
            continue
        centre = nearest_kept(backbone, group, kept)
        for weight, axis, units in _written(made, group):
            _merge(weight, axis, units, centre, averaged=True)
        for weight, units in _read(made, group):
            _merge(weight, 1, units, centre, averaged=False)
    return made


def nearest_kept(backbone: nn.Module, group: ChannelGroup, kept: torch.Tensor) -> torch.Tensor:
    """For each unit (width,) the kept one whose weights are nearest; for a kept one itself.

    By the Euclidean distance of the weights of all layers that make the units' channels, each
    scaled so that a unit's norm is 1 on average.
    """
    parts = []
    for name, units in group.writes.items():
        layer = backbone.get_submodule(name)
        if kind_of(layer).mixes_channels:
            rows = layer.get_parameter("weight").detach().flatten(1)[_order(units)]
            by_unit = rows.float().reshape(group.width, -1)
            parts.append(by_unit / by_unit.norm(dim=1).mean().clamp(min=1e-12))
    chosen = kept.nonzero().flatten()
    centre = torch.arange(group.width)
    if parts:
        vectors = torch.cat(parts, 1).double()
        lost = (~kept).nonzero().flatten()
        centre[lost] = chosen[torch.cdist(vectors[lost], vectors[chosen]).argmin(1)]
    return centre


def _order(units: torch.Tensor) -> torch.Tensor:
    """Positions of a group's channels unit by unit."""
    return torch.argsort(units, stable=True)[int((units == NONE).sum()) :]


def _written(
    network: nn.Module, group: ChannelGroup
) -> Iterator[tuple[torch.Tensor, int, torch.Tensor]]:
    """Parameters that have these channels on an axis, with the unit of each place on it."""
    for name, units in group.writes.items():
        for parameter in network.get_submodule(name).parameters(recurse=False):
            yield parameter, 0, units
    for name, (axis, units) in group.tensors.items():
        yield network.get_parameter(name), axis, units


def _read(network: nn.Module, group: ChannelGroup) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Weights of the layers that mix these channels, with the unit of each input."""
    for name, units in group.reads.items():
        layer = network.get_submodule(name)
        if kind_of(layer).mixes_channels:
            yield layer.get_parameter("weight"), units


def _merge(
    weight: torch.Tensor, axis: int, units: torch.Tensor, centre: torch.Tensor, averaged: bool
) -> None:
    """The sum or the average of each cluster in the places of its centre, zero elsewhere."""
    order = _order(units).to(weight.device)
    values = weight.index_select(axis, order).movedim(axis, 0)
    by_unit = values.reshape(len(centre), -1).double()
    merged = torch.zeros_like(by_unit).index_add(0, centre.to(weight.device), by_unit)
    if averaged:
        members = torch.bincount(centre, minlength=len(centre)).clamp(min=1)
        merged = merged / members.to(merged)[:, None]
    weight.index_copy_(axis, order, merged.reshape(values.shape).movedim(0, axis).to(weight))
