"""What the recurrence reads of a backbone: each layer's weights without the pruned inputs."""

from __future__ import annotations

import torch
from torch import nn

from pass_transfer.networks import ChannelGroups, kind_of
from pass_transfer.networks.labels import NONE


class LayerWeights(nn.Module):
    """Averaged weights of every step (arXiv 2407.17412, section 3), as buffers in float64.

    For each step, the kernel is averaged over its positions and its outputs are pooled to one
    length, once; `vectors` then averages over the inputs that a mask keeps, all steps together.
    """

    weights: torch.Tensor
    inputs: torch.Tensor
    ends: torch.Tensor

    def __init__(self, backbone: nn.Module, groups: ChannelGroups, pooled: int):
        super().__init__()
        read = [_what_is_read(backbone, step, groups) for step in groups.steps]
        widest = max(kernel.shape[1] for kernel, _ in read)
        weights = torch.zeros(len(read), pooled, widest, dtype=torch.float64)
        # Where a step's inputs are among all units; behind those stand one that is always 0,
        # and one that is always 1.
        inputs = torch.full((len(read), widest), groups.total)
        for number, (kernel, units) in enumerate(read):
            count = kernel.shape[1]
            pooled_outputs = nn.functional.adaptive_avg_pool1d(kernel.T[None], pooled)[0].T
            weights[number, :, :count] = pooled_outputs
            inputs[number, :count] = groups.total + 1
            if units is not None:
                inputs[number, :count] = units
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("inputs", inputs, persistent=False)
        self.register_buffer(
            "ends", torch.tensor([0.0, 1.0], dtype=torch.float64), persistent=False
        )

    def vectors(self, mask: torch.Tensor) -> torch.Tensor:
        """(steps, pooled): one value an output channel, pooled to one length, with unit variance.

        Args:
            mask: (total,) over all groups, between 0 and 1.
        """
        kept = torch.cat([mask.to(self.weights), self.ends])[self.inputs]
        count = kept.sum(1, keepdim=True).clamp(min=1e-6)
        rows = torch.bmm(self.weights, kept[:, :, None])[:, :, 0] / count
        return rows / rows.std(1, keepdim=True).clamp(min=1e-12)


def _what_is_read(
    backbone: nn.Module, step: str, groups: ChannelGroups
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A step's averaged weight (outputs, inputs), and where each input is among all units.

    Behind a flattening, the places of a channel's map are averaged, too. There are no units
    where no mask reaches the inputs, as those of a grouped convolution. Inputs of no group stand
    behind all units, at the one that is always 1.
    """
    layer = backbone.get_submodule(step)
    kind = kind_of(layer)
    weight = kind.averaged_weight(layer)
    starts = dict(zip(groups, groups.offsets.tolist()))
    readers = [group for group in groups.values() if step in group.reads]
    if not readers or len(readers[0].reads[step]) != weight.shape[1]:
        return weight, None
    group, units = readers[0], readers[0].reads[step]
    if len(readers) == 1 and step in group.places:
        by_unit = weight[:, torch.argsort(units, stable=True)].unflatten(1, (group.width, -1))
        return by_unit.mean(2), starts[group.name] + torch.arange(group.width)
    places = torch.full_like(units, groups.total + 1)
    for reader in readers:
        units = reader.reads[step]
        places = torch.where(units == NONE, places, starts[reader.name] + units)
    return weight, places
