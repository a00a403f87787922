"""What becomes of an image of any shape before a network sees it: a square of its size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pass_transfer.errors import UsageError
from pass_transfer.settings import check_choice, check_pixels, number, shown

FITS = ("crop", "squash")
INTERPOLATIONS = ("bilinear", "bicubic")
# Of what was written before there was more.
SQUASHED: dict[str, Any] = {"crop_share": 1.0, "interpolation": "bicubic", "fit": "squash"}
SHARE = number(0.25, 1)  # with less, training would keep more than 16 times what is seen
SMALL = 96  # pixels up to which images are read and shown in training as they always were


@dataclass(frozen=True)
class Preprocessing:
    """Resize and centre crop, as torchvision's and timm's transforms for evaluation have them.

    Fields:
        size: side in pixels of the square that the network sees.
        fit: "crop" keeps the aspect ratio: the shorter side is resized and the centre cropped.
            "squash" resizes to a square.
        crop_share: share of the resized side that the centre crop shows, at least a quarter.
        interpolation: "bilinear" or "bicubic", antialiased.

    Raises UsageError for a field that is none of these.
    """

    size: int
    fit: str = "crop"
    crop_share: float = 1.0
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        check_pixels(self.size)
        check_choice("fit", self.fit, FITS)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        if not SHARE.fits(self.crop_share):
            message = f"crop_share is {shown(self.crop_share)}; it is {SHARE.words}"
            raise UsageError(message, "crop_share")

    @classmethod
    def of(cls, given: object) -> Preprocessing:
        """What is given, or for a size alone the centre of an image as large as it can be.

        Raises UsageError for neither.
        """
        if isinstance(given, Preprocessing):
            return given
        check_pixels(given)
        return cls(given)  # type: ignore[arg-type]  # a whole number, as was checked

    def saved(self) -> Mapping[str, Any]:
        """All of it as JSON has it."""
        return dataclasses.asdict(self)

    @property
    def resized(self) -> int:
        """The shorter side before the centre crop; both sides, where images are squashed."""
        return round(self.size / self.crop_share)

    @property
    def kept(self) -> int:
        """Side of the centre that is kept of an image, to take random crops of in training.

        The network's view is the centre of it.
        """
        return self.resized if self.size > SMALL else self.size

    @property
    def drafted(self) -> bool:
        """Whether a large JPEG is decoded at a smaller size: faster, and pixels differ a little.

        Networks of more than 96 pixels see what torchvision's transforms show them.
        """
        return self.size <= SMALL or self.fit == "squash"

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of an image once it is resized, as torchvision's Resize has them."""
        if self.fit == "squash":
            return self.resized, self.resized
        shorter = min(width, height)
        return int(self.resized * width / shorter), int(self.resized * height / shorter)

    def first(self, resized: int, side: int) -> int:
        """Where the centre begins on a side of a resized image.

        Args:
            side: of the centre, `size` or `kept`; the one lies in the middle of the other.
        """
        return margin(resized, self.size) - margin(side, self.size)

    def __str__(self) -> str:
        """What becomes of an image, after "it is"."""
        said = f"resized to {self.resized} pixels on the shorter side ({self.interpolation})"
        if self.fit == "squash":
            side = self.resized
            said = f"squashed to {side} x {side} pixels ({self.interpolation})"
        if self.fit == "squash" and self.resized == self.size:
            return said
        return f"{said} and cropped to the centre of {self.size} x {self.size}"


def margin(side: int, centre: int) -> int:
    """Pixels before the centre of a side, as torchvision's CenterCrop counts them."""
    return round((side - centre) / 2)
