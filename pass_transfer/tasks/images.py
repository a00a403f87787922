"""Where images come from: a decoded array that is kept, or files decoded as they are needed.

Small tasks are decoded and resized once into a uint8 array in the cache folder and
memory-mapped from then on; PIL for every sample could not feed a training step on
two cores. A task larger than CACHE_LIMIT is decoded on the way, several at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pass_transfer.errors import TaskError
from pass_transfer.files import make_folder, read_json, write_json
from pass_transfer.progress import progress_bar

CACHE_LIMIT = 8 << 30  # bytes a decoded split may take on the disk
BLOCK = 512  # images decoded between two progress updates

Encoded = (
    bytes | str | np.ndarray
)  # an image file's content, its path, or an (H, W) or (H, W, 3) uint8 array


@dataclass(frozen=True)
class Source:
    """Undecoded images with labels. `fetch(i)` gives image i's content, path or array.

    `fingerprint` names the content: the same source always has the same one.
    """

    fetch: Callable[[int], Encoded]
    labels: np.ndarray
    fingerprint: str
    describe: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)


def decode(encoded: Encoded, size: int) -> np.ndarray:
    """One image as an RGB uint8 array (size, size, 3), resized without keeping its aspect ratio.

    Raises TaskError for damaged content.
    """
    if isinstance(encoded, np.ndarray):
        return _to_array(Image.fromarray(encoded), size)
    with _damage_is_task_error():
        image = Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded)
        if max(image.size) > 4 * size:
            image.draft("RGB", (2 * size, 2 * size))
        return _to_array(image, size)


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
    except (
        Exception
    ) as error:  # for damaged content PIL raises nearly every kind, by format and place
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

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """uint8 images (B, 3, S, S)."""
        return to_batch(self.pixels[np.asarray(indices)])


@dataclass(frozen=True)
class StreamedImages:
    """Images decoded on the way. A damaged one raises TaskError: it was whole when the task was checked."""

    source: Source
    size: int

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Sequence[int]) -> torch.Tensor:
        """uint8 images (B, 3, S, S)."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return to_batch(np.stack(list(pool.map(lambda i: self._one(int(i)), indices))))

    def _one(self, index: int) -> np.ndarray:
        try:
            return decode(self.source.fetch(index), self.size)
        except TaskError as error:
            raise TaskError(
                f"{self.source.describe(index)} can no longer be decoded: {error}"
            ) from error


def cache_folder() -> Path:
    """Where decoded tasks are kept: $PASS_TRANSFER_CACHE, else pass-transfer in the user's cache folder."""
    root = os.environ.get("PASS_TRANSFER_CACHE")
    return (
        Path(root)
        if root
        else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pass-transfer"
    )


def open_images(
    source: Source, size: int, label: str
) -> tuple[CachedImages | StreamedImages, np.ndarray, list[int]]:
    """Images of a source at one size: (images, positions that decoded, positions that did not).

    Decodes everything once and remembers it, unless the result would be larger than
    CACHE_LIMIT. An unwritable cache folder or a full disk is no obstacle: the array is
    then kept in memory for this process.
    """
    if len(source) * size * size * 3 > CACHE_LIMIT:
        bad = _check_headers(source, label)
        return StreamedImages(source, size), np.setdiff1d(np.arange(len(source)), bad), bad
    key = hashlib.sha256(f"{source.fingerprint} {size} {len(source)}".encode()).hexdigest()[:24]
    array_path, note_path = cache_folder() / f"{key}.npy", cache_folder() / f"{key}.json"
    try:
        pixels, bad = _recall(array_path, note_path, (len(source), size, size, 3))
    except (OSError, EOFError, ValueError, KeyError, TypeError):  # not there yet, or damaged
        pixels, bad = _decode_all(source, size, label)
        _remember(pixels, bad, array_path, note_path)
    return CachedImages(pixels), np.setdiff1d(np.arange(len(source)), bad), list(bad)


def _recall(
    array_path: Path, note_path: Path, shape: tuple[int, ...]
) -> tuple[np.ndarray, list[int]]:
    bad = read_json(note_path)["damaged"]
    pixels = np.load(array_path, mmap_mode="r")
    if pixels.shape != shape or pixels.dtype != np.uint8:
        raise ValueError(f"{array_path} holds {pixels.dtype} {pixels.shape}")
    return pixels, bad


def _decode_all(source: Source, size: int, label: str) -> tuple[np.ndarray, list[int]]:
    pixels = np.zeros((len(source), size, size, 3), np.uint8)
    bad: list[int] = []

    def one(index: int) -> int | None:
        try:
            pixels[index] = decode(source.fetch(index), size)
        except TaskError:
            return index
        return None

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress_bar(f"decoding {label}", len(source), "images") as bar,
    ):
        for start in range(0, len(source), BLOCK):
            block = range(start, min(start + BLOCK, len(source)))
            bad += [i for i in pool.map(one, block) if i is not None]
            bar.advance(len(block))
    return pixels, bad


def _check_headers(source: Source, label: str) -> list[int]:
    """Positions whose file is not an image, judged by its header, without decoding pixels."""
    bad = []
    with progress_bar(f"checking {label}", len(source), "images") as bar:
        for index in range(len(source)):
            encoded = source.fetch(index)
            try:
                with _damage_is_task_error():
                    if not isinstance(encoded, np.ndarray):
                        Image.open(
                            io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
                        ).verify()
            except TaskError:
                bad.append(index)
            bar.advance(1)
    return bad


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
