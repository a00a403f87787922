"""Linear layers: weight (O, I), channels on the last axis."""

from __future__ import annotations

import torch
from torch import nn

from pass_transfer.networks.layers.kind import LayerCost, LayerKind, Role, computes_as


class Linear(LayerKind[nn.Linear]):
    """A linear layer. Behind a flattening it has one input for each place of a channel's map."""

    types = (nn.Linear,)
    channel_axis = -1
    makes_channels = True
    takes_channels = True
    mixes_channels = True
    can_classify = True
    role = Role.LINEAR

    def matches(self, module: nn.Module) -> bool:
        """Whether a module computes what torch's or timm's linear layer does."""
        return isinstance(module, self.types) and computes_as(module, ("Linear",))

    def output_channels(self, module: nn.Linear) -> int:
        """Number of output features."""
        return module.out_features

    def input_channels(self, module: nn.Linear) -> int:
        """Number of input features."""
        return module.in_features

    def update_sizes(self, module: nn.Linear) -> None:
        """Features in and out, from the weight."""
        module.out_features, module.in_features = module.weight.shape

    def cost(self, module: nn.Linear) -> LayerCost:
        """One weight for each output with each input, and the bias."""
        return LayerCost(1, 0 if module.bias is None else 1, module.in_features)

    def rows(
        self, module: nn.Linear, given: torch.Tensor, places: int, draw: torch.Generator
    ) -> torch.Tensor:
        """The inputs (..., I) themselves as (N, I)."""
        return given.flatten(0, -2)

    def weight_by_input(self, module: nn.Linear) -> torch.Tensor:
        """The weight (O, I, 1), detached."""
        return module.weight.detach()[:, :, None]

    def why_not_fused(self, module: nn.Linear) -> str:
        """Fused steps know torch's own linear layer."""
        if type(module).forward is not nn.Linear.forward:
            return "computes in its own way"
        return ""
