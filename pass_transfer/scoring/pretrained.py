"""A hypernetwork with the backbone it was trained for: from a prompt to scores and masks."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pass_transfer.arguments import check_is, named
from pass_transfer.budgets import Budget, CutNetwork, choose_budget
from pass_transfer.errors import BackboneError, UsageError
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import (
    BackboneSpec,
    ChannelGroups,
    CostTable,
    classifier_name,
    classifier_sizes,
)
from pass_transfer.networks.network import Network
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.networks.weights import fingerprint
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.hypernet import Hypernet
from pass_transfer.scoring.prior import make_prior
from pass_transfer.settings import is_whole
from pass_transfer.surroundings import as_guest, in_own_modes


class PretrainedHypernet:
    """A frozen hypernetwork with the backbone it belongs to.

    Attributes:
        net: the Hypernet itself (float32).
        dense: the backbone with its spec, channel groups and cost.
        config: the entry's config.json.
        own_weights: whether the backbone's weights are one's own, and not those that the
            hypernetwork was trained with.
    """

    def __init__(
        self,
        net: Hypernet,
        dense: PretrainedBackbone,
        prompt: Prompt,
        config: Mapping[str, Any],
        own_weights: bool = False,
    ):
        self.net, self.dense = net.eval().requires_grad_(False), dense
        self.config, self.own_weights = config, own_weights
        self._prompt = prompt

    def __repr__(self) -> str:
        source = self.config["source"]["task"]
        size = self.spec.image_size
        return f"PretrainedHypernet({self.spec.architecture}, {size} px, source {source})"

    @property
    def name(self) -> str:
        """What it was loaded by."""
        return self.dense.name

    @property
    def spec(self) -> BackboneSpec:
        """The backbone's architecture, size and preprocessing."""
        return self.dense.spec

    @property
    def groups(self) -> ChannelGroups:
        """The backbone's channel groups."""
        return self.dense.groups

    @property
    def table(self) -> CostTable:
        """The backbone's MACs and parameters at any widths."""
        return self.dense.table

    @in_own_modes
    def backbone(self) -> nn.Module:
        """A fresh copy of the dense backbone with the source task's classifier, in eval mode."""
        return self.dense.fresh()

    @in_own_modes
    def prompt(self) -> Prompt:
        """A fresh copy of the source task's prompt."""
        return copy.deepcopy(self._prompt)

    @as_guest
    def with_backbone(
        self, backbone: nn.Module, prior: Mapping[str, torch.Tensor] | None = None
    ) -> PretrainedHypernet:
        """The same hypernetwork and prompt on other weights of its architecture.

        Args:
            backbone: copied; its classifier may have any number of classes.
            prior: scores (width,) of every channel group, standardised (scoring/prior.py);
                the magnitude of the backbone's weights, if not given.

        Raises:
            BackboneError: a network of another architecture, or a prior of other groups; what
                does not fit is named.
        """
        check_is("backbone", backbone, nn.Module, "a network")
        backbone = copy.deepcopy(backbone)
        self._check_architecture(backbone)
        if prior is None:
            kind = self.net.config.prior
            own_prior = make_prior(kind, backbone, self.groups)
        else:
            own_prior = self._checked(prior)
        _, classes = classifier_sizes(backbone)
        spec = dataclasses.replace(self.spec, classes=classes)
        own = PretrainedBackbone(backbone, spec, self.groups, self.name)
        config = {**self.config, "fingerprint": fingerprint(backbone.state_dict())}
        net = self.net.reading(backbone, own_prior)
        return PretrainedHypernet(net, own, self.prompt(), config, own_weights=True)

    @as_guest
    def with_prior(self, prior: Mapping[str, torch.Tensor]) -> PretrainedHypernet:
        """The same hypernetwork correcting another prior (width,) of every channel group.

        Raises BackboneError for a prior of other groups.
        """
        net = self.net.reading(self.dense.module, self._checked(prior))
        return PretrainedHypernet(net, self.dense, self.prompt(), self.config, self.own_weights)

    def _check_architecture(self, backbone: nn.Module) -> None:
        own, given = _shapes(self.dense.module), _shapes(backbone)
        odd = sorted(name for name in {*own, *given} if own.get(name) != given.get(name))
        if odd:
            raise BackboneError(
                f"the tensor {odd[0]} is not that of {self.spec.architecture}, which {self.name} "
                f"was trained for"
            )

    def _checked(self, prior: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        expected = {name: (group.width,) for name, group in self.groups.items()}
        check_is("prior", prior, Mapping, "a dict of scores by channel group")
        for part in prior.values():
            check_is("prior", part, torch.Tensor, "a dict of tensors by channel group")
        if {name: tuple(part.shape) for name, part in prior.items()} != expected:
            architecture = self.spec.architecture
            raise BackboneError(f"this prior is not one of the channel groups of {architecture}")
        if not all(bool(part.isfinite().all()) for part in prior.values()):
            raise BackboneError("this prior holds NaN or infinite values")
        return dict(prior)

    @as_guest
    def scores(self, prompt: Prompt) -> dict[str, torch.Tensor]:
        """Scores (width,) of every channel group, float64; the same in every process."""
        _check_prompt(prompt, self.spec.image_size)
        return prompt_scores(self.net, prompt)

    @as_guest
    def generate_masks(
        self,
        prompt: Prompt,
        budget: Budget | None = None,
        *,
        classes: int | None = None,
        device: str | torch.device = "cpu",
        **bound: Any,
    ) -> ChannelMasks:
        """Masks for a prompt within a budget.

        A smaller budget's channels are a subset of a larger one's.

        Args:
            prompt: of the source task (`prompt()`) or tuned on another.
            budget: how much is kept; or give the arguments of Budget themselves, such as
                macs=0.4 or density=0.5, round_to=1.
            classes: of the task, if its classifier is to be counted instead of the source's.
            device: whose time counts, for a budget in milliseconds, which is measured now.

        Raises:
            UsageError, MaskError: see Budget and Budget.cut.
        """
        budget = choose_budget(budget, bound)
        return budget.cut(self.scores(prompt), self.cut_network(prompt, classes, device))

    @as_guest
    def check_budget(
        self,
        budget: Budget,
        *,
        prompt: Prompt | None = None,
        classes: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """Refuse a budget that cannot be met; arguments and errors as of generate_masks."""
        prompt, budget = self.prompt() if prompt is None else prompt, choose_budget(budget, {})
        budget.check(self.scores(prompt), self.cut_network(prompt, classes, device))

    def cut_network(
        self, prompt: Prompt | None, classes: int | None, device: str | torch.device
    ) -> CutNetwork:
        """What a budget is for: the backbone, with a prompt inside where it is timed."""
        return cut_network(self.dense, prompt, classes, device)

    @as_guest
    def network(
        self,
        masks: ChannelMasks | None = None,
        prompt: Prompt | None = None,
        classes: int | None = None,
    ) -> Network:
        """What would be deployed, before any training; see PretrainedBackbone.network."""
        check_is(
            "masks", masks, (Mapping, type(None)), "ChannelMasks, or None for the whole network"
        )
        check_is("prompt", prompt, (nn.Module, type(None)), "a Prompt, as prompt() gives, or None")
        _check_classes(classes)
        return self.dense.network(masks, prompt, classes)

    def fingerprint(self) -> str:
        """sha-256 over the weights of backbone, hypernetwork and prompt.

        Two entries are the same where it is the same.
        """
        parts = {
            "net": fingerprint(self.net.state_dict()),
            "prompt": fingerprint(self._prompt.state_dict()),
            "backbone": self.config["fingerprint"],
        }
        return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()


def cut_network(
    dense: PretrainedBackbone,
    prompt: Prompt | None,
    classes: int | None,
    device: str | torch.device,
) -> CutNetwork:
    """What a budget is for: a dense network, with a prompt inside where it is timed.

    Raises UsageError for no number of classes, or no device.
    """
    _check_classes(classes)
    _check_device(device)

    def build(masks: ChannelMasks) -> nn.Module:
        network = dense.network(masks, prompt, classes)
        return network.to(device).to(memory_format=torch.channels_last)

    table = dense.table if classes is None else dense.table.with_classes(classes)
    return CutNetwork(dense.groups, table, build, dense.spec.image_size)


def _check_prompt(prompt: Prompt, size: int) -> None:
    """Refuse what is no prompt for images of this size. Raises UsageError."""
    check_is("prompt", prompt, Prompt, "a Prompt, as prompt() gives")
    if prompt.size != size:
        raise UsageError(
            f"this prompt is for images of {prompt.size} pixels; the hypernetwork's backbone "
            f"takes {size}"
        )
    values = prompt.values
    if tuple(values.shape) != (3, size, size) or values.is_meta:
        place = " on no device" if values.is_meta else ""
        raise UsageError(
            f"the prompt's values are {tuple(values.shape)}{place}; they are (3, {size}, {size})"
        )
    with torch.no_grad():  # one made in inference mode can be in no graph
        finite = bool(values.isfinite().all())
    if not finite:
        raise UsageError("the prompt's values hold NaN or infinity; take one that was tuned")


def _check_classes(classes: int | None) -> None:
    if classes is not None and not is_whole(classes):
        message = f"classes is {named(classes)}; it is a whole number from 1"
        raise UsageError(message, "classes")


def _check_device(device: str | torch.device) -> None:
    try:
        torch.device(device)
    except (RuntimeError, TypeError) as error:
        message = f"device is {named(device)}; it is one of torch's, such as 'cpu' or 'cuda'"
        raise UsageError(message, "device") from error


def prompt_scores(net: Hypernet, prompt: Prompt) -> dict[str, torch.Tensor]:
    """Scores (width,) of every channel group that a hypernetwork gives a prompt, float64.

    On the CPU with one thread whatever else is set, so that a prompt has the same scores in
    every process.
    """
    net = copy.deepcopy(net).eval().to("cpu", torch.float64)
    frame = prompt.frame().detach().to("cpu", torch.float64)
    with torch.no_grad(), _one_thread():
        return net.groups.split(net(frame))


def _shapes(backbone: nn.Module) -> dict[str, torch.Size]:
    """Shapes of all tensors but the classifier's."""
    head = classifier_name(backbone) + "."
    state = backbone.state_dict()
    return {name: tensor.shape for name, tensor in state.items() if not name.startswith(head)}


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
