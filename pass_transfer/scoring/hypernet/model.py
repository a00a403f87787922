"""PASS: a recurrent hypernetwork that reads a prompt and a backbone and scores its channels.

arXiv 2407.17412, section 3: the encoded prompt is the LSTM's initial state, the layers'
in-pruned weights are its inputs in forward order, one linear head a layer gives that
layer's channel scores. Here every step also hears of the prompt itself (an initial state
alone is forgotten), past the LSTM too. Scores are a prior and a bounded correction: what
the heads say with the prompt, less what they would say without one. A channel group's
correction joins those of its steps.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from pass_transfer.budgets.ranking import top_share
from pass_transfer.networks import ChannelGroup, ChannelGroups
from pass_transfer.scoring.hypernet.config import HypernetConfig
from pass_transfer.scoring.hypernet.cores import make_core
from pass_transfer.scoring.hypernet.encoder import PromptEncoder
from pass_transfer.scoring.hypernet.weights import LayerWeights

HEAD_SPREAD = 0.05  # of initial head weights


class Hypernet(nn.Module):
    """Scores for every channel group of one backbone.

    Args:
        config: shape and scale.
        backbone: the network whose weights are read (not kept as a submodule); None for an
            outline, which has its tensors' shapes alone.
        groups: its channel groups.
        prior: scores (width,) for each group with mean 0 and variance 1, or None.
    """

    prior: torch.Tensor

    def __init__(
        self,
        config: HypernetConfig,
        backbone: nn.Module | None,
        groups: ChannelGroups,
        prior: dict[str, torch.Tensor] | None = None,
    ):
        super().__init__()
        self.config, self.groups = config, groups
        self.encoder = PromptEncoder(config.encoder, config.hidden, len(groups.steps))
        if config.core == "lstm":
            self.lstm = nn.LSTM(config.pooled + config.hidden, config.hidden)
            self.cell = nn.Parameter(torch.zeros(config.hidden))
        else:
            self.core = make_core(config.core, config.pooled + 2 * config.hidden, config.hidden)
        self.heads = nn.ModuleList(
            nn.Linear(config.hidden, _units(groups, step), bias=False) for step in groups.steps
        )
        for head in self.heads:
            nn.init.normal_(head.get_parameter("weight"), std=HEAD_SPREAD)
        self.register_buffer("prior", _flat(groups, prior))
        self.places = self._register_units()
        if backbone is not None:
            self.weights = LayerWeights(backbone, groups, config.pooled)

    def _register_units(self) -> dict[str, dict[str, str]]:
        """Of each group's steps, the name of the buffer that says which unit is which channel."""
        places: dict[str, dict[str, str]] = {}
        number = 0
        for group in self.groups.values():
            places[group.name] = {}
            for layer, units in group.writes.items():
                if layer not in self.groups.steps:
                    continue
                name = f"units{number}"
                places[group.name][layer] = name
                if group.products:
                    units = torch.arange(group.width)
                elif len(units) == group.width:
                    units = torch.argsort(units)
                self.register_buffer(name, units, persistent=False)
                number += 1
        return places

    def reading(self, backbone: nn.Module, prior: dict[str, torch.Tensor] | None) -> Hypernet:
        """A copy that reads another backbone of the same groups and corrects another prior."""
        other = copy.deepcopy(self)
        other.prior = _flat(self.groups, prior)
        other.weights = LayerWeights(backbone, self.groups, self.config.pooled)
        return other

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        """Scores (total,) over all groups for a prompt's frame (3, S, S), all on one scale.

        A frame of zeros has the prior's scores, if the prompt is used at all.
        """
        codes, prior = self.encoder(frame), self.prior.to(frame.dtype)
        codes = codes if self.config.uses_prompt else torch.zeros_like(codes)
        fed = self._reference_mask(prior)
        scores = prior
        for number in range(self.config.iterations):
            scores = prior + self._correction(codes, fed)
            if number + 1 < self.config.iterations:
                fed = (fed * (number + 1) + self._reference_mask(scores)) / (number + 2)
        return scores

    def _reference_mask(self, scores: torch.Tensor) -> torch.Tensor:
        return top_share(scores.detach(), self.groups, self.config.reference_density).mask

    def _correction(self, codes: torch.Tensor, fed: torch.Tensor) -> torch.Tensor:
        """Bounded corrections (total,) with mean zero inside each group."""
        vectors = self.weights.vectors(fed).to(codes)
        vectors = vectors if self.config.reads_weights else torch.zeros_like(vectors)
        if self.config.uses_prompt:
            both = self._recur(torch.stack([codes, torch.zeros_like(codes)]), vectors)
            with_prompt, without = both
            said = with_prompt - without
        else:
            (said,) = self._recur(codes[None], vectors)
        raw = {step: head(row) for step, head, row in zip(self.groups.steps, self.heads, said)}
        corrections = [self._of_group(group, raw) for group in self.groups.values()]
        return torch.cat(corrections)

    def _of_group(self, group: ChannelGroup, raw: dict[str, torch.Tensor]) -> torch.Tensor:
        """A group's correction (width,): its steps' joined, bounded, with mean zero."""
        members = [
            _per_unit(raw[step], self.get_buffer(place), group.width)
            for step, place in self.places[group.name].items()
        ]
        bound = self.config.correction
        spread = bound * math.sqrt(len(members))
        inside = bound * torch.tanh(torch.stack(members).sum(0) / spread)
        return inside - inside.mean()

    def _recur(self, codes: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """What the core and the prompt say at every step, (prompts, steps, hidden).

        Args:
            codes: (prompts, 1 + steps, hidden), the whole prompt's and then each step's.
            vectors: (steps, pooled), the layers' weights.
        """
        whole, heard = codes[:, 0], codes[:, 1:]
        inputs = torch.cat([vectors.expand(len(codes), -1, -1), heard], dim=2)
        if self.config.core != "lstm":
            inputs = torch.cat([inputs, whole[:, None].expand_as(heard)], dim=2)
            return torch.stack([self.core(rows) for rows in inputs]) + heard
        outputs, _ = self.lstm(
            inputs.transpose(0, 1),
            (whole[None].contiguous(), self.cell.to(codes).expand(1, len(codes), -1).contiguous()),
        )
        return outputs.transpose(0, 1) + heard


def _flat(groups: ChannelGroups, prior: dict[str, torch.Tensor] | None) -> torch.Tensor:
    """A prior over all groups (total,) float32; zeros where there is none."""
    return (groups.join(prior) if prior is not None else torch.zeros(groups.total)).float()


def _units(groups: ChannelGroups, step: str) -> int:
    """How many scores a step's head gives: one for each channel that its layer writes.

    One for each head of attention, whose channels are many; one for a layer that writes none.
    """
    group = next((group for group in groups.values() if step in group.writes), None)
    if group is None:
        return 1
    return group.width if group.products else len(group.writes[step])


def _per_unit(values: torch.Tensor, places: torch.Tensor, width: int) -> torch.Tensor:
    """Mean of channel values (C,) over each unit's channels, (width,).

    Args:
        places: the channel of each unit; where a unit has several, the unit of each channel.
    """
    if len(values) == width:
        return values[places]
    return values.new_zeros(width).index_add(0, places, values) * width / len(values)
