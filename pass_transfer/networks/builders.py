"""Which networks can be built, by name: one registration each.

    register_builder("my_net", lambda spec: MyNet(spec.classes))

torchvision's are registered here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from pass_transfer.errors import UsageError
from pass_transfer.networks.layers.open_attention import open_attention
from pass_transfer.networks.spec import BackboneSpec
from pass_transfer.settings import shown

Builder = Callable[[BackboneSpec], nn.Module]

TORCHVISION = tuple(
    """
    alexnet
    vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn
    resnet18 resnet34 resnet50 resnet101 resnet152
    resnext50_32x4d resnext101_32x8d resnext101_64x4d
    wide_resnet50_2 wide_resnet101_2
    densenet121 densenet161 densenet169 densenet201
    googlenet
    shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0
    mobilenet_v2 mobilenet_v3_small mobilenet_v3_large
    mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3
    efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7
    efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l
    regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf regnet_x_8gf
    regnet_x_16gf regnet_x_32gf
    regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf
    regnet_y_16gf regnet_y_32gf regnet_y_128gf
    convnext_tiny convnext_small convnext_base convnext_large
    vit_b_16 vit_b_32 vit_l_16 vit_l_32 vit_h_14
    swin_t swin_s swin_b swin_v2_t swin_v2_s swin_v2_b
    squeezenet1_0 squeezenet1_1
    """.split()
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
    return open_attention(builder(spec))


def _of_torchvision(spec: BackboneSpec) -> nn.Module:
    from torchvision.models import get_model

    more: dict[str, Any] = {}
    if spec.architecture == "googlenet":
        more = {"aux_logits": False, "init_weights": False}
    elif spec.architecture.startswith("vit"):
        more = {"image_size": spec.image_size}
    return get_model(spec.architecture, weights=None, num_classes=spec.classes, **more)


for _name in TORCHVISION:
    register_builder(_name, _of_torchvision)
