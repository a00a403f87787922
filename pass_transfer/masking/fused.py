"""The steps of a plan on kept channels, and on the dropped ones whose mask wants a gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pass_transfer import ops
from pass_transfer.errors import KernelError
from pass_transfer.masking.orders import ChannelOrder
from pass_transfer.masking.plan import Channelwise, Layer, Plan


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
    layer, value = backbone.get_submodule(step.layer), values[step.source]
    reads = groups[step.reads] if step.reads else None
    linear = isinstance(layer, nn.Linear)
    if isinstance(layer, nn.Linear) and any(p.requires_grad for p in layer.parameters()):
        return Activation(_trained(layer, reads, value, step.relu))
    weight, bias, window = _as_convolution(layer)
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


def _as_convolution(layer: nn.Module) -> tuple[Tensor, Tensor | None, ops.Window]:
    """Weight (O, I, kh, kw), bias and window; a linear layer is a convolution of one position."""
    if isinstance(layer, nn.Linear):
        return layer.weight[:, :, None, None], layer.bias, ops.Window()
    if isinstance(layer, nn.Conv2d) and not isinstance(layer.padding, str):
        window = ops.Window(layer.stride, layer.padding, layer.dilation)
        return layer.weight, layer.bias, window
    raise KernelError(f"{layer} cannot be run as a fused step")


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
    norm = backbone.get_submodule(name)
    if not isinstance(norm, nn.BatchNorm2d):
        raise KernelError(f"{norm} cannot be fused to a convolution")
    return ops.Norm(norm.weight, norm.bias, norm.eps)


def _epilogue(step: Layer, values: Mapping[str, Activation]) -> ops.Epilogue:
    if not step.residual:
        return ops.Epilogue(relu=step.relu, pool=step.pool)
    residual = values[step.residual]
    return ops.Epilogue(residual.kept, residual.dropped, step.relu, step.pool)


def _trained(layer: nn.Linear, reads: ChannelOrder | None, value: Activation, relu: bool) -> Tensor:
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
