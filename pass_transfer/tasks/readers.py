"""Images by index: from an array that is kept, or decoded from their files as they are read."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from pass_transfer.errors import TaskError
from pass_transfer.preprocessing import Preprocessing, margin
from pass_transfer.progress import say
from pass_transfer.tasks.decoding import UnreadableImage, content_of, picture
from pass_transfer.tasks.source import Source


def to_batch(pixels: np.ndarray) -> torch.Tensor:
    """(B, S, S, 3) uint8 array to a (B, 3, S, S) uint8 tensor in channels_last memory format."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class CachedImages:
    """Decoded images (N, K, K, 3) uint8, in memory or mapped from the cache.

    `side` is that of the centre which is read of them; without it, they are read whole.
    """

    pixels: np.ndarray
    side: int | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """uint8 images (B, 3, S, S) for indices (B,)."""
        kept = self.pixels.shape[1]
        side = self.side or kept
        first = margin(kept, side)
        shown = slice(first, first + side)
        return to_batch(self.pixels[indices, shown, shown])

    def uncropped(self) -> CachedImages:
        """The same images with all that is kept of them."""
        return replace(self, side=None)

    def read_whole(self, indices: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """uint8 images (B, 3, S, S) for indices (B,), and the positions that they are of: all."""
        return self.read(indices), np.arange(len(indices))


@dataclass(frozen=True)
class StreamedImages:
    """Images decoded as they are read.

    They were whole when the task was checked. One that is not any more is skipped and noted in
    `lost` (N,) bool, which all processes that read share. `side` is that of the centre which is
    read.
    """

    source: Source
    preprocessing: Preprocessing
    side: int
    lost: torch.Tensor = field(repr=False)

    @classmethod
    def of(cls, source: Source, preprocessing: Preprocessing) -> StreamedImages:
        """The images of a source, none of them lost."""
        lost = torch.zeros(len(source), dtype=torch.bool).share_memory_()
        return cls(source, preprocessing, preprocessing.size, lost)

    def uncropped(self) -> StreamedImages:
        """The same images with all that training crops them from."""
        return replace(self, side=self.preprocessing.kept)

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """uint8 images (B, 3, S, S) for indices (B,). Raises TaskError where one is lost."""
        images, whole = self.read_whole(indices)
        if len(whole) < len(indices):
            lost = np.setdiff1d(np.arange(len(indices)), whole)[0]
            raise TaskError(f"{self.source.describe(int(indices[lost]))} can no longer be read")
        return images

    def read_whole(self, indices: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """uint8 images for those of indices (B,) that can be read, and their positions."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = list(pool.map(self._decode, indices.tolist()))
        pixels = [one for one in decoded if one is not None]
        whole = [position for position, one in enumerate(decoded) if one is not None]
        empty = np.zeros((0, self.side, self.side, 3), np.uint8)
        return to_batch(np.stack(pixels) if pixels else empty), np.asarray(whole, np.int64)

    def _decode(self, index: int) -> np.ndarray | None:
        if self.lost[index]:
            return None
        try:
            content = content_of(self.source.fetch(index))
            return picture(content, self.preprocessing, self.side).pixels
        except UnreadableImage as error:
            where = self.source.describe(index)
            say(f"warning: {where} can no longer be read ({error}) and is skipped from here on")
            self.lost[index] = True
            return None
