"""Reconstruction after removal: kept channels take over what cut ones carried, as far as they can.

A layer that loses input channels gets the weights whose outputs on images of the task are
nearest to the dense layer's (feature-map reconstruction, arXiv 1707.06168, equation 5, in
closed form). One pass of the dense network shows all layers their inputs at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from pass_transfer.float64 import to_float64
from pass_transfer.networks import ChannelGroups, kept_channels, kind_of
from pass_transfer.networks.network import Network
from pass_transfer.random_streams import stream
from pass_transfer.tasks import Split
from pass_transfer.training import Runtime, batches, to_images
from pass_transfer.training.processes import Processes

IMAGES = 4096
BATCH = 128
# Rows of inputs, for a layer: places of a map are drawn for every batch, as neighbours say
# the same.
ROWS = 4 * IMAGES
RIDGE = 1e-2  # of the mean variance: what the kept inputs hardly explain is left as it was


@torch.no_grad()
def reconstruct_readers(
    dense: Network,
    small: nn.Module,
    masks: Mapping[str, torch.Tensor],
    groups: ChannelGroups,
    split: Split,
    runtime: Runtime,
    *,
    images: int = IMAGES,
    seed: int = 0,
) -> None:
    """Change the weights (and biases) of a backbone's layers that lost inputs.

    Args:
        dense: the whole network on images in [0, 1], in eval mode, with the task's
            statistics in its BatchNorm.
        small: its backbone after removal, or under masks that cannot be removed; changed
            in place.
        masks: bool (width,) of each group.
        split: training images of the task, without augmentation.
        images: how many of them are looked at.
    """
    removed = groups.coupling == "grouped"
    outputs, inputs = kept_channels(groups, masks)
    outputs = outputs if removed else {}
    fits: dict[str, _Fit | _FitOfPlaces] = {}
    for name, kept in inputs.items():
        layer = dense.backbone.get_submodule(name)
        if not bool(kept.all()) and kind_of(layer).mixes_channels:
            fits[name] = _fit_of(name, layer, masks, groups, kept, outputs.get(name))
    _observe(fits, dense, split, runtime, images, seed)
    for name, fit in fits.items():
        fit.join(runtime.processes)
        added, shift = fit.solve()
        if not removed:
            added = added.new_zeros(len(added), len(fit.kept)).index_copy(
                1, fit.kept.nonzero().flatten(), added
            )
        _add(small.get_submodule(name), added, shift)


def _fit_of(
    name: str,
    layer: nn.Module,
    masks: Mapping[str, torch.Tensor],
    groups: ChannelGroups,
    kept: torch.Tensor,
    outputs: torch.Tensor | None,
) -> _Fit | _FitOfPlaces:
    """The regression for a layer that keeps some inputs, and some outputs, or all."""
    weight = layer.get_parameter("weight").detach()
    if outputs is not None:
        weight = weight[outputs.to(weight.device)]
    readers = [group for group in groups.values() if name in group.reads]
    group = readers[0]
    if len(readers) == 1 and name in group.places:
        mask = masks[group.name]
        of_units = torch.argsort(group.reads[name], stable=True).view(len(mask), -1)
        return _FitOfPlaces(weight, mask.to(weight.device), of_units.to(weight.device))
    return _Fit(weight, kept.to(weight.device))


def _add(layer: nn.Module, added: torch.Tensor, shift: torch.Tensor) -> None:
    weight = layer.get_parameter("weight")
    weight.add_(added.view_as(weight).to(weight))
    bias = layer.bias
    if isinstance(bias, torch.Tensor):
        bias.add_(shift.to(bias))


class _Fit:
    """Ridge regression of what a layer made of its cut inputs on its kept ones.

    It is solved from sums over rows of inputs.

    Args:
        weight: (O, C, ...) of the outputs that stay.
        kept: bool (C,).
    """

    def __init__(self, weight: torch.Tensor, kept: torch.Tensor):
        self.kept = kept.repeat_interleave(weight[0, 0].numel())
        self.lost_weight = weight.flatten(1)[:, ~self.kept]
        self.count = 0
        ins, outs = int(self.kept.sum()), len(weight)
        shapes = (ins,), (outs,), (ins, ins), (ins, outs)
        self.sums = [torch.zeros(shape, device=weight.device) for shape in shapes]

    def add(self, rows: torch.Tensor) -> None:
        """Rows (N, D) of inputs."""
        x, y = rows[:, self.kept], rows[:, ~self.kept] @ self.lost_weight.T.to(rows)
        sums = [x.sum(0), y.sum(0), x.T @ x, x.T @ y]
        self.sums = [a + b for a, b in zip(self.sums, sums)]
        self.count += len(rows)

    def join(self, processes: Processes) -> None:
        """Take in what the other processes saw."""
        processes.add_up(self.sums)
        self.count = sum(processes.gathered([self.count]))

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What to add to the weights of the kept inputs, (O, K), and to the bias, (O,)."""
        x, y, xx, xy = (to_float64(total) / self.count for total in self.sums)
        inside = xx.addr_(x, x, alpha=-1)
        inside.diagonal().add_(RIDGE * inside.diagonal().mean().clamp(min=1e-12))
        added = torch.linalg.solve(inside, xy.addr_(x, y, alpha=-1)).T
        return added, y - added @ x


class _FitOfPlaces:
    """The same for a layer behind a flattening: channels stand in for others at their own place.

    One regression of the cut channels on the kept ones serves all places, so that its size
    is that of the channels, not of channels times places.

    Args:
        weight: (O, D) of the outputs that stay.
        mask: bool (C,), the channels that stay.
        inputs: (C, P), where each channel's places are among the D inputs.
    """

    def __init__(self, weight: torch.Tensor, mask: torch.Tensor, inputs: torch.Tensor):
        self.weight, self.mask, self.inputs = weight, mask, inputs
        self.kept = torch.zeros(weight.shape[1], dtype=torch.bool, device=mask.device)
        self.kept[inputs[mask].flatten()] = True
        every_channel = torch.eye(len(mask), dtype=weight.dtype, device=weight.device)
        self.fit = _Fit(every_channel, mask)

    def add(self, rows: torch.Tensor) -> None:
        """Rows (N, D) of inputs."""
        of_channels = rows[:, self.inputs]  # (N, C, P)
        self.fit.add(of_channels.transpose(1, 2).flatten(0, 1))

    def join(self, processes: Processes) -> None:
        """Take in what the other processes saw."""
        self.fit.join(processes)

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What to add to the weights of the kept inputs, (O, K), and to the bias, (O,)."""
        of_lost, shift = self.fit.solve()  # (C, kept channels) and (C,)
        weight = to_float64(self.weight)[:, self.inputs]  # (O, C, P)
        added = torch.einsum("ocp,ck->okp", weight, of_lost)
        full = torch.zeros_like(weight)
        full[:, self.mask] = added
        in_place = torch.empty_like(weight).flatten(1)
        in_place[:, self.inputs.flatten()] = full.flatten(1)
        return in_place[:, self.kept], weight.sum(2) @ shift


def _observe(
    fits: Mapping[str, _Fit | _FitOfPlaces],
    network: Network,
    split: Split,
    runtime: Runtime,
    images: int,
    seed: int,
) -> None:
    """Show every fit the inputs of its layer on images of the task."""
    draw = stream(seed, "reconstruction places")
    order = torch.randperm(len(split), generator=stream(seed, "reconstruction"))
    chosen = order[:images]
    places = math.ceil(ROWS / len(chosen))

    mine = True

    def look(fit: _Fit | _FitOfPlaces, layer: nn.Module, given: torch.Tensor) -> None:
        # Sums of products rounded to 16 bits would solve another problem.
        with torch.autocast(runtime.device.type, enabled=False):
            rows = kind_of(layer).rows(layer, given.float(), places, draw)
            if mine:
                fit.add(rows)

    handles = [
        network.backbone.get_submodule(name).register_forward_pre_hook(
            lambda layer, given, fit=fit: look(fit, layer, given[0])
        )
        for name, fit in fits.items()
    ]
    try:
        shares = runtime.processes.shares(chosen.split(BATCH))
        looked_at = batches(split, BATCH, order=[share.positions for share in shares])
        for share, (pixels, _) in zip(shares, looked_at.shown("least squares")):
            mine = share.mine
            with runtime.autocast():
                network(to_images(pixels, runtime.device))
    finally:
        for handle in handles:
            handle.remove()
