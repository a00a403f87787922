"""What network it is: architecture, classes, input size and preprocessing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pass_transfer.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class BackboneSpec:
    """A network by name and what it takes in.

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
                raise UsageError(f"{name} is {value!r}; it is a whole number, at least 1", name)
        _check_colours("mean", self.mean, -math.inf)
        _check_colours("std", self.std, 0)

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any]) -> BackboneSpec:
        """The spec that was written as JSON, with lists in place of tuples.

        Raises:
            TypeError: a field that is missing or unknown.
            UsageError: values that make no network.
        """
        fields: dict[str, Any] = dict(saved)
        for name, value in saved.items():
            if isinstance(value, list):
                fields[name] = tuple(value)
        return cls(**fields)


def _check_colours(name: str, values: object, above: float) -> None:
    """Refuse what is not three finite numbers above a bound."""
    if isinstance(values, tuple) and len(values) == 3:
        if all(_is_number(value) and value > above for value in values):
            return
    bound = ", above 0" if above == 0 else ""
    raise UsageError(
        f"{name} is {values!r}; it is three numbers, one for each of red, green and blue{bound}"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
