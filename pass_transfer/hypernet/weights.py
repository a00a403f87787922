"""What the recurrence reads of a backbone: each layer's weights without the pruned inputs."""

from __future__ import annotations

from typing import Mapping

import torch
from torch import nn

from pass_transfer.backbones import ChannelGroups


class LayerWeights(nn.Module):
    """Averaged weights of every step's convolution (arXiv 2407.17412, section 3), as buffers in float64.

    For each step, the kernel is averaged over its positions once; `vectors` then averages
    over the inputs that a mask keeps.
    """

    def __init__(self, backbone: nn.Module, groups: ChannelGroups, pooled: int):
        super().__init__()
        self.steps, self.pooled = groups.steps, pooled
        read_by = {reader: (group.name, units) for group in groups.values() for reader, units in group.reads.items()}
        self.sources: list[tuple[str, torch.Tensor] | None] = [read_by.get(step) for step in self.steps]
        for number, step in enumerate(self.steps):
            weight = backbone.get_submodule(step).weight.detach().cpu().double()
            self.register_buffer(f"kernel{number}", weight.mean(dim=(2, 3)), persistent=False)

    def vectors(self, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(steps, pooled): one value an output channel, pooled to one length, with unit variance.

        Args:
            masks: (width,) for each group, between 0 and 1.
        """
        rows = []
        for number, source in enumerate(self.sources):
            kernel = getattr(self, f"kernel{number}")
            if source is not None and len(source[1]) == kernel.shape[1]:
                kept = masks[source[0]].to(kernel)[source[1].to(kernel.device)]
                averages = kernel @ kept / kept.sum().clamp(min=1e-6)
            else:
                averages = kernel.mean(1)
            row = nn.functional.adaptive_avg_pool1d(averages[None, None], self.pooled)[0, 0]
            rows.append(row / row.std().clamp(min=1e-12))
        return torch.stack(rows)
