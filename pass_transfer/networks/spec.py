"""What network it is: architecture, classes, input size and preprocessing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pass_transfer.errors import UsageError
from pass_transfer.preprocessing import SQUASHED, Preprocessing
from pass_transfer.settings import ANYTHING, check_fields, check_whole, is_number, shown

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MOST_CLASSES = 1 << 17  # a classifier of ResNet-50 for so many is 1 GB
LARGEST_IMAGE = 2048  # pixels of a side: ResNet-18 takes 1 GB for such an image
# Of mean and std: float32 holds what is normalised by them.
FARTHEST, LEAST_STD, MOST_STD = 1e4, 1e-4, 1e4


@dataclass(frozen=True)
class BackboneSpec:
    """A network by name and what it takes in.

    image_size is the side in pixels, at most LARGEST_IMAGE; mean and std (RGB, for images in
    [0, 1]) are applied inside the deployed model. Raises UsageError for values that make no
    network.

    Fields:
        crop_share: share of the resized shorter side that the centre crop shows.
        interpolation: "bilinear" or "bicubic", antialiased.
        fit: "crop" keeps the aspect ratio: the shorter side is resized to
            round(image_size / crop_share) and the centre cropped. "squash" resizes to a square.
    """

    architecture: str
    classes: int
    image_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop_share: float = 1.0
    interpolation: str = "bicubic"
    fit: str = "crop"

    def __post_init__(self) -> None:
        if not isinstance(self.architecture, str):
            raise UsageError(f"architecture is {shown(self.architecture)}; it is a name")
        check_whole(self, classes=1, most=MOST_CLASSES)
        check_whole(self, image_size=1, most=LARGEST_IMAGE)
        _check_colours("mean", self.mean, -FARTHEST, FARTHEST)
        _check_colours("std", self.std, LEAST_STD, MOST_STD)
        _ = self.preprocessing  # which refuses what is none

    @property
    def preprocessing(self) -> Preprocessing:
        """What becomes of an image before it is normalised."""
        return Preprocessing(self.image_size, self.fit, self.crop_share, self.interpolation)

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any]) -> BackboneSpec:
        """The spec that was written as JSON, with lists in place of tuples.

        One that says nothing of an image's shape is of the time when images were squashed.

        Raises UsageError for a field that is missing or unknown, and values that make no network.
        """
        fields = {field.name: ANYTHING for field in dataclasses.fields(cls)}
        defaulted = {name: fields.pop(name) for name in ("mean", "std", *SQUASHED)}
        check_fields(saved, fields, defaulted, closed=True)
        given: dict[str, Any] = {**SQUASHED, **saved}
        for name, value in saved.items():
            if isinstance(value, list):
                given[name] = tuple(value)
        return cls(**given)


def _check_colours(name: str, values: object, least: float, most: float) -> None:
    """Refuse what is not three numbers between two bounds."""
    if isinstance(values, tuple) and len(values) == 3:
        if all(is_number(value) and least <= value <= most for value in values):
            return
    raise UsageError(
        f"{name} is {shown(values)}; it is three numbers, one for each of red, green and blue, "
        f"from {least:g} to {most:g}"
    )
