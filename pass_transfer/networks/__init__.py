"""Networks: how they are built and loaded, what they cost, and which channels go together."""

from pass_transfer.networks.builders import architectures, build_backbone, register_network
from pass_transfer.networks.checkpoints import read_checkpoint
from pass_transfer.networks.classifier import (
    classifier_name,
    classifier_of,
    classifier_sizes,
    set_classifier,
)
from pass_transfer.networks.cost import CostTable, count_macs, count_parameters
from pass_transfer.networks.groups import (
    COUPLINGS,
    ChannelGroup,
    ChannelGroups,
    cut_groups,
    find_groups,
    kept_channels,
)
from pass_transfer.networks.layers import (
    LayerKind,
    kind_of,
    layer_kind,
    named_layers,
    register_layer_kind,
)
from pass_transfer.networks.spec import BackboneSpec
from pass_transfer.networks.weights import has_classifier, load_checkpoint, load_weights

__all__ = [
    "COUPLINGS",
    "BackboneSpec",
    "ChannelGroup",
    "ChannelGroups",
    "CostTable",
    "LayerKind",
    "architectures",
    "build_backbone",
    "classifier_name",
    "classifier_of",
    "classifier_sizes",
    "count_macs",
    "count_parameters",
    "cut_groups",
    "find_groups",
    "has_classifier",
    "kept_channels",
    "kind_of",
    "layer_kind",
    "load_checkpoint",
    "load_weights",
    "named_layers",
    "read_checkpoint",
    "register_network",
    "register_layer_kind",
    "set_classifier",
]
