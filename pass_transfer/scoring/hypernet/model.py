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

from pass_transfer.budgets.ranking import top_share
from pass_transfer.networks import ChannelGroups
from pass_transfer.scoring.hypernet.config import HypernetConfig
from pass_transfer.scoring.hypernet.cores import make_core
from pass_transfer.scoring.hypernet.encoder import PromptEncoder
from pass_transfer.scoring.hypernet.weights import LayerWeights

HEAD_SPREAD = 0.05  # of initial head weights


class Hypernet(nn.Module):
    """Scores for every channel group of one backbone.

    Args:
        config: shape and scale.
        backbone: the network whose weights are read (not kept as a submodule).
        groups: its channel groups.
        prior: scores (width,) for each group with mean 0 and variance 1, or None.
    """

    def __init__(
        self,
        config: HypernetConfig,
        backbone: nn.Module,
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
            nn.init.normal_(head.weight, std=HEAD_SPREAD)
        self.register_buffer("prior", _flat(groups, prior))
        self.places: dict[str, dict[str, str]] = {
            group.name: {} for group in groups.values()
        }  # of each group's members, the buffer with their units
        for number, (group, step) in enumerate(
            (group, step)
            for group in groups.values()
            for step in group.writes
            if step in groups.steps
        ):
            units = group.writes[step]
            self.places[group.name][step] = f"units{number}"
            self.register_buffer(
                f"units{number}",
                torch.argsort(units) if len(units) == group.width else units,
                persistent=False,
            )
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
        return top_share(scores.detach(), self.groups, self.config.reference_density).mask

    def _correction(self, codes: torch.Tensor, fed: torch.Tensor) -> torch.Tensor:
        """Bounded corrections (total,) with mean zero inside each group."""
        vectors = self.weights.vectors(fed).to(codes)
        vectors = vectors if self.config.reads_weights else torch.zeros_like(vectors)
        if self.config.hears_prompt:
            spoken, silent = self._recur(torch.stack([codes, torch.zeros_like(codes)]), vectors)
            spoken = spoken - silent
        else:
            (spoken,) = self._recur(codes[None], vectors)
        raw = {step: head(row) for step, head, row in zip(self.groups.steps, self.heads, spoken)}
        bound, parts = self.config.correction, []
        for group in self.groups.values():
            members = [
                _per_unit(raw[n], getattr(self, place), group.width)
                for n, place in self.places[group.name].items()
            ]
            inside = bound * torch.tanh(
                torch.stack(members).sum(0) / (bound * math.sqrt(len(members)))
            )
            parts.append(inside - inside.mean())
        return torch.cat(parts)

    def _recur(self, codes: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """What every step hears of each prompt's codes (prompts, 1 + steps, hidden) and the core makes of it and of the layers' vectors, (prompts, steps, hidden)."""
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
    """Output channels of a step's convolution that a group holds; one for a convolution in none."""
    return next((len(g.writes[step]) for g in groups.values() if step in g.writes), 1)


def _per_unit(values: torch.Tensor, places: torch.Tensor, width: int) -> torch.Tensor:
    """Mean of channel values (C,) over each unit's channels, (width,); places are the units' channels, or the channels' units where a unit has several."""
    return (
        values[places]
        if len(values) == width
        else values.new_zeros(width).index_add(0, places, values) * width / len(values)
    )
