"""Reconstruction after removal: what cut channels carried is given to the kept ones, as far as they can carry it.

A layer that loses input channels gets the weights whose outputs on images of the task are
nearest to the dense layer's (feature-map reconstruction, arXiv 1707.06168, equation 5, in
closed form). The second moments of the dense network's activations are measured in one
pass, for all layers at once.
"""

from __future__ import annotations

from typing import Mapping

import torch
from torch import nn

from pass_transfer.backbones import ChannelGroups
from pass_transfer.network import Network
from pass_transfer.tasks import Split
from pass_transfer.training import Runtime, batches, to_images
from pass_transfer.training.batches import generator

IMAGES = 4096
BATCH = 128
POSITIONS = 16  # of each image's map, drawn for every batch: neighbours say the same
RIDGE = 1e-2  # of the mean variance: what the kept inputs hardly explain is left as it was


@torch.no_grad()
def reconstruct_readers(dense: Network, small: nn.Module, masks: Mapping[str, torch.Tensor], groups: ChannelGroups, split: Split, runtime: Runtime, *,
                images: int = IMAGES, seed: int = 0) -> None:
    """Change the weights (and biases) of a backbone's layers that lost inputs.

    Args:
        dense: the whole network on images in [0, 1], in eval mode, with the task's statistics in its BatchNorm.
        small: its backbone after removal, changed in place.
        masks: bool (width,) of each group, as removed.
        split: training images of the task, without augmentation.
        images: how many of them are looked at.
    """
    inputs = {layer: masks[group.name][units] for group in groups.values() for layer, units in group.reads.items()}
    outputs = {layer: masks[group.name][units] for group in groups.values() for layer, units in group.writes.items()}
    cut = {layer: kept for layer, kept in inputs.items() if not bool(kept.all()) and getattr(dense.backbone.get_submodule(layer), "groups", 1) == 1}
    moments = _moments(dense, list(cut), split, runtime, images, seed)
    for name, kept in cut.items():
        layer = dense.backbone.get_submodule(name)
        weight = layer.weight.detach().double().cpu().flatten(1)
        weight = weight[outputs[name]] if name in outputs else weight
        columns = kept.repeat_interleave(layer.weight[0, 0].numel())
        added, shift = _least_squares(weight, columns, *moments[name])
        target = small.get_submodule(name)
        target.weight.copy_((weight[:, columns] + added).view_as(target.weight))
        if target.bias is not None:
            target.bias.add_(shift.to(target.bias))


def _least_squares(weight: torch.Tensor, kept: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What to add to the weights of the kept inputs, (outputs, kept), and to the bias, (outputs,)."""
    inside = covariance[kept][:, kept]
    inside.diagonal().add_(RIDGE * inside.diagonal().mean().clamp(min=1e-12))
    added = torch.linalg.solve(inside, covariance[kept][:, ~kept] @ weight[:, ~kept].T).T
    return added, weight[:, ~kept] @ mean[~kept] - added @ mean[kept]


def _moments(network: Network, names: list[str], split: Split, runtime: Runtime, images: int, seed: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Mean (D,) and covariance (D, D) of what each layer multiplies its weights with, float64."""
    sums: dict[str, list] = {name: [0, 0.0, 0.0] for name in names}
    draw = generator(seed, 11)

    def add(name: str, layer: nn.Module, given: torch.Tensor) -> None:
        rows = _rows(layer, given.float(), draw)
        total = sums[name]
        total[0], total[1], total[2] = total[0] + len(rows), total[1] + rows.sum(0), total[2] + rows.T @ rows

    layers = {name: network.backbone.get_submodule(name) for name in names}
    handles = [layer.register_forward_pre_hook(lambda module, given, name=name: add(name, module, given[0])) for name, layer in layers.items()]
    chosen = torch.randperm(len(split), generator=generator(seed, 10))[:images]
    try:
        for pixels, _ in batches(split, BATCH, order=chosen.split(BATCH)):
            with runtime.autocast():
                network(to_images(pixels, runtime.device))
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, (count, total, products) in sums.items():
        mean = total.double().cpu() / count
        found[name] = mean, products.double().cpu() / count - mean[:, None] * mean
    return found


def _rows(layer: nn.Module, given: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Inputs (N, D) that a layer's weights meet, at some positions of each map."""
    if not isinstance(layer, nn.Conv2d):
        return given.flatten(0, -2)
    patches = nn.functional.unfold(given, layer.kernel_size, dilation=layer.dilation, padding=layer.padding, stride=layer.stride)
    positions = torch.randperm(patches.shape[2], generator=draw)[:POSITIONS].to(given.device)
    return patches[:, :, positions].transpose(1, 2).flatten(0, 1)
