"""Layer kinds: what the other rooms have to know of a layer, one entry for each kind."""

from pass_transfer.networks.layers.attention import (
    OpenAttention,
    TimmAttention,
    TimmWindowAttention,
)
from pass_transfer.networks.layers.batch_norm import BatchNorm
from pass_transfer.networks.layers.channelwise import Channelwise, Dropout, MaxPooling, ReLU
from pass_transfer.networks.layers.convolution import Convolution, GroupedConvolution
from pass_transfer.networks.layers.kind import (
    LayerCost,
    LayerKind,
    Role,
    kind_of,
    layer_kind,
    named_layers,
    register_layer_kind,
    unregister_layer_kind,
)
from pass_transfer.networks.layers.layer_norm import GroupNorm, LayerNorm, LayerNormOfMaps
from pass_transfer.networks.layers.linear import Linear

# The table. A later entry goes before an earlier one that matches, too.
register_layer_kind(Channelwise())
register_layer_kind(Dropout())
register_layer_kind(ReLU())
register_layer_kind(MaxPooling())
register_layer_kind(BatchNorm())
register_layer_kind(LayerNorm())
register_layer_kind(LayerNormOfMaps())
register_layer_kind(GroupNorm())
register_layer_kind(OpenAttention())
register_layer_kind(TimmAttention())
register_layer_kind(TimmWindowAttention())
register_layer_kind(Linear())
register_layer_kind(Convolution())
register_layer_kind(GroupedConvolution())

__all__ = [
    "LayerCost",
    "LayerKind",
    "Role",
    "kind_of",
    "layer_kind",
    "named_layers",
    "register_layer_kind",
    "unregister_layer_kind",
]
