"""Convolutions: plain ones, and those of several groups, down to depthwise ones."""

from __future__ import annotations

import torch
from torch import nn

from pass_transfer.networks.layers.kind import LayerCost, LayerKind, Role, computes_as

PLAIN = ("Conv2d", "Conv2dSame")  # torch's, and timm's, which pads as TensorFlow does


class Convolution(LayerKind[nn.Conv2d]):
    """Conv2d in one group: weight (O, I, height, width)."""

    types = (nn.Conv2d,)
    makes_channels = True
    takes_channels = True
    mixes_channels = True
    always_step = True
    role = Role.CONVOLUTION

    def matches(self, module: nn.Module) -> bool:
        """Whether a module is of these classes, and computes what they compute."""
        return isinstance(module, self.types) and (
            type(module) in self.types or computes_as(module, PLAIN)
        )

    def output_channels(self, module: nn.Conv2d) -> int:
        """Number of output channels."""
        return module.out_channels

    def input_channels(self, module: nn.Conv2d) -> int:
        """Number of input channels."""
        return module.in_channels

    def update_sizes(self, module: nn.Conv2d) -> None:
        """Channels in and out, from the weight."""
        module.out_channels, module.in_channels = module.weight.shape[:2]

    def cost(self, module: nn.Conv2d) -> LayerCost:
        """The kernel's area for each output with each input of its group, and the bias."""
        area = module.weight[0, 0].numel()
        each_output = 0 if module.bias is None else 1
        return LayerCost(area, each_output, module.in_channels // module.groups)

    def rows(
        self, module: nn.Conv2d, given: torch.Tensor, places: int, draw: torch.Generator
    ) -> torch.Tensor:
        """Patches (N, I * height * width) of a batch (B, I, H, W) at places that are drawn."""
        (down, across), (rise, run) = module.stride, module.dilation
        tall, wide = module.weight.shape[2:]
        padded = nn.functional.pad(given, _padding(module))
        rows = (padded.shape[2] - rise * (tall - 1) - 1) // down + 1
        columns = (padded.shape[3] - run * (wide - 1) - 1) // across + 1
        positions = torch.randperm(rows * columns, generator=draw)[:places]
        y = down * (positions // columns)[:, None] + rise * torch.arange(tall)
        x = across * (positions % columns)[:, None] + run * torch.arange(wide)
        y, x = y[:, :, None].to(given.device), x[:, None, :].to(given.device)
        patches = padded[:, :, y, x]  # (B, I, places, height, width)
        return patches.transpose(1, 2).flatten(2).flatten(0, 1)

    def weight_by_input(self, module: nn.Conv2d) -> torch.Tensor:
        """The weight (O, I, height * width), detached."""
        return module.weight.detach().flatten(2)

    def averaged_weight(self, module: nn.Conv2d) -> torch.Tensor:
        """The weight (O, I) averaged over the kernel, float64 on the CPU."""
        return module.weight.detach().cpu().double().mean(dim=(2, 3))

    def as_classifier(self, linear: nn.Module) -> nn.Module:
        """The same linear map at every place of a map."""
        if not isinstance(linear, nn.Linear):
            return linear
        weight = linear.weight
        made = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None)
        made = made.to(weight).requires_grad_(weight.requires_grad)
        with torch.no_grad():
            made.weight.copy_(weight[:, :, None, None])
            if made.bias is not None:
                made.bias.copy_(linear.bias)
        return made

    def why_not_fused(self, module: nn.Conv2d) -> str:
        """Fused steps know convolutions in one group that pad with zeros."""
        if type(module).forward is not nn.Conv2d.forward:
            return "computes in its own way"
        if module.groups != 1:
            return "is a grouped convolution"
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            return "pads in its own way"
        return ""


class GroupedConvolution(Convolution):
    """Conv2d in several groups: weight (O, I / groups, height, width).

    Only whole groups can go without leaving the others another shape; the inputs of a group
    go with it. A depthwise convolution has a group for each channel.
    """

    mixes_channels = False

    def matches(self, module: nn.Module) -> bool:
        """Whether a module is a convolution in more than one group."""
        return super().matches(module) and isinstance(module, nn.Conv2d) and module.groups > 1

    def block_count(self, module: nn.Conv2d) -> int:
        """Number of groups."""
        return module.groups

    def update_sizes(self, module: nn.Conv2d) -> None:
        """Channels and groups, from the weight; a group keeps its outputs."""
        outputs, inputs = module.weight.shape[:2]
        module.groups = outputs // (module.out_channels // module.groups)
        module.out_channels, module.in_channels = outputs, inputs * module.groups


def _padding(module: nn.Conv2d) -> tuple[int, int, int, int]:
    """Left, right, above and below."""
    left, right, above, below = module._reversed_padding_repeated_twice
    return left, right, above, below
