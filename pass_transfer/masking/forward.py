"""Logits of a backbone under masks, with batch statistics, by fused steps where there is a plan.

A group's activations are two tensors: the channels that are kept, which everything is
computed from, and those whose mask element wants a gradient all the same. With exact
gradients these are all the others, so that a score's gradient is the true one; with kept
ones there are none, and the network runs as small as the masks make it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pass_transfer import ops
from pass_transfer.errors import KernelError
from pass_transfer.masking.hooks import batch_statistics, masked
from pass_transfer.masking.plan import Channelwise, Layer, Plan, plan_of
from pass_transfer.networks import ChannelGroups

STEP = 8  # kept channels are rounded up to a multiple of it, at least once, which the arithmetic underneath does anyway


@dataclass(frozen=True)
class ChannelOrder:
    """A group's channels for one step.

    Fields:
        order: (count,) int64; the kept channels, then those that only listen.
        mask: (count,) in that order, differentiable.
        kept: how many are computed with.
    """

    order: Tensor
    mask: Tensor
    kept: int

    @property
    def count(self) -> int:
        """How many channels are made at all."""
        return len(self.order)


@dataclass(frozen=True)
class Activation:
    """A value of the network: kept channels, and the listening ones if there are any."""

    kept: Tensor
    shadow: Tensor | None = None

    def each(self, function) -> Activation:
        """The same with a channelwise function applied to both."""
        if self.shadow is None:
            return Activation(function(self.kept))
        with torch.no_grad():
            shadow = function(self.shadow)
        return Activation(function(self.kept), shadow)


def masked_forward(
    backbone: nn.Module,
    groups: ChannelGroups,
    masks: Mapping[str, Tensor],
    x: Tensor,
    gradient: str = "exact",
    margins: Mapping[str, Tensor] | None = None,
    room: Mapping[str, int] | None = None,
    orders: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Logits (B, classes) of normalised images (B, 3, S, S); BatchNorm uses the batch's statistics and stores none.

    Args:
        backbone: in any mode, and left as it is; it runs as in evaluation but for BatchNorm.
        masks: (width,) for each group, or (B, width) for a mask of each sample's own.
        gradient: what the masks' gradient is taken for: "exact" for every element, "kept"
            for those that are not zero, "margin" also for those where `margins` are one.
        room: kept channels of each group that there is room for, at least as many as are
            kept (capacity_for). With it nothing is fetched from the device, and a step can be
            captured in a CUDA graph and replayed with other masks.
        orders: (width,) for each group, its kept channels first (TopK.order by group), if
            they are at hand.

    Raises:
        KernelError: an unknown gradient, margins missing, or margins with room.
    """
    if gradient not in ops.GRADIENTS:
        raise KernelError(f"gradient is {gradient!r}; choose one of {', '.join(ops.GRADIENTS)}")
    if gradient == "margin" and margins is None:
        raise KernelError("gradient is 'margin', but margins are not given")
    if gradient == "margin" and room is not None:
        raise KernelError(
            "margins have no fixed number of channels; give room with gradient 'exact' or 'kept'"
        )
    fused = ops.kernels.compiled_for(x) and all(
        m.ndim == 1 for m in masks.values()
    )  # plain torch is faster with hooks
    plan = plan_of(backbone, groups) if fused else None
    heard = (
        masks
        if gradient == "exact"
        else {n: _heard(m, None if gradient == "kept" else margins[n]) for n, m in masks.items()}
    )
    if plan is not None and not _learns(backbone, plan):
        return _run(plan, backbone, _arrange(heard, gradient, margins, room, orders), x)
    with batch_statistics(backbone), masked(backbone, groups, heard):
        return backbone(x)


def _learns(backbone: nn.Module, plan: Plan) -> bool:
    """Whether weights other than the classifier's need a gradient: fused steps do not compute it."""
    classifier = {
        f"{step.layer}.{name}"
        for step in plan.steps
        if isinstance(step, Layer) and step.writes is None and step.norm is None
        for name in ("weight", "bias")
        if isinstance(backbone.get_submodule(step.layer), nn.Linear)
    }
    return any(
        p.requires_grad and name not in classifier for name, p in backbone.named_parameters()
    )


def _heard(mask: Tensor, margin: Tensor | None) -> Tensor:
    """The mask with no gradient where it is zero and no margin is."""
    wanted = mask.detach() != 0 if margin is None else (mask.detach() != 0) | (margin != 0)
    return torch.where(wanted, mask, mask.detach())


def _arrange(
    masks: Mapping[str, Tensor],
    gradient: str,
    margins: Mapping[str, Tensor] | None,
    room: Mapping[str, int] | None,
    orders: Mapping[str, Tensor] | None,
) -> dict[str, ChannelOrder]:
    """Kept channels first, then those that listen. Without `room` the counts are fetched from the device, once for all groups.

    A group that keeps none is computed with a channel whose mask is zero.
    """
    if room is not None and orders is not None:
        counts = _counts(masks, gradient, room)
    else:
        ranks = _ranks(masks, gradient, margins)
        counts, orders = (
            _counts(ranks, gradient, room),
            orders or {name: torch.sort(rank, stable=True).indices for name, rank in ranks.items()},
        )
    arranged = {}
    for name, mask in masks.items():
        kept, count = counts[name]
        order = orders[name][:count]
        arranged[name] = ChannelOrder(
            order, (mask if mask.is_floating_point() else mask.float()).gather(0, order), kept
        )
    return arranged


def _ranks(
    masks: Mapping[str, Tensor], gradient: str, margins: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Of every channel: 0 if it is kept, 1 if it only listens, 2 if nothing is to be computed of it."""
    ranks = {}
    for name, mask in masks.items():
        listens = mask.requires_grad and torch.is_grad_enabled() and gradient != "kept"
        margin = (
            torch.zeros_like(mask)
            if not listens
            else torch.ones_like(mask)
            if gradient == "exact"
            else margins[name]
        )
        ranks[name] = torch.where(mask.detach() != 0, 0, torch.where(margin != 0, 1, 2))
    return ranks


def _counts(
    ranks: Mapping[str, Tensor], gradient: str, room: Mapping[str, int] | None
) -> dict[str, tuple[int, int]]:
    """Of every group, how many channels are computed with and how many are made; fetched from the device unless there is room for a fixed number."""
    if room is not None:
        return {
            name: (room[name], room[name] if gradient == "kept" else len(rank))
            for name, rank in ranks.items()
        }
    flat = torch.stack(
        [
            torch.stack([(rank == 0).sum(), (rank <= 1).sum().clamp(min=1)])
            for rank in ranks.values()
        ]
    ).tolist()
    return {name: (min(count, _rounded(kept)), count) for name, (kept, count) in zip(ranks, flat)}


def _rounded(kept: int) -> int:
    return max(1, -(-kept // STEP)) * STEP


def capacity_for(
    kept: Mapping[str, int], widths: Mapping[str, int], slack: int = 0
) -> dict[str, int]:
    """How many kept channels each group gets room for: those it has now and `slack` more, rounded up to what arithmetic comes in."""
    return {name: min(widths[name], _rounded(count + slack)) for name, count in kept.items()}


def _run(plan: Plan, backbone: nn.Module, groups: Mapping[str, ChannelOrder], x: Tensor) -> Tensor:
    values = {
        plan.image: Activation(x.contiguous(memory_format=torch.channels_last))
    }  # faster at every density, whatever x comes in
    for number, step in enumerate(plan.steps):
        values[step.name] = (
            _layer(step, backbone, groups, values)
            if isinstance(step, Layer)
            else _channelwise(step, backbone, values[step.source])
        )
        for name in [n for n in values if plan.last_use.get(n, number + 1) <= number]:
            del values[name]
    return values[plan.result].kept


def _channelwise(step: Channelwise, backbone: nn.Module, value: Activation) -> Activation:
    if step.module is None:
        return value.each(lambda t: t.flatten(1))
    module = backbone.get_submodule(step.module)
    if isinstance(module, (nn.Dropout, nn.Dropout2d)):
        return value
    if getattr(module, "inplace", False):
        return value.each(lambda t: module(t.clone()))
    return value.each(module)


def _layer(
    step: Layer,
    backbone: nn.Module,
    groups: Mapping[str, ChannelOrder],
    values: Mapping[str, Activation],
) -> Activation:
    layer, norm = (
        backbone.get_submodule(step.layer),
        backbone.get_submodule(step.norm) if step.norm else None,
    )
    value, residual = (
        values[step.source],
        values[step.residual] if step.residual else Activation(None),
    )
    reads, writes = (
        groups[step.reads] if step.reads else None,
        groups[step.writes] if step.writes else None,
    )
    linear = isinstance(layer, nn.Linear)
    x, shadow = (
        (_as_image(value.kept), _as_image(value.shadow)) if linear else (value.kept, value.shadow)
    )
    if linear and (
        layer.weight.requires_grad or layer.bias is not None and layer.bias.requires_grad
    ):
        return Activation(_trained(layer, reads, value, step.relu))
    order, mask = (None, None) if reads is None else _spread(reads, x.shape[1] // reads.kept)
    weight, window = (
        (layer.weight[:, :, None, None], {})
        if linear
        else (
            layer.weight,
            {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation},
        )
    )
    kept, rest = ops.masked_conv_norm_act(
        x,
        weight,
        layer.bias,
        shadow=shadow,
        in_mask=mask,
        in_order=order,
        norm_weight=norm.weight if norm else None,
        norm_bias=norm.bias if norm else None,
        eps=norm.eps if norm else 0.0,
        residual=residual.kept,
        residual_shadow=residual.shadow,
        out_order=writes.order if writes else None,
        out_kept=writes.kept if writes else len(weight),
        out_count=writes.count if writes else len(weight),
        relu=step.relu,
        pool=step.pool,
        **window,
    )
    return (
        Activation(kept.flatten(1), None if rest is None else rest.flatten(1))
        if linear
        else Activation(kept, rest)
    )


def _trained(layer: nn.Linear, reads: ChannelOrder | None, value: Activation, relu: bool) -> Tensor:
    """A linear layer that learns, on all channels whose mask wants a gradient; its own outputs are in no group that is masked."""
    x = value.kept if value.shadow is None else torch.cat([value.kept, value.shadow], 1)
    weight = layer.weight
    if reads is not None:
        order, mask = _spread(reads, value.kept.shape[1] // reads.kept)
        x, weight = x * mask.to(x.dtype), weight[:, order]
    y = nn.functional.linear(x, weight, layer.bias)
    return y.relu() if relu else y


def _as_image(x: Tensor | None) -> Tensor | None:
    return None if x is None else x[:, :, None, None]


def _spread(group: ChannelOrder, positions: int) -> tuple[Tensor, Tensor]:
    """Order and mask of a reader that has several inputs for each channel, one after the other."""
    if positions == 1:
        return group.order, group.mask
    order = (
        group.order[:, None] * positions + torch.arange(positions, device=group.order.device)
    ).flatten()
    return order, group.mask.repeat_interleave(positions)
