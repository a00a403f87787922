"""Attention modules that keep a number of heads, which follows their weights after a cut."""

from __future__ import annotations

from typing import Any

from torch import nn

from pass_transfer.networks.layers.kind import LayerKind
from pass_transfer.networks.layers.open_attention import SelfAttention, WindowAttention


class OpenAttention(LayerKind[nn.Module]):
    """Attention of this library: what its linear layers have makes its heads."""

    types = (SelfAttention, WindowAttention)
    counts_by_weights = True


class TimmAttention(LayerKind[nn.Module]):
    """timm's attention of tokens: heads of one width, one linear layer for all three parts."""

    CLASSES: tuple[str, ...] = ("timm.layers.attention.Attention",)
    counts_by_weights = True

    def matches(self, module: nn.Module) -> bool:
        """Whether a module is of these classes, by name: timm may not be installed."""
        return f"{type(module).__module__}.{type(module).__name__}" in self.CLASSES

    def update_sizes(self, module: Any) -> None:
        """Heads, from the rows of their weights."""
        module.attn_dim = module.qkv.weight.shape[0] // 3
        module.num_heads = module.attn_dim // module.head_dim


class TimmWindowAttention(TimmAttention):
    """timm's attention inside windows, with a bias for each head."""

    CLASSES = ("timm.models.swin_transformer.WindowAttention",)

    def update_sizes(self, module: Any) -> None:
        """Heads, from their biases."""
        module.num_heads = module.relative_position_bias_table.shape[1]
