"""Which networks can be built, by name: torchvision's, timm's, and those of one's own.

register_network("mine", lambda classes: MyNet(classes))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn

from pass_transfer.arguments import check_is
from pass_transfer.errors import BackboneError, UsageError
from pass_transfer.networks import timm_networks, torchvision_networks
from pass_transfer.networks.layers.open_attention import open_attention
from pass_transfer.networks.source import NetworkSource, State, meant
from pass_transfer.networks.spec import BackboneSpec
from pass_transfer.settings import shown

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

OF_TORCHVISION = NetworkSource(
    torchvision_networks.build,
    torchvision_networks.inputs,
    torchvision_networks.pretrained,
    torchvision_networks.adjusted,
)
OF_TIMM = NetworkSource(
    timm_networks.build, timm_networks.inputs, timm_networks.pretrained, timm_networks.adjusted
)
DEFAULT_SIZE = 224  # pixels, of a network of one's own that says nothing else
_SOURCES: dict[str, NetworkSource] = dict.fromkeys(TORCHVISION, OF_TORCHVISION)


def register_network(name: str, build: Callable[..., nn.Module], **inputs: Any) -> None:
    """Make a network of one's own known by a name, for adapt, search and load_pruned.

    A saved network is rebuilt by its name: register it before load_pruned, too.

        pt.register_network("mine", lambda classes: MyNet(classes), image_size=160)

    Args:
        name: by which it is asked for; no name of torchvision's or timm's.
        build: from the number of classes to a network with random weights, of normalised images
            (B, 3, S, S) to logits (B, classes). If it has an argument image_size, it gets the
            side S in pixels, too.
        inputs: what it takes in, as fields of BackboneSpec: image_size (224 without one), mean,
            std, crop_share, interpolation and fit.

    Raises UsageError for a name that is taken, no function, or inputs that make no spec.
    """
    check_is("name", name, str, "a text")
    if not callable(build):
        raise UsageError(f"build is {shown(build)}; it is a function of the number of classes")
    if not name.strip():
        raise UsageError(f"name is {shown(name)}; give letters or digits", "name")
    if _SOURCES.get(name) is OF_TORCHVISION or name.startswith(timm_networks.PREFIX):
        raise UsageError(f"name is {shown(name)}, which a library has; choose another one", "name")
    takes: dict[str, Any] = {"image_size": DEFAULT_SIZE} | inputs
    try:
        BackboneSpec(name, 1, **takes)
    except TypeError as error:
        fields = "image_size, mean, std, crop_share, interpolation and fit"
        raise UsageError(f"inputs are {', '.join(inputs)}; they are {fields}") from error
    _SOURCES[name] = _own(build, takes)


def _own(build: Callable[..., nn.Module], takes: Mapping[str, Any]) -> NetworkSource:
    """A network of one's own, which has no weights that could be downloaded."""
    sized = "image_size" in inspect.signature(build).parameters

    def built(spec: BackboneSpec) -> nn.Module:
        made: object = build(spec.classes, **({"image_size": spec.image_size} if sized else {}))
        check_is(f"what the builder of {spec.architecture} gives", made, nn.Module, "a network")
        return cast(nn.Module, made)

    def pretrained(spec: BackboneSpec, weights: str | None) -> State:
        said = f"{weights!r} is no file; " if weights else ""
        raise BackboneError(
            f"{said}{spec.architecture} is a network of one's own, without weights to download; "
            "give a .pth or .safetensors file (weights)"
        )

    def inputs(name: str, weights: str | None) -> dict[str, Any]:
        return dict(takes)

    return NetworkSource(built, inputs, pretrained, lambda state, network: state)


def is_registered(name: str) -> bool:
    """Whether a network of this name can be built without timm."""
    return name in _SOURCES


def architectures() -> tuple[str, ...]:
    """Names of all networks that can be built, but for timm's."""
    return tuple(_SOURCES)


def source_of(architecture: str) -> NetworkSource:
    """Where a network comes from. Raises UsageError for one that nothing has."""
    if architecture in _SOURCES:
        return _SOURCES[architecture]
    if architecture.startswith(timm_networks.PREFIX) and timm_networks.has(architecture):
        return OF_TIMM
    raise UsageError(
        f"unknown network {shown(architecture)}{_meant(architecture)}; known are torchvision's "
        "(resnet50, ...), timm's (timm/NAME), and those given to register_network",
        "network",
    )


def _meant(architecture: str) -> str:
    """The known names that are near; timm's where it is installed."""
    called: dict[str, str] = {}
    if timm_networks.installed():
        for name in timm_networks.names():
            called |= {name: name, name.removeprefix(timm_networks.PREFIX): name}
    called |= dict(zip(_SOURCES, _SOURCES))
    return meant(architecture, called, called)


def build_backbone(spec: BackboneSpec) -> nn.Module:
    """The network of a spec, with random weights. Raises UsageError for an unknown architecture."""
    return open_attention(source_of(spec.architecture).build(spec))


def _narrow_vgg16(classes: int) -> nn.Module:
    from pass_transfer.networks.narrow_vgg import NarrowVGG16

    return NarrowVGG16(classes)


_SOURCES["vgg16_narrow"] = _own(_narrow_vgg16, {"image_size": DEFAULT_SIZE})
