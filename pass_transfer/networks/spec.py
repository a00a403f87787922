"""What network it is: architecture, classes, input size and preprocessing; and its weights.

Weights come by torchvision name (downloaded), or from a .safetensors or .pth file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pass_transfer.errors import BackboneError, UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ARCHITECTURES = (
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
)


@dataclass(frozen=True)
class BackboneSpec:
    """A torchvision network and what it takes in.

    image_size is the side in pixels; mean and std (RGB, for images in [0, 1]) are
    applied inside the deployed model. Raises UsageError for values that make no network.
    """

    architecture: str
    classes: int
    image_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        for name in ("classes", "image_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} is {value!r}; it is a whole number, at least 1")
        for name, least in (("mean", -math.inf), ("std", 0)):
            values = getattr(self, name)
            if not (
                isinstance(values, tuple)
                and len(values) == 3
                and all(
                    isinstance(v, (int, float)) and math.isfinite(v) and v > least for v in values
                )
            ):
                raise UsageError(
                    f"{name} is {values!r}; it is three numbers, one for each of red, green and blue"
                    + (", above 0" if least == 0 else "")
                )

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any]) -> BackboneSpec:
        """A spec as JSON has it."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})


def build_backbone(spec: BackboneSpec) -> nn.Module:
    """The network of a spec, with random weights. Raises UsageError for an unknown architecture."""
    from torchvision.models import get_model

    if spec.architecture not in ARCHITECTURES:
        raise UsageError(
            f"unknown backbone {spec.architecture!r}; known: {', '.join(ARCHITECTURES)}"
        )
    return get_model(spec.architecture, weights=None, num_classes=spec.classes)


def classifier_name(backbone: nn.Module) -> str:
    """Name of the last linear layer, the classifier. Raises BackboneError if there is none."""
    names = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise BackboneError(
            f"{type(backbone).__name__} has no linear layer that could be its classifier"
        )
    return names[-1]


def set_classifier(backbone: nn.Module, linear: nn.Linear) -> None:
    """Replace a backbone's last linear layer."""
    parent, _, leaf = classifier_name(backbone).rpartition(".")
    setattr(backbone.get_submodule(parent), leaf, linear)
