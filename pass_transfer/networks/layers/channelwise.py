"""Layers without tensors that treat every channel alike and on its own."""

from __future__ import annotations

from torch import nn

from pass_transfer.networks.layers.kind import LayerKind, Role

LARGEST_POOLING = 15  # a side of the kernel, for the fused step


class Channelwise(LayerKind[nn.Module]):
    """Activations, pooling, flattening, identity."""

    types: tuple[type[nn.Module], ...] = (
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.SiLU,
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.Sigmoid,
        nn.GELU,
        nn.Identity,
        nn.MaxPool2d,
        nn.AvgPool2d,
        nn.AdaptiveAvgPool2d,
        nn.Flatten,
    )
    role = Role.CHANNELWISE


class Dropout(Channelwise):
    """Drops values in training, and nothing in evaluation."""

    types: tuple[type[nn.Module], ...] = (nn.Dropout, nn.Dropout2d)
    idle_in_evaluation = True


class ReLU(Channelwise):
    """The activation that a fused step takes in."""

    role = Role.RELU

    def matches(self, module: nn.Module) -> bool:
        """Whether a module is torch's own ReLU."""
        return type(module) is nn.ReLU


class MaxPooling(Channelwise):
    """The pooling that a fused step takes in, if its window is a plain square."""

    role = Role.MAX_POOLING

    def matches(self, module: nn.Module) -> bool:
        """Whether a module is torch's own MaxPool2d."""
        return type(module) is nn.MaxPool2d

    def pooling(self, module: nn.Module) -> tuple[int, ...]:
        """Kernel, stride and padding where each is one number for both sides, else ()."""
        if not isinstance(module, nn.MaxPool2d):
            return ()
        if module.dilation != 1 or module.ceil_mode or module.return_indices:
            return ()
        window = (module.kernel_size, module.stride, module.padding)
        sides = tuple(side for side in window if isinstance(side, int))
        return sides if len(sides) == len(window) and sides[0] <= LARGEST_POOLING else ()
