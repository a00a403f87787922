"""Reconstruction after removal: kept channels take over what cut ones carried, as far as they can.

A layer that loses input channels gets the weights whose outputs on images of the task are
nearest to the dense layer's (feature-map reconstruction, arXiv 1707.06168, equation 5, in
closed form). One pass of the dense network shows all layers their inputs at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pass_transfer.networks import ChannelGroups, kept_channels, kind_of
from pass_transfer.networks.network import Network
from pass_transfer.random_streams import stream
from pass_transfer.shrinking.fits import (
    Fit,
    FitKind,
    FitOfPlaces,
    GramRidge,
    LeastSquares,
    MeanOnly,
)
from pass_transfer.tasks import Split
from pass_transfer.training import Runtime, batches, to_images

IMAGES = 4096
BATCH = 128
# Rows of inputs, for a layer: places of a map are drawn for every batch, as neighbours say
# the same.
ROWS = 4 * IMAGES
LEAST_SQUARES, GRAM, MEAN, FOLD = "least-squares", "gram", "mean", "fold"
FITS: dict[str, FitKind] = {LEAST_SQUARES: LeastSquares, GRAM: GramRidge, MEAN: MeanOnly}
WAYS = (*FITS, FOLD)  # folding needs no images (folding.py)


@dataclass(frozen=True)
class Reconstruction:
    """How kept channels take over.

    Fields:
        way: "least-squares", "gram" or "mean"; see fits.py.
        images: of the task that are looked at.
        seed: of which ones.
    """

    way: str = LEAST_SQUARES
    images: int = IMAGES
    seed: int = 0


DEFAULT = Reconstruction()


@torch.no_grad()
def reconstruct_readers(
    dense: Network,
    small: nn.Module,
    masks: Mapping[str, torch.Tensor],
    groups: ChannelGroups,
    split: Split,
    runtime: Runtime,
    how: Reconstruction = DEFAULT,
) -> None:
    """Change the weights (and biases) of a backbone's layers that lost inputs.

    Args:
        dense: the whole network on images in [0, 1], in eval mode, with the task's
            statistics in its BatchNorm.
        small: its backbone after removal, or under masks that cannot be removed; changed
            in place.
        masks: bool (width,) of each group.
        split: training images of the task, without augmentation.
    """
    removed = groups.coupling == "grouped"
    outputs, inputs = kept_channels(groups, masks)
    outputs = outputs if removed else {}
    fits: dict[str, Fit] = {}
    for name, kept in inputs.items():
        layer = dense.backbone.get_submodule(name)
        if not bool(kept.all()) and kind_of(layer).mixes_channels:
            cut = kept, outputs.get(name)
            fits[name] = _fit_of(name, layer, masks, groups, cut, FITS[how.way])
    _observe(fits, dense, split, runtime, how)
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
    cut: tuple[torch.Tensor, torch.Tensor | None],
    kind: FitKind,
) -> Fit:
    """The fit for a layer that keeps some inputs, and some outputs, or all."""
    kept, outputs = cut
    weight = layer.get_parameter("weight").detach()
    if outputs is not None:
        weight = weight[outputs.to(weight.device)]
    readers = [group for group in groups.values() if name in group.reads]
    group = readers[0]
    if len(readers) == 1 and name in group.places:
        mask = masks[group.name]
        of_units = torch.argsort(group.reads[name], stable=True).view(len(mask), -1)
        return FitOfPlaces(weight, mask.to(weight.device), of_units.to(weight.device), kind)
    return kind(weight, kept.to(weight.device))


def _add(layer: nn.Module, added: torch.Tensor, shift: torch.Tensor) -> None:
    weight = layer.get_parameter("weight")
    weight.add_(added.view_as(weight).to(weight))
    bias = layer.bias
    if isinstance(bias, torch.Tensor):
        bias.add_(shift.to(bias))


def _observe(
    fits: Mapping[str, Fit],
    network: Network,
    split: Split,
    runtime: Runtime,
    how: Reconstruction,
) -> None:
    """Show every fit the inputs of its layer on images of the task."""
    draw = stream(how.seed, "reconstruction places")
    order = torch.randperm(len(split), generator=stream(how.seed, "reconstruction"))
    chosen = order[: how.images]
    places = math.ceil(ROWS / len(chosen))

    mine = True

    def look(fit: Fit, layer: nn.Module, given: torch.Tensor) -> None:
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
