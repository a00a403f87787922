"""Where images come from: a decoded array that is kept, or files decoded as they are needed.

Small tasks are decoded and resized once into a uint8 array in the cache folder and
memory-mapped from then on; PIL for every sample could not feed a training step on
two cores. A task larger than CACHE_LIMIT is decoded as it is read, several images at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pass_transfer.errors import TaskError
from pass_transfer.files import make_folder, read_json, write_json
from pass_transfer.progress import progress_bar
from pass_transfer.tasks.source import Encoded, Source

CACHE_LIMIT = 8 << 30  # bytes a decoded split may take on the disk
BLOCK = 512  # images decoded between two progress updates


def decode(encoded: Encoded, size: int) -> np.ndarray:
    """One image as an RGB uint8 array (size, size, 3), resized without keeping its aspect ratio.

    Raises TaskError for damaged content.
    """
    if isinstance(encoded, np.ndarray):
        return _to_array(Image.fromarray(encoded), size)
    with _damage_is_task_error():
        image = _open(encoded)
        if max(image.size) > 4 * size:
            image.draft("RGB", (2 * size, 2 * size))
        return _to_array(image, size)


def _open(encoded: bytes | str) -> Image.Image:
    return Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded)


def _to_array(image: Image.Image, size: int) -> np.ndarray:
    image = image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


@contextlib.contextmanager
def _damage_is_task_error() -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # PIL raises nearly every kind, by format and place of the damage
        raise TaskError(f"{type(error).__name__}: {error}") from error


def to_batch(pixels: np.ndarray) -> torch.Tensor:
    """(B, S, S, 3) uint8 array to a (B, 3, S, S) uint8 tensor in channels_last memory format."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class CachedImages:
    """Decoded images (N, S, S, 3) uint8, in memory or mapped from the cache."""

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """uint8 images (B, 3, S, S) for indices (B,)."""
        return to_batch(self.pixels[indices])


@dataclass(frozen=True)
class StreamedImages:
    """Images decoded as they are read.

    A damaged one raises TaskError: it was whole when the task was checked.
    """

    source: Source
    size: int

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """uint8 images (B, 3, S, S) for indices (B,)."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = list(pool.map(self._decode, indices.tolist()))
        return to_batch(np.stack(decoded))

    def _decode(self, index: int) -> np.ndarray:
        try:
            return decode(self.source.fetch(index), self.size)
        except TaskError as error:
            where = self.source.describe(index)
            raise TaskError(f"{where} can no longer be decoded: {error}") from error


def cache_folder() -> Path:
    """Where decoded tasks are kept.

    It is $PASS_TRANSFER_CACHE, or pass-transfer in the user's cache folder.
    """
    chosen = os.environ.get("PASS_TRANSFER_CACHE")
    if chosen:
        return Path(chosen)
    user_cache = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    return Path(user_cache) / "pass-transfer"


def open_images(
    source: Source, size: int, label: str
) -> tuple[CachedImages | StreamedImages, np.ndarray, list[int]]:
    """Images of a source at one size: (images, positions that decoded, positions that did not).

    Decodes everything once and remembers it, unless the result would be larger than
    CACHE_LIMIT. An unwritable cache folder or a full disk is no obstacle: the array is
    then kept in memory for this process.
    """
    images: CachedImages | StreamedImages
    shape = (len(source), size, size, 3)
    if math.prod(shape) > CACHE_LIMIT:
        bad = _check_headers(source, label)
        images = StreamedImages(source, size)
    else:
        pixels, bad = _cached(source, shape, label)
        images = CachedImages(pixels)
    return images, np.setdiff1d(np.arange(len(source)), bad), bad


def _cached(
    source: Source, shape: tuple[int, int, int, int], label: str
) -> tuple[np.ndarray, list[int]]:
    """The decoded pixels and the positions that did not decode, from the cache if it has them."""
    count, size, _, _ = shape
    key = hashlib.sha256(f"{source.fingerprint} {size} {count}".encode()).hexdigest()[:24]
    array_path, note_path = cache_folder() / f"{key}.npy", cache_folder() / f"{key}.json"
    try:
        return _recall(array_path, note_path, shape)
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # not there yet, or damaged
        pixels, bad = _decode_all(source, size, label)
        _remember(pixels, bad, array_path, note_path)
        return pixels, bad


def _recall(
    array_path: Path, note_path: Path, shape: tuple[int, ...]
) -> tuple[np.ndarray, list[int]]:
    bad = list(read_json(note_path)["damaged"])
    pixels = np.load(array_path, mmap_mode="r")
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise ValueError(f"{array_path} holds {pixels.dtype} {pixels.shape}")
    return pixels, bad


def _decode_all(source: Source, size: int, label: str) -> tuple[np.ndarray, list[int]]:
    pixels = np.zeros((len(source), size, size, 3), np.uint8)
    bad: list[int] = []

    def decoded(index: int) -> bool:
        try:
            pixels[index] = decode(source.fetch(index), size)
        except TaskError:
            return False
        return True

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress_bar(f"decoding {label}", len(source), "images") as bar,
    ):
        for start in range(0, len(source), BLOCK):
            block = range(start, min(start + BLOCK, len(source)))
            bad += [index for index, whole in zip(block, pool.map(decoded, block)) if not whole]
            bar.advance(len(block))
    return pixels, bad


def _check_headers(source: Source, label: str) -> list[int]:
    """Positions whose file is not an image, judged by its header, without decoding pixels."""
    bad = []
    with progress_bar(f"checking {label}", len(source), "images") as bar:
        for index in range(len(source)):
            encoded = source.fetch(index)
            if not isinstance(encoded, np.ndarray) and not _has_header(encoded):
                bad.append(index)
            bar.advance(1)
    return bad


def _has_header(encoded: bytes | str) -> bool:
    try:
        with _damage_is_task_error():
            _open(encoded).verify()
    except TaskError:
        return False
    return True


def _remember(pixels: np.ndarray, bad: list[int], array_path: Path, note_path: Path) -> None:
    aside = array_path.with_suffix(f".{os.getpid()}.tmp")
    try:
        make_folder(array_path.parent)
        with open(aside, "wb") as file:
            np.save(file, pixels)
        os.replace(aside, array_path)
        write_json(note_path, {"damaged": bad})
    except OSError:  # StorageError is one too
        with contextlib.suppress(OSError):
            aside.unlink()
