"""Which networks can be built, by name: one registration each.

    register_builder("my_net", lambda spec: MyNet(spec.classes))

torchvision's are registered here, and one of ours.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pass_transfer.errors import UsageError
from pass_transfer.networks.spec import BackboneSpec
from pass_transfer.settings import shown

Builder = Callable[[BackboneSpec], nn.Module]

TORCHVISION = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "vgg11",
    "vgg11_bn",
    "vgg16",
    "vgg16_bn",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
)

_BUILDERS: dict[str, Builder] = {}


def register_builder(architecture: str, builder: Builder) -> None:
    """Make an architecture known; the builder gives it random weights and spec.classes outputs."""
    _BUILDERS[architecture] = builder


def architectures() -> tuple[str, ...]:
    """Names of all networks that can be built."""
    return tuple(_BUILDERS)


def build_backbone(spec: BackboneSpec) -> nn.Module:
    """The network of a spec, with random weights. Raises UsageError for an unknown architecture."""
    builder = _BUILDERS.get(spec.architecture)
    if builder is None:
        known = ", ".join(architectures())
        raise UsageError(f"unknown backbone {shown(spec.architecture)}; known: {known}")
    return builder(spec)


def _of_torchvision(spec: BackboneSpec) -> nn.Module:
    from torchvision.models import get_model

    return get_model(spec.architecture, weights=None, num_classes=spec.classes)


for _name in TORCHVISION:
    register_builder(_name, _of_torchvision)


def _narrow_vgg16(spec: BackboneSpec) -> nn.Module:
    from pass_transfer.networks.narrow_vgg import NarrowVGG16

    return NarrowVGG16(spec.classes)


register_builder("vgg16_narrow", _narrow_vgg16)
