"""Reconstruction after removal: what cut channels carried is given to the kept ones, as far as they can carry it.

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
from pass_transfer.networks import ChannelGroups
from pass_transfer.networks.network import Network
from pass_transfer.tasks import Split
from pass_transfer.training import Runtime, batches, to_images
from pass_transfer.training.batches import generator

IMAGES = 4096
BATCH = 128
ROWS = (
    4 * IMAGES
)  # of inputs, for a layer: places of a map are drawn for every batch, as neighbours say the same
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
        dense: the whole network on images in [0, 1], in eval mode, with the task's statistics in its BatchNorm.
        small: its backbone after removal, or under masks that cannot be removed; changed in place.
        masks: bool (width,) of each group.
        split: training images of the task, without augmentation.
        images: how many of them are looked at.
    """
    inputs = {
        layer: masks[group.name][units]
        for group in groups.values()
        for layer, units in group.reads.items()
    }
    removed = groups.coupling == "grouped"
    outputs = (
        {
            layer: masks[group.name][units]
            for group in groups.values()
            for layer, units in group.writes.items()
        }
        if removed
        else {}
    )
    fits = {}
    for name, kept in inputs.items():
        layer = dense.backbone.get_submodule(name)
        if not bool(kept.all()) and getattr(layer, "groups", 1) == 1:
            weight = layer.weight.detach()
            fits[name] = _Fit(
                weight[outputs[name].to(weight.device)] if name in outputs else weight,
                kept.to(weight.device),
            )
    _observe(fits, dense, split, runtime, images, seed)
    for name, fit in fits.items():
        added, shift = fit.solve()
        target = small.get_submodule(name)
        if not removed:
            added = added.new_zeros(len(added), len(fit.kept)).index_copy(
                1, fit.kept.nonzero().flatten(), added
            )
        target.weight.add_(added.view_as(target.weight).to(target.weight))
        if target.bias is not None:
            target.bias.add_(shift.to(target.bias))


class _Fit:
    """Ridge regression of what a layer made of its cut inputs on its kept ones, from sums over rows of inputs.

    Args:
        weight: (O, C, ...) of the outputs that stay.
        kept: bool (C,).
    """

    def __init__(self, weight: torch.Tensor, kept: torch.Tensor):
        self.kept = kept.repeat_interleave(weight[0, 0].numel())
        self.lost_weight = weight.flatten(1)[:, ~self.kept]
        self.count, self.sums = 0, None

    def add(self, rows: torch.Tensor) -> None:
        """Rows (N, D) of inputs."""
        x, y = rows[:, self.kept], rows[:, ~self.kept] @ self.lost_weight.T.to(rows)
        sums = [x.sum(0), y.sum(0), x.T @ x, x.T @ y]
        self.sums = sums if self.sums is None else torch._foreach_add(self.sums, sums)
        self.count += len(rows)

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What to add to the weights of the kept inputs, (O, K), and to the bias, (O,)."""
        x, y, xx, xy = (to_float64(total) / self.count for total in self.sums)
        inside = xx.addr_(x, x, alpha=-1)
        inside.diagonal().add_(RIDGE * inside.diagonal().mean().clamp(min=1e-12))
        added = torch.linalg.solve(inside, xy.addr_(x, y, alpha=-1)).T
        return added, y - added @ x


def _observe(
    fits: Mapping[str, _Fit],
    network: Network,
    split: Split,
    runtime: Runtime,
    images: int,
    seed: int,
) -> None:
    """Show every fit the inputs of its layer on images of the task."""
    draw = generator(seed, 11)
    chosen = torch.randperm(len(split), generator=generator(seed, 10))[:images]
    places = math.ceil(ROWS / len(chosen))
    layers = {name: network.backbone.get_submodule(name) for name in fits}

    def look(fit: _Fit, layer: nn.Module, given: torch.Tensor) -> None:
        with torch.autocast(
            runtime.device.type, enabled=False
        ):  # sums of products rounded to 16 bits solve another problem
            fit.add(_rows(layer, given.float(), places, draw))

    handles = [
        layer.register_forward_pre_hook(
            lambda module, given, fit=fits[name]: look(fit, module, given[0])
        )
        for name, layer in layers.items()
    ]
    try:
        for pixels, _ in batches(split, BATCH, order=chosen.split(BATCH)):
            with runtime.autocast():
                network(to_images(pixels, runtime.device))
    finally:
        for handle in handles:
            handle.remove()


def _rows(
    layer: nn.Module, given: torch.Tensor, places: int, draw: torch.Generator
) -> torch.Tensor:
    """Inputs (N, D) that a layer's weights meet, at so many places of each map."""
    if not isinstance(layer, nn.Conv2d):
        return given.flatten(0, -2)
    (stride, step), (rise, run), (above, beside) = layer.stride, layer.dilation, layer.padding
    tall, wide = layer.kernel_size
    padded = nn.functional.pad(given, (beside, beside, above, above))
    rows, columns = (
        (padded.shape[2] - rise * (tall - 1) - 1) // stride + 1,
        (padded.shape[3] - run * (wide - 1) - 1) // step + 1,
    )
    positions = torch.randperm(rows * columns, generator=draw)[:places]
    y = stride * (positions // columns)[:, None] + rise * torch.arange(tall)
    x = step * (positions % columns)[:, None] + run * torch.arange(wide)
    patches = padded[
        :, :, y[:, :, None].to(given.device), x[:, None, :].to(given.device)
    ]  # (B, C, positions, tall, wide)
    return patches.transpose(1, 2).flatten(2).flatten(0, 1)
