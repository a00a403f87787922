"""Logits of a backbone under masks, with batch statistics, by fused steps where there is a plan.

A group's activations are two tensors: the channels that are kept, which everything is
computed from, and the dropped ones whose mask element wants a gradient all the same. With
exact gradients these are all the others, so that a score's gradient is the true one; with
kept ones there are none, and the network runs as small as the masks make it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pass_transfer import ops
from pass_transfer.errors import KernelError
from pass_transfer.masking.fused import is_linear, run_plan
from pass_transfer.masking.hooks import batch_statistics, masked
from pass_transfer.masking.orders import counts_and_orders, ordered
from pass_transfer.masking.plan import Layer, Plan, plan_of
from pass_transfer.networks import ChannelGroups


def masked_forward(
    backbone: nn.Module,
    groups: ChannelGroups,
    masks: Mapping[str, Tensor],
    x: Tensor,
    gradient: str = "exact",
    margins: Mapping[str, Tensor] | None = None,
    capacity: Mapping[str, int] | None = None,
    orders: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Logits (B, classes) of normalised images (B, 3, S, S).

    BatchNorm uses the batch's statistics and stores none.

    Args:
        backbone: in any mode, and left as it is; it runs as in evaluation but for BatchNorm.
        masks: (width,) for each group, or (B, width) for a mask of each sample's own.
        gradient: what the masks' gradient is taken for: "exact" for every element, "kept"
            for those that are not zero, "margin" also for those where `margins` are one.
        capacity: how many kept channels of each group there is room for, at least as many
            as are kept (capacity_for). With it nothing is fetched from the device, and a step
            can be captured in a CUDA graph and replayed with other masks.
        orders: (width,) for each group, its kept channels first (TopK.order by group), if
            they are at hand.

    Raises:
        KernelError: an unknown gradient, margins missing, or margins with a capacity.
    """
    _check(gradient, margins, capacity)
    masks = _with_gradient(masks, gradient, margins)
    # Where the operators are plain torch, hooks are faster.
    shared = all(mask.ndim == 1 for mask in masks.values())
    plan = plan_of(backbone, groups) if shared and ops.kernels.compiled_for(x) else None
    if plan is None or _learns(backbone, plan):
        with batch_statistics(backbone), masked(backbone, groups, masks):
            return backbone(x)
    counts, orders = counts_and_orders(masks, gradient, margins, capacity, orders)
    return run_plan(plan, backbone, ordered(masks, counts, orders), x)


def _check(
    gradient: str, margins: Mapping[str, Tensor] | None, capacity: Mapping[str, int] | None
) -> None:
    if gradient not in ops.GRADIENTS:
        raise KernelError(f"gradient is {gradient!r}; choose one of {', '.join(ops.GRADIENTS)}")
    if gradient == "margin" and margins is None:
        raise KernelError("gradient is 'margin', but margins are not given")
    if gradient == "margin" and capacity is not None:
        raise KernelError(
            "margins have no fixed number of channels; "
            "give a capacity with gradient 'exact' or 'kept'"
        )


def _learns(backbone: nn.Module, plan: Plan) -> bool:
    """Whether weights other than the classifier's learn.

    Fused steps compute no gradient to them.
    """
    layers = [step for step in plan.steps if isinstance(step, Layer)]
    classifiers = {step.layer for step in layers if _is_classifier(step, backbone)}
    for name, parameter in backbone.named_parameters():
        layer, _, _ = name.rpartition(".")
        if parameter.requires_grad and layer not in classifiers:
            return True
    return False


def _is_classifier(step: Layer, backbone: nn.Module) -> bool:
    if step.writes is not None or step.norm is not None:
        return False
    return is_linear(backbone.get_submodule(step.layer))


def _with_gradient(
    masks: Mapping[str, Tensor], gradient: str, margins: Mapping[str, Tensor] | None
) -> Mapping[str, Tensor]:
    """The masks, with a gradient to those elements alone that it is taken for."""
    if gradient == "exact":
        return masks
    found = {}
    for name, mask in masks.items():
        wanted = mask.detach() != 0
        if gradient == "margin" and margins is not None:
            wanted = wanted | (margins[name] != 0)
        found[name] = torch.where(wanted, mask, mask.detach())
    return found
