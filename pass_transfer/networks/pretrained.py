"""A pretrained network as a whole: its weights, what it takes in, its channel groups and cost."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from pass_transfer.networks.classifier import classifier_sizes, set_classifier
from pass_transfer.networks.cost import CostTable
from pass_transfer.networks.groups import ChannelGroups
from pass_transfer.networks.network import Network
from pass_transfer.networks.removal import remove_channels
from pass_transfer.networks.spec import BackboneSpec
from pass_transfer.preprocessing import SQUASHED


class PretrainedBackbone:
    """A dense network that small ones are made from. It never changes; what it gives are copies.

    Args:
        module: in eval mode from then on.
        spec: its architecture, number of classes, size and preprocessing.
        groups: its channel groups.
        name: what it is called in messages.
        prompt: on images in [0, 1], if it always stands before the network.
        kept: the units of the architecture's groups that it has, where it was cut before.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: BackboneSpec,
        groups: ChannelGroups,
        name: str,
        prompt: nn.Module | None = None,
        kept: Mapping[str, Sequence[int]] | None = None,
    ):
        self.module, self.spec, self.groups, self.name = module.eval(), spec, groups, name
        self.prompt, self.kept = prompt, kept
        self.table = CostTable(module, groups, spec.image_size)

    def squashing(self) -> PretrainedBackbone:
        """The same network for squashed images, as runs of before have them."""
        other = copy.copy(self)
        other.spec = dataclasses.replace(self.spec, **SQUASHED)
        return other

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
            prompt: copied into it, in place of the network's own.
            classes: of a task, whose classifier is new and untrained then.
        """
        small = self.fresh()
        if classes is not None:
            features, _ = classifier_sizes(small)
            set_classifier(small, nn.Linear(features, classes))
        if masks is not None:
            small = remove_channels(small, masks, self.groups)
        before = copy.deepcopy(self.prompt if prompt is None else prompt)
        return Network(small, self.spec.mean, self.spec.std, before).eval()

    def units(self, masks: Mapping[str, torch.Tensor] | None = None) -> dict[str, list[int]]:
        """The units of the architecture's groups that are left under masks; all without any."""
        found = {}
        for name, group in self.groups.items():
            own = list(range(group.width) if self.kept is None else self.kept[name])
            left = range(group.width) if masks is None else masks[name].nonzero().flatten().tolist()
            found[name] = [own[number] for number in left]
        return found

    def macs_share(self, kept: Mapping[str, int], classes: int) -> float:
        """MACs with so many units kept, as a share of the dense network's, for a task's classes."""
        table = self.table.with_classes(classes)
        return table.macs(kept) / table.dense
