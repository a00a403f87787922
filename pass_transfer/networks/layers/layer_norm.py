"""Normalisation over an image's own channels: they are kept or removed together."""

from __future__ import annotations

from torch import nn

from pass_transfer.networks.layers.kind import LayerCost, LayerKind, computes_as

# By the names of torch's, torchvision's and timm's classes.
OF_TOKENS = ("LayerNorm", "LayerNormFp32", "LayerNormAct", "LayerNormActFp32")
OF_MAPS = ("LayerNorm2d", "LayerNorm2dFp32", "LayerNormAct2d", "LayerNormAct2dFp32")  # (B, C, H, W)
IN_GROUPS = ("GroupNorm", "GroupNorm1", "GroupNormAct", "GroupNorm1Act")


class LayerNorm(LayerKind[nn.LayerNorm]):
    """Layer normalisation over the last axis.

    A channel changes the statistics of all others, so that all go or none.
    """

    types = (nn.LayerNorm,)
    channel_axis = -1
    holds_channels = True

    def matches(self, module: nn.Module) -> bool:
        """Whether a module is a layer normalisation over the last axis, and nothing else."""
        if not isinstance(module, self.types) or len(module.normalized_shape) != 1:
            return False
        return computes_as(module, OF_TOKENS)

    def output_channels(self, module: nn.LayerNorm) -> int:
        """Number of channels."""
        return module.normalized_shape[-1]

    def block_count(self, module: nn.LayerNorm) -> int:
        """All channels are one block."""
        return 1

    def update_sizes(self, module: nn.LayerNorm) -> None:
        """Channels, from the weight."""
        if module.elementwise_affine:
            module.normalized_shape = tuple(module.weight.shape)

    def cost(self, module: nn.LayerNorm) -> LayerCost:
        """A factor and a summand for each channel."""
        return LayerCost(0, sum(1 for _ in module.parameters()), 0)


class LayerNormOfMaps(LayerNorm):
    """Layer normalisation over the channels of maps, at every place on its own."""

    channel_axis = 1

    def matches(self, module: nn.Module) -> bool:
        """Whether a module is torchvision's or timm's layer normalisation of maps."""
        return isinstance(module, self.types) and computes_as(module, OF_MAPS)


class GroupNorm(LayerKind[nn.GroupNorm]):
    """Group normalisation: the channels of a group go together."""

    types = (nn.GroupNorm,)
    holds_channels = True

    def matches(self, module: nn.Module) -> bool:
        """Whether a module is a group normalisation, and nothing else.

        Its number of groups follows its weight, so that one without a weight is not.
        """
        if not isinstance(module, self.types) or not module.affine:
            return False
        return computes_as(module, IN_GROUPS)

    def output_channels(self, module: nn.GroupNorm) -> int:
        """Number of channels."""
        return module.num_channels

    def block_count(self, module: nn.GroupNorm) -> int:
        """Number of groups."""
        return module.num_groups

    def update_sizes(self, module: nn.GroupNorm) -> None:
        """Channels and groups, from the weight; a group keeps its channels."""
        if module.affine:
            each = module.num_channels // module.num_groups
            module.num_channels = len(module.weight)
            module.num_groups = module.num_channels // each

    def cost(self, module: nn.GroupNorm) -> LayerCost:
        """A factor and a summand for each channel."""
        return LayerCost(0, sum(1 for _ in module.parameters()), 0)
