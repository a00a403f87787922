"""Visual prompts: a learned frame around the image, in the image's own brightness units.

Additive (VPNs, arXiv 2312.01397): the frame is added to the border pixels. Expansive:
the image is shrunk into the middle and the frame surrounds it. Either is clamped to
[0, 1] before normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pass_transfer.errors import UsageError
from pass_transfer.networks.spec import LARGEST_IMAGE
from pass_transfer.random_streams import stream
from pass_transfer.settings import TEXT, check_fields, is_whole, shown, whole

KINDS = ("additive", "expansive")
# Next to nothing: a frame of zeros gives the prior's masks, and the rest is learned.
INITIAL_SPREAD = 0.002


class Prompt(nn.Module):
    """A frame of `pad` pixels on images of size x size.

    Args:
        kind: "additive" or "expansive".
        size: image side in pixels.
        pad: width of the frame in pixels, at least 1 and less than half the side.
        seed: decides the initial values.
    """

    border: torch.Tensor  # (1, S, S): 1 on the frame, 0 inside

    def __init__(self, kind: str = "additive", size: int = 64, pad: int = 5, seed: int = 0):
        super().__init__()
        if kind not in KINDS:
            raise UsageError(f"unknown prompt {shown(kind)}; choose one of {', '.join(KINDS)}")
        if not is_whole(size) or size > LARGEST_IMAGE:
            raise UsageError(f"size is {shown(size)}; it is a number of pixels to {LARGEST_IMAGE}")
        if not is_whole(pad) or pad >= size / 2:
            most = (size - 1) // 2
            raise UsageError(
                f"a prompt of {shown(pad)} pixels does not fit images of {size}; give 1 to {most}"
            )
        self.kind, self.size, self.pad = kind, size, pad
        border = torch.ones(1, size, size)
        border[:, pad : size - pad, pad : size - pad] = 0
        self.register_buffer("border", border, persistent=False)
        draw = stream(seed, "prompt")
        noise = torch.randn(3, size, size, generator=draw)
        self.values = nn.Parameter(INITIAL_SPREAD * noise * border)

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any], size: int) -> Prompt:
        """A prompt of the shape that was written as JSON, for images of a size.

        Raises UsageError for what makes no prompt, or one for images of another size.
        """
        check_fields(saved, {"kind": TEXT, "size": whole(1), "pad": whole(1)}, closed=True)
        if saved["size"] != size:
            raise UsageError(
                f"the prompt is for images of {saved['size']} pixels, its network takes {size}"
            )
        return cls(**saved)

    @property
    def shape(self) -> dict[str, str | int]:
        """What makes a prompt like this one, but for its values: kind, size, pad."""
        return {"kind": self.kind, "size": self.size, "pad": self.pad}

    def frame(self) -> torch.Tensor:
        """The prompt as an image (3, S, S), zero inside the frame."""
        return self.values * self.border

    def zero_(self) -> None:
        """Set all values to zero: the masks of such a prompt are the prior's."""
        with torch.no_grad():
            self.values.zero_()

    def forward(self, images: torch.Tensor, frame: torch.Tensor | None = None) -> torch.Tensor:
        """Prompted images (B, 3, S, S) in [0, 1]; a `frame` takes the place of the prompt's own."""
        frame = self.frame() if frame is None else frame
        if self.kind == "expansive":
            inner = self.size - 2 * self.pad
            images = nn.functional.interpolate(
                images, (inner, inner), mode="bilinear", antialias=True
            )
            images = nn.functional.pad(images, [self.pad] * 4)
            frame = frame + 0.5 * self.border  # grey where there is no image
        return (images + frame).clamp(0, 1)


def default_pad(size: int) -> int:
    """16 pixels at 224, the best of VPNs' choices, in proportion to the side."""
    return max(1, round(size * 16 / 224))
