"""The steps of a plan on kept channels, and on the dropped ones whose mask wants a gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pass_transfer import ops
from pass_transfer.masking.orders import ChannelOrder
from pass_transfer.masking.plan import Channelwise, Layer, Plan
from pass_transfer.networks.layers import Role, kind_of


@dataclass(frozen=True)
class Activation:
    """A value of the network: kept channels, and dropped ones if there are any to be made."""

    kept: Tensor
    dropped: Tensor | None = None

    def each(self, function: Callable[[Tensor], Tensor]) -> Activation:
        """The same with a channelwise function applied to both."""
        if self.dropped is None:
            return Activation(function(self.kept))
        with torch.no_grad():
            dropped = function(self.dropped)
        return Activation(function(self.kept), dropped)


def run_plan(
    plan: Plan, backbone: nn.Module, groups: Mapping[str, ChannelOrder], x: Tensor
) -> Tensor:
    """Logits (B, classes) of images (B, 3, S, S) by the plan's fused steps."""
    # channels_last is faster at every density, whatever x comes in.
    image = x.contiguous(memory_format=torch.channels_last)
    values = {plan.image: Activation(image)}
    for number, step in enumerate(plan.steps):
        if isinstance(step, Layer):
            values[step.name] = _layer(step, backbone, groups, values)
        else:
            values[step.name] = _channelwise(step, backbone, values[step.source])
        read = [name for name in values if plan.last_use.get(name, number + 1) <= number]
        for name in read:
            del values[name]
    return values[plan.result].kept


def _channelwise(step: Channelwise, backbone: nn.Module, value: Activation) -> Activation:
    if step.module is None:
        return value.each(lambda t: t.flatten(1))
    module = backbone.get_submodule(step.module)
    if kind_of(module).idle_in_evaluation:
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
    layer, value = backbone.get_submodule(step.layer), values[step.source]
    reads = groups[step.reads] if step.reads else None
    linear = is_linear(layer)
    if linear and any(p.requires_grad for p in layer.parameters()):
        return Activation(_trained(layer, reads, value, step.relu))
    weight, bias, window = _as_convolution(layer, linear)
    if linear:
        value = value.each(lambda t: t[:, :, None, None])
    kept, dropped = ops.masked_conv_norm_act(
        value.kept,
        weight,
        bias,
        inputs=_inputs(reads, value),
        outputs=_outputs(groups[step.writes] if step.writes else None),
        window=window,
        norm=_norm(backbone, step.norm),
        epilogue=_epilogue(step, values),
    )
    made = Activation(kept, dropped)
    return made.each(lambda t: t.flatten(1)) if linear else made


def is_linear(layer: nn.Module) -> bool:
    """Whether a step is made of a linear layer, not of a convolution."""
    return kind_of(layer).role is Role.LINEAR


def _as_convolution(layer: Any, linear: bool) -> tuple[Tensor, Tensor | None, ops.Window]:
    """Weight (O, I, kh, kw), bias and window; a linear layer is a convolution of one position."""
    if linear:
        return layer.weight[:, :, None, None], layer.bias, ops.Window()
    return layer.weight, layer.bias, ops.Window(layer.stride, layer.padding, layer.dilation)


def _inputs(reads: ChannelOrder | None, value: Activation) -> ops.Inputs:
    if reads is None:
        return ops.Inputs(value.dropped)
    order, mask = _spread(reads, value.kept.shape[1] // reads.kept)
    return ops.Inputs(value.dropped, mask, order)


def _outputs(writes: ChannelOrder | None) -> ops.Outputs:
    return ops.Outputs() if writes is None else ops.Outputs(writes.order, writes.kept, writes.count)


def _norm(backbone: nn.Module, name: str | None) -> ops.Norm:
    if name is None:
        return ops.Norm()
    norm: Any = backbone.get_submodule(name)
    return ops.Norm(norm.weight, norm.bias, norm.eps)


def _epilogue(step: Layer, values: Mapping[str, Activation]) -> ops.Epilogue:
    if not step.residual:
        return ops.Epilogue(relu=step.relu, pool=step.pool)
    residual = values[step.residual]
    return ops.Epilogue(residual.kept, residual.dropped, step.relu, step.pool)


def _trained(layer: Any, reads: ChannelOrder | None, value: Activation, relu: bool) -> Tensor:
    """A linear layer that learns, on all channels whose mask wants a gradient.

    Its own outputs are in no group that is masked.
    """
    x = value.kept if value.dropped is None else torch.cat([value.kept, value.dropped], 1)
    weight = layer.weight
    if reads is not None:
        order, mask = _spread(reads, value.kept.shape[1] // reads.kept)
        x, weight = x * mask.to(x.dtype), weight[:, order]
    y = nn.functional.linear(x, weight, layer.bias)
    return y.relu() if relu else y


def _spread(group: ChannelOrder, positions: int) -> tuple[Tensor, Tensor]:
    """Order and mask of a reader that has several inputs for each channel, side by side."""
    if positions == 1:
        return group.order, group.mask
    steps = torch.arange(positions, device=group.order.device)
    order = (group.order[:, None] * positions + steps).flatten()
    return order, group.mask.repeat_interleave(positions)
