"""A hypernetwork with the backbone it was trained for: from a prompt to scores and masks."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pass_transfer.budgets.latency import LatencyBudget, check_reachable, fit_latency
from pass_transfer.budgets.ranking import RankedCuts, select
from pass_transfer.errors import BackboneError, UsageError
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import BackboneSpec, CostTable, classifier_name, set_classifier
from pass_transfer.networks.network import Network
from pass_transfer.networks.removal import remove_channels
from pass_transfer.networks.weights import fingerprint
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.hypernet import Hypernet
from pass_transfer.scoring.prior import make_prior


class PretrainedHypernet:
    """A frozen hypernetwork with the backbone it belongs to.

    Attributes:
        spec: the backbone's architecture, size and preprocessing.
        groups: its channel groups.
        table: its MACs and parameters at any widths.
        config: the entry's config.json.
        net: the Hypernet itself (float32).
        name: what it was loaded by.
        own_weights: whether the backbone's weights are one's own, and not those it was trained with.
    """

    def __init__(
        self,
        net: Hypernet,
        backbone: nn.Module,
        prompt: Prompt,
        spec: BackboneSpec,
        config: Mapping[str, Any],
        name: str,
        own_weights: bool = False,
    ):
        self.name, self.own_weights = name, own_weights
        self.net, self.spec, self.config = net.eval().requires_grad_(False), spec, config
        self._backbone, self._prompt = backbone.eval(), prompt
        self.groups = net.groups
        self.table = CostTable(backbone, self.groups, spec.image_size)

    def __repr__(self) -> str:
        return f"PretrainedHypernet({self.spec.architecture}, {self.spec.image_size} px, source {self.config['source']['task']})"

    def backbone(self) -> nn.Module:
        """A fresh copy of the dense backbone with the source task's classifier, in eval mode."""
        return copy.deepcopy(self._backbone)

    def prompt(self) -> Prompt:
        """A fresh copy of the source task's prompt."""
        return copy.deepcopy(self._prompt)

    def with_backbone(
        self, backbone: nn.Module, prior: Mapping[str, torch.Tensor] | None = None
    ) -> PretrainedHypernet:
        """The same hypernetwork and prompt on other weights of its architecture, which it then reads.

        Args:
            backbone: copied; its classifier may have any number of classes.
            prior: scores (width,) of every channel group, standardised (scoring/prior.py);
                the magnitude of the backbone's weights, if not given.

        Raises:
            BackboneError: a network of another architecture, or a prior of other groups; what does not fit is named.
        """
        head = classifier_name(self._backbone) + "."
        own, given = (
            {n: t.shape for n, t in network.state_dict().items() if not n.startswith(head)}
            for network in (self._backbone, backbone)
        )
        odd = sorted(n for n in {*own, *given} if own.get(n) != given.get(n))
        if odd:
            raise BackboneError(
                f"the tensor {odd[0]} is not that of {self.spec.architecture}, which {self.name} was trained for"
            )
        prior = (
            make_prior(self.net.config.prior, backbone, self.groups, self.spec.image_size)
            if prior is None
            else self._checked(prior)
        )
        spec = dataclasses.replace(
            self.spec, classes=backbone.get_submodule(classifier_name(backbone)).out_features
        )
        config = {**self.config, "fingerprint": fingerprint(backbone.state_dict())}
        return PretrainedHypernet(
            self.net.reading(backbone, prior),
            copy.deepcopy(backbone),
            self.prompt(),
            spec,
            config,
            self.name,
            own_weights=True,
        )

    def with_prior(self, prior: Mapping[str, torch.Tensor]) -> PretrainedHypernet:
        """The same hypernetwork correcting another prior (width,) of every channel group. Raises BackboneError for one of other groups."""
        net = self.net.reading(self._backbone, self._checked(prior))
        return PretrainedHypernet(
            net, self.backbone(), self.prompt(), self.spec, self.config, self.name, self.own_weights
        )

    def _checked(self, prior: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        if {n: tuple(p.shape) for n, p in prior.items()} != {
            n: (g.width,) for n, g in self.groups.items()
        }:
            raise BackboneError(
                f"this prior is not one of the channel groups of {self.spec.architecture}"
            )
        return prior

    def scores(self, prompt: Prompt) -> dict[str, torch.Tensor]:
        """Scores (width,) of every channel group, float64.

        On the CPU with one thread whatever else is set, so that a prompt has the same
        scores in every process.
        """
        if prompt.size != self.spec.image_size:
            raise UsageError(
                f"this prompt is for images of {prompt.size} pixels; the hypernetwork's backbone takes {self.spec.image_size}"
            )
        net = copy.deepcopy(self.net).to("cpu", torch.float64)
        with torch.no_grad(), _one_thread():
            return self.groups.split(net(prompt.frame().detach().to("cpu", torch.float64)))

    def generate_masks(
        self,
        prompt: Prompt,
        *,
        density: float | None = None,
        macs: float | str | None = None,
        params: float | str | None = None,
        latency_ms: float | None = None,
        batch: int = 1,
        device: str | torch.device = "cpu",
        uniform: bool = False,
        round_to: int = 1,
        keep_layers: Sequence[str] = (),
        classes: int | None = None,
    ) -> ChannelMasks:
        """Masks for a prompt within a budget; a smaller budget's channels are a subset of a larger one's.

        Args:
            prompt: of the source task (`prompt()`) or tuned on another.
            density: share of all channels to keep, or
            macs: what to stay within, as a share of the dense network's MACs or an amount ("70M"), or
            params: the same of its parameters, or
            latency_ms: milliseconds that `batch` images may take on `device`, measured now (the prompt inside): these masks depend on the machine and its mood.
            uniform, round_to, keep_layers: see selection.RankedCuts.
            classes: of the task, if its classifier is to be counted instead of the source's.

        Raises:
            UsageError, MaskError: see selection.select and latency_budget.fit_latency.
        """
        how = {"uniform": uniform, "round_to": round_to, "keep_layers": keep_layers}
        if latency_ms is None:
            table = self.table if classes is None else self.table.with_classes(classes)
            return select(
                self.scores(prompt),
                self.groups,
                density=density,
                macs=macs,
                params=params,
                table=table,
                **how,
            )
        if not density is macs is params is None:
            raise UsageError("give exactly one budget: density=, macs=, params= or latency_ms=")
        return fit_latency(
            RankedCuts(self.scores(prompt), self.groups, **how),
            *self._timed(prompt, latency_ms, batch, device, classes),
        )

    def check_budget(
        self,
        prompt: Prompt,
        *,
        latency_ms: float | None = None,
        batch: int = 1,
        device: str | torch.device = "cpu",
        classes: int | None = None,
        density: float | None = None,
        macs: float | str | None = None,
        params: float | str | None = None,
        **how: Any,
    ) -> None:
        """Refuse a budget that cannot be met before any work is done for it; arguments and errors as of generate_masks. Of milliseconds only the smallest cut is measured."""
        if latency_ms is None:
            self.generate_masks(
                prompt, density=density, macs=macs, params=params, classes=classes, **how
            )
        else:
            check_reachable(
                RankedCuts(self.scores(prompt), self.groups, **how),
                *self._timed(prompt, latency_ms, batch, device, classes),
            )

    def _timed(
        self,
        prompt: Prompt,
        latency_ms: float,
        batch: int,
        device: str | torch.device,
        classes: int | None,
    ):
        """What is measured of a cut, within which budget, at which size."""

        def network(masks: ChannelMasks) -> Network:
            return self.network(masks, prompt, classes).to(
                device, memory_format=torch.channels_last
            )

        return network, LatencyBudget(latency_ms, batch), self.spec.image_size

    def network(
        self,
        masks: ChannelMasks | None = None,
        prompt: Prompt | None = None,
        classes: int | None = None,
    ) -> Network:
        """What would be deployed, before any training, in eval mode; with an untrained classifier where the task's `classes` are given."""
        backbone = self.backbone()
        if classes is not None:
            set_classifier(
                backbone,
                nn.Linear(backbone.get_submodule(classifier_name(backbone)).in_features, classes),
            )
        small = backbone if masks is None else remove_channels(backbone, masks, self.groups)
        return Network(small, self.spec.mean, self.spec.std, copy.deepcopy(prompt)).eval()

    def fingerprint(self) -> str:
        """sha-256 over the weights of backbone, hypernetwork and prompt: whether two entries are the same."""
        parts = {
            "net": fingerprint(self.net.state_dict()),
            "prompt": fingerprint(self._prompt.state_dict()),
            "backbone": self.config["fingerprint"],
        }
        return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()

    def macs_share(self, masks: ChannelMasks, classes: int) -> float:
        """MACs under masks, as a share of the dense network's, with a classifier for `classes`."""
        table = self.table.with_classes(classes)
        return table.macs(masks.kept) / table.dense


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
