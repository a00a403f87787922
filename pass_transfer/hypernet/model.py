"""PASS: a recurrent hypernetwork that reads a prompt and a backbone's weights and scores its channels.

arXiv 2407.17412, section 3: the encoded prompt is the LSTM's initial state, the layers'
in-pruned weights are its inputs in forward order, one linear head a layer gives that
layer's channel scores. Here every step also hears of the prompt itself (an initial state
alone is forgotten), past the LSTM too. Scores are a prior and a bounded correction: what
the heads say with the prompt, less what they would say without one. A channel group's
correction joins those of its convolutions.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from pass_transfer.backbones import ChannelGroups
from pass_transfer.hypernet.config import HypernetConfig
from pass_transfer.hypernet.cores import make_core
from pass_transfer.hypernet.encoder import PromptEncoder
from pass_transfer.hypernet.weights import LayerWeights
from pass_transfer.selection import highest

HEAD_SPREAD = 0.05  # of initial head weights


class Hypernet(nn.Module):
    """Scores for every channel group of one backbone.

    Args:
        config: shape and scale.
        backbone: the network whose weights are read (not kept as a submodule).
        groups: its channel groups.
        prior: scores (width,) for each group with mean 0 and variance 1, or None.
    """

    def __init__(self, config: HypernetConfig, backbone: nn.Module, groups: ChannelGroups, prior: dict[str, torch.Tensor] | None = None):
        super().__init__()
        self.config, self.groups = config, groups
        self.encoder = PromptEncoder(config.encoder, config.hidden, len(groups.steps))
        if config.core == "lstm":
            self.lstm = nn.LSTM(config.pooled + config.hidden, config.hidden)
            self.cell = nn.Parameter(torch.zeros(config.hidden))
        else:
            self.core = make_core(config.core, config.pooled + 2 * config.hidden, config.hidden)
        self.heads = nn.ModuleList(nn.Linear(config.hidden, _units(groups, step), bias=False) for step in groups.steps)
        for head in self.heads:
            nn.init.normal_(head.weight, std=HEAD_SPREAD)
        self.register_buffer("prior", _flat(groups, prior))
        self.weights = LayerWeights(backbone, groups, config.pooled)

    def reading(self, backbone: nn.Module, prior: dict[str, torch.Tensor] | None) -> Hypernet:
        """A copy that reads another backbone of the same groups and corrects another prior."""
        other = copy.deepcopy(self)
        other.prior = _flat(self.groups, prior)
        other.weights = LayerWeights(backbone, self.groups, self.config.pooled)
        return other

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        """Scores (total,) over all groups for a prompt's frame (3, S, S), all on one scale; a frame of zeros has the prior's, if prompts are heard."""
        codes, prior = self.encoder(frame), self.prior.to(frame.dtype)
        codes = codes if self.config.hears_prompt else torch.zeros_like(codes)
        fed = self._reference_mask(prior)
        scores = prior
        for number in range(self.config.iterations):
            scores = prior + self._correction(codes, fed)
            if number + 1 < self.config.iterations:
                fed = (fed * (number + 1) + self._reference_mask(scores)) / (number + 2)
        return scores

    def _reference_mask(self, scores: torch.Tensor) -> torch.Tensor:
        return highest(scores.detach(), self.groups, self.config.reference_density)

    def _correction(self, codes: torch.Tensor, fed: torch.Tensor) -> torch.Tensor:
        """Bounded corrections (total,) with mean zero inside each group."""
        vectors = self.weights.vectors(self.groups.split(fed)).to(codes)
        vectors = vectors if self.config.reads_weights else torch.zeros_like(vectors)
        spoken = self._recur(codes, vectors)
        if self.config.hears_prompt:
            spoken = spoken - self._recur(torch.zeros_like(codes), vectors)
        raw = {step: head(row) for step, head, row in zip(self.groups.steps, self.heads, spoken)}
        bound, parts = self.config.correction, []
        for group in self.groups.values():
            members = [_per_unit(raw[n], group.writes[n], group.width) for n in group.writes if n in raw]
            inside = bound * torch.tanh(torch.stack(members).sum(0) / (bound * math.sqrt(len(members))))
            parts.append(inside - inside.mean())
        return torch.cat(parts)

    def _recur(self, codes: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """What every step hears of the prompt and the core makes of it and of the layers' vectors, (steps, hidden)."""
        inputs = torch.cat([vectors, codes[1:]], dim=1)
        if self.config.core != "lstm":
            return self.core(torch.cat([inputs, codes[:1].expand(len(inputs), -1)], dim=1)) + codes[1:]
        outputs, _ = self.lstm(inputs[:, None], (codes[None, None, 0], self.cell[None, None].to(codes)))
        return outputs[:, 0] + codes[1:]


def _flat(groups: ChannelGroups, prior: dict[str, torch.Tensor] | None) -> torch.Tensor:
    """A prior over all groups (total,) float32; zeros where there is none."""
    return (groups.join(prior) if prior is not None else torch.zeros(groups.total)).float()


def _units(groups: ChannelGroups, step: str) -> int:
    """Output channels of a step's convolution that a group holds; one for a convolution in none."""
    return next((len(g.writes[step]) for g in groups.values() if step in g.writes), 1)


def _per_unit(values: torch.Tensor, units: torch.Tensor, width: int) -> torch.Tensor:
    """Mean of channel values (C,) over each unit's channels, (width,)."""
    if len(values) == width:
        return values[torch.argsort(units.to(values.device))]
    sums = values.new_zeros(width).index_add(0, units.to(values.device), values)
    return sums * width / len(values)
