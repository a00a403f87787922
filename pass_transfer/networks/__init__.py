"""Networks: how they are built and loaded, what they cost, and which channels may be cut together."""

from pass_transfer.networks.cost import CostTable, count_macs, count_parameters
from pass_transfer.networks.groups import COUPLINGS, ChannelGroup, ChannelGroups, find_groups
from pass_transfer.networks.spec import (
    ARCHITECTURES,
    BackboneSpec,
    build_backbone,
    classifier_name,
    set_classifier,
)
from pass_transfer.networks.weights import load_checkpoint, load_weights

__all__ = [
    "ARCHITECTURES",
    "COUPLINGS",
    "BackboneSpec",
    "ChannelGroup",
    "ChannelGroups",
    "CostTable",
    "build_backbone",
    "classifier_name",
    "count_macs",
    "count_parameters",
    "find_groups",
    "load_checkpoint",
    "load_weights",
    "set_classifier",
]
