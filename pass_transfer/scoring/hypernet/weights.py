"""What the recurrence reads of a backbone: each layer's weights without the pruned inputs."""

from __future__ import annotations

import torch
from torch import nn

from pass_transfer.networks import ChannelGroups


class LayerWeights(nn.Module):
    """Averaged weights of every step's convolution (arXiv 2407.17412, section 3), as buffers in float64.

    For each step, the kernel is averaged over its positions and its outputs are pooled to one
    length, once; `vectors` then averages over the inputs that a mask keeps, all steps together.
    """

    def __init__(self, backbone: nn.Module, groups: ChannelGroups, pooled: int):
        super().__init__()
        starts = dict(zip(groups, groups.offsets.tolist()))
        read_by = {
            reader: starts[group.name] + units
            for group in groups.values()
            for reader, units in group.reads.items()
        }
        kernels = [
            backbone.get_submodule(step).weight.detach().cpu().double().mean(dim=(2, 3))
            for step in groups.steps
        ]
        widest = max(kernel.shape[1] for kernel in kernels)
        weights = torch.zeros(len(kernels), pooled, widest, dtype=torch.float64)
        inputs = torch.full(
            (len(kernels), widest), groups.total
        )  # where a step's inputs are among all units; then one that is always 0, and one that is always 1
        for number, (step, kernel) in enumerate(zip(groups.steps, kernels)):
            own = read_by.get(step)
            weights[number, :, : kernel.shape[1]] = nn.functional.adaptive_avg_pool1d(
                kernel.T[None], pooled
            )[0].T
            inputs[number, : kernel.shape[1]] = (
                own if own is not None and len(own) == kernel.shape[1] else groups.total + 1
            )
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
        rows = torch.bmm(self.weights, kept[:, :, None])[:, :, 0] / kept.sum(1, keepdim=True).clamp(
            min=1e-6
        )
        return rows / rows.std(1, keepdim=True).clamp(min=1e-12)
