"""A module of one's own in Python to a small one, by magnitude or for a task.

small = pt.prune(module, torch.rand(1, 3, 224, 224), macs=0.5)
result = pt.prune(module, example, task="folder:photos", macs=0.5, out="runs/photos")
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from pass_transfer.arguments import check_is, named
from pass_transfer.errors import UsageError
from pass_transfer.masking.agreement import check_agreement
from pass_transfer.networks import (
    BackboneSpec,
    ChannelGroups,
    build_backbone,
    classifier_of,
    classifier_sizes,
    find_groups,
    register_network,
    set_classifier,
)
from pass_transfer.networks.builders import is_registered
from pass_transfer.networks.layers.open_attention import open_attention
from pass_transfer.networks.outline import outline
from pass_transfer.networks.plain_weights import check_plain_weights
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.recipes.adapt import adapt
from pass_transfer.recipes.given_network import NamedModule
from pass_transfer.recipes.options import refuse_unknown, take_budget
from pass_transfer.scoring.magnitude import group_l1, group_l2
from pass_transfer.scoring.pretrained import cut_network
from pass_transfer.scoring.prior import standardise
from pass_transfer.surroundings import as_guest

INPUTS = ("mean", "std", "crop_share", "interpolation", "fit")  # of BackboneSpec, beside the size
Measure = Callable[[nn.Module, ChannelGroups], Mapping[str, torch.Tensor]]


def _uniform_l1(network: nn.Module, groups: ChannelGroups) -> Mapping[str, torch.Tensor]:
    return standardise(group_l1(network, groups))


MAGNITUDES: dict[str, Measure] = {
    "uniform_l1": _uniform_l1,
    "group_l1": group_l1,
    "group_l2": group_l2,
}
_copied: set[str] = set()  # names that are known from a module alone, and not from a builder


@overload
def prune(
    module: nn.Module,
    example: torch.Tensor,
    *,
    task: str,
    out: str | Path,
    name: str | None = None,
    **options: Any,
) -> dict[str, Any]: ...


@overload
def prune(
    module: nn.Module, example: torch.Tensor, *, task: None = None, **options: Any
) -> nn.Module: ...


@as_guest
def prune(
    module: nn.Module,
    example: torch.Tensor,
    *,
    task: str | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    **options: Any,
) -> nn.Module | dict[str, Any]:
    """Cut a classification network that is in memory; the module itself stays as it is.

    Args:
        module: from normalised images (B, 3, S, S) to logits (B, classes).
        example: such images; their side S is the image size.
        task, out: with a task, the network is cut for it as adapt does it, into the run folder
            out.
        name: what the network is called in the run; its class's name without one. load_pruned
            knows it in another process where it is given to register_network first.
        options: the budget, as budget= or as the arguments of Budget, such as macs=0.5; method.
            Without a task that is "uniform_l1", "group_l1" or "group_l2". With one it is any
            that needs no hypernetwork, "selection" by default; also mean, std, crop_share,
            interpolation and fit of BackboneSpec (those of ImageNet by default), and what adapt
            takes.

    Returns:
        Without a task a smaller module in eval mode, to be fine-tuned; with one the content of
        result.json.

    Raises PassTransferError: see Budget, find_groups and adapt.
    """
    size = _size(module, example)
    check_plain_weights(module)
    if task is None:
        if out is not None:
            raise UsageError("out goes with a task; without one a module is returned", "out")
        return _by_magnitude(module, size, options)
    if out is None:
        raise UsageError("out is missing; give the run folder to write", "out")
    whole = open_attention(copy.deepcopy(module).cpu().float().eval())
    inputs = {field: options.pop(field) for field in INPUTS if field in options}
    called = name or type(module).__name__
    spec = BackboneSpec(called, classifier_sizes(whole)[1], size, **inputs)
    _make_known(whole, spec)
    return adapt(task=task, out=out, network=NamedModule(whole, spec), **options)


def _size(module: nn.Module, example: torch.Tensor) -> int:
    """The side of the example's images. Raises UsageError for what is no example of them."""
    check_is("module", module, nn.Module, "a network")
    check_is("example", example, torch.Tensor, "a tensor of images (B, 3, S, S)")
    if any(parameter.is_meta for parameter in module.parameters()):
        raise UsageError("module has no values, being on the device 'meta'; load some", "module")
    shape = tuple(example.shape)
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
        raise UsageError(f"example is {shape}; it is a tensor of images (B, 3, S, S)", "example")
    return shape[2]


def _by_magnitude(module: nn.Module, size: int, options: dict[str, Any]) -> nn.Module:
    """A cut copy of a module, whose channels of the least magnitude are gone."""
    budget, method = take_budget(options), options.pop("method", "uniform_l1")
    refuse_unknown(options, "prune without a task")
    if method not in MAGNITUDES:
        allowed = ", ".join(MAGNITUDES)
        raise UsageError(
            f"method is {named(method)}; without a task it is one of {allowed}", "method"
        )
    whole = open_attention(copy.deepcopy(module).eval())
    groups = find_groups(whole, size)
    check_agreement(whole, groups, size)
    spec = BackboneSpec(type(module).__name__, classifier_sizes(whole)[1], size)
    dense = PretrainedBackbone(whole, spec, groups, spec.architecture)
    scores = MAGNITUDES[method](whole, groups)
    masks = budget.cut(scores, cut_network(dense, None, None, "cpu"))
    return dense.network(masks).backbone


def _make_known(module: nn.Module, spec: BackboneSpec) -> None:
    """Register a module under its name, if no builder is there for that.

    Raises UsageError where the name is another network's.
    """
    called = spec.architecture
    if not is_registered(called) or called in _copied:
        register_network(called, _builder(module))
        _copied.add(called)
        return
    known = {n: t.shape for n, t in outline(lambda: build_backbone(spec)).state_dict().items()}
    own = {n: t.shape for n, t in module.state_dict().items()}
    odd = sorted(n for n in {*known, *own} if known.get(n) != own.get(n))
    if odd:
        raise UsageError(
            f"name is {named(called)}, which is that of another network (its tensor {odd[0]} is "
            "not this module's); give another name",
            "name",
        )


def _builder(module: nn.Module) -> Callable[[int], nn.Module]:
    """What builds networks like a module, for any number of classes."""
    like = copy.deepcopy(module)

    def build(classes: int) -> nn.Module:
        network = copy.deepcopy(like).to(torch.get_default_device())
        features, _ = classifier_sizes(network)
        bias = classifier_of(network).bias is not None
        set_classifier(network, nn.Linear(features, classes, bias=bias))
        return network

    return build
