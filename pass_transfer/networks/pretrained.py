"""A pretrained network as a whole: its weights, what it takes in, its channel groups and cost."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from pass_transfer.networks.classifier import classifier_of, set_classifier
from pass_transfer.networks.cost import CostTable
from pass_transfer.networks.groups import ChannelGroups
from pass_transfer.networks.network import Network
from pass_transfer.networks.removal import remove_channels
from pass_transfer.networks.spec import BackboneSpec


class PretrainedBackbone:
    """A dense network that small ones are made from. It never changes; what it gives are copies.

    Args:
        module: in eval mode from then on.
        spec: its architecture, number of classes, size and preprocessing.
        groups: its channel groups.
        name: what it is called in messages.
    """

    def __init__(self, module: nn.Module, spec: BackboneSpec, groups: ChannelGroups, name: str):
        self.module, self.spec, self.groups, self.name = module.eval(), spec, groups, name
        self.table = CostTable(module, groups, spec.image_size)

    def fresh(self) -> nn.Module:
        """A copy of the network with its own classifier, in eval mode."""
        return copy.deepcopy(self.module)

    def network(
        self,
        masks: Mapping[str, torch.Tensor] | None = None,
        prompt: nn.Module | None = None,
        classes: int | None = None,
    ) -> Network:
        """What would be deployed, before any training, in eval mode.

        Args:
            masks: bool (width,) of each channel group; the whole network without them.
            prompt: copied into it.
            classes: of a task, whose classifier is new and untrained then.
        """
        small = self.fresh()
        if classes is not None:
            features = classifier_of(small).in_features
            set_classifier(small, nn.Linear(features, classes))
        if masks is not None:
            small = remove_channels(small, masks, self.groups)
        return Network(small, self.spec.mean, self.spec.std, copy.deepcopy(prompt)).eval()

    def macs_share(self, kept: Mapping[str, int], classes: int) -> float:
        """MACs with so many units kept, as a share of the dense network's, for a task's classes."""
        table = self.table.with_classes(classes)
        return table.macs(kept) / table.dense
