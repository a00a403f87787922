"""Least squares on the cut network's own inputs, layer by layer.

pass_transfer/shrinking/reconstruct.py fits every layer to inputs as the dense network has them. In
the cut network they are others, as the layers before do not carry everything over. Here a layer is
fitted when those before it are: its inputs are the cut network's, what it is to make of them is the
dense layer's output (arXiv 1707.06168, section 3.1, which fits whole networks so).
"""

from __future__ import annotations

import copy
import math
from functools import partial

import torch
from torch import nn

from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import kept_channels, kind_of
from pass_transfer.networks.network import Network
from pass_transfer.networks.removal import remove_channels
from pass_transfer.random_streams import stream
from pass_transfer.recipes.pipeline import Job
from pass_transfer.shrinking.classifier import fit_head
from pass_transfer.shrinking.recalibrate import recalibrate
from pass_transfer.shrinking.reconstruct import RIDGE
from pass_transfer.training import Accuracy, batches, evaluate, to_images

IMAGES = 2048
BATCH = 128
ROWS = 4 * IMAGES


class _Seen(Exception):
    """The layer was reached; what follows it is of no interest."""


@torch.no_grad()
def shrink_by_drift(job: Job, masks: ChannelMasks) -> tuple[Network, Accuracy]:
    """As pipeline.shrink, with each reader fitted to what the layers before it make now."""
    dense = job.runtime.place(job.dense.network(None, None, job.task.classes))
    recalibrate(dense, job.task.train, job.runtime, seed=job.seed)
    small_backbone = remove_channels(copy.deepcopy(dense.backbone), masks, job.groups)
    spec = job.dense.spec
    small = job.runtime.place(Network(small_backbone, spec.mean, spec.std)).eval()
    outputs, inputs = kept_channels(job.groups, masks)
    for name in (n for n, _ in dense.backbone.named_modules() if n in inputs):
        layer = dense.backbone.get_submodule(name)
        if kind_of(layer).mixes_channels and not bool(inputs[name].all()):
            _fit(job, name, dense, small, outputs.get(name))
    small.requires_grad_(True)
    recalibrate(small, job.task.train, job.runtime, seed=job.seed)
    if job.mapping == "linear":
        fit_head(small, job.task.train, job.task.classes, job.runtime, job.seed)
    return small, evaluate(small, job.task.held_out, job.runtime)


def _fit(job: Job, name: str, dense: Network, small: Network, kept: torch.Tensor | None) -> None:
    """Ridge regression of the dense layer's kept outputs on the cut layer's inputs.

    What the inputs hardly explain stays as the layer has it.
    """
    ours, theirs = small.backbone.get_submodule(name), dense.backbone.get_submodule(name)
    weight = theirs.weight.detach().flatten(1)
    wanted = weight if kept is None else weight[kept]
    before = ours.weight.detach().flatten(1)
    order = torch.randperm(len(job.task.train), generator=stream(job.seed, "drift"))[:IMAGES]
    sums: list[torch.Tensor] = []
    count = 0
    for number, (pixels, _) in enumerate(batches(job.task.train, BATCH, order=order.split(BATCH))):
        images = to_images(pixels, job.runtime.device)
        rows = [
            _rows(job, network, layer, images, number)
            for network, layer in ((small, ours), (dense, theirs))
        ]
        x, y = rows[0], rows[1] @ wanted.T - rows[0] @ before.T
        new = [x.sum(0), y.sum(0), x.T @ x, x.T @ y]
        sums = [a + b for a, b in zip(sums, new)] if sums else new
        count += len(x)
    x, y, xx, xy = (total.double() / count for total in sums)
    if (
        ours.bias is not None
    ):  # which takes the means; BatchNorm behind the layer is the dense one's
        xx.addr_(x, x, alpha=-1)
        xy.addr_(x, y, alpha=-1)
    xx.diagonal().add_(RIDGE * xx.diagonal().mean().clamp(min=1e-12))
    added = torch.linalg.solve(xx, xy).T
    ours.weight.add_(added.view_as(ours.weight).to(ours.weight))
    if ours.bias is not None:
        ours.bias.add_((y - added @ x).to(ours.bias))


def _rows(
    job: Job, network: Network, layer: nn.Module, images: torch.Tensor, number: int
) -> torch.Tensor:
    """What the layer is given, as rows; the same places for both networks."""
    found: list[torch.Tensor] = []

    def keep(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        found.append(given[0].float())
        raise _Seen

    handle = layer.register_forward_pre_hook(keep)
    try:
        with job.runtime.autocast():
            network(images)
    except _Seen:
        pass
    finally:
        handle.remove()
    places = math.ceil(ROWS / IMAGES)
    draw = stream(job.seed, "drift places", number)
    return partial(kind_of(layer).rows, layer)(found[0], places, draw)
