"""Where images come from: a decoded array that is kept, or files decoded as they are needed.

Small tasks are decoded and resized once into a uint8 array in the cache folder and
memory-mapped from then on; PIL for every sample could not feed a training step on
two cores. A task larger than CACHE_LIMIT is decoded as it is read, several images at once.
Either way every image is read whole once, and hashed; what cannot be decoded is left out.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pass_transfer.arguments import check_path
from pass_transfer.errors import StorageError, TaskError
from pass_transfer.files import read_json, write_json
from pass_transfer.preprocessing import Preprocessing
from pass_transfer.progress import progress_bar, say
from pass_transfer.tasks.cache import (
    NOTE,
    cache_folder,
    cache_limit,
    decoded_folder,
    keep_decoded,
    touch,
)
from pass_transfer.tasks.decoding import UnreadableImage, content_of, decode, decoder, picture
from pass_transfer.tasks.hashes import UNREAD, FileHashes
from pass_transfer.tasks.left_out import LeftOut, Tally
from pass_transfer.tasks.readers import CachedImages, StreamedImages, to_batch
from pass_transfer.tasks.source import Source

CACHE_LIMIT = 8 << 30  # bytes a decoded split may take on the disk
BLOCK = 512  # images decoded between two progress updates
PIECE = 16  # images that one thread decodes at a time
PIXELS, CONTENT = "pixels.npy", "content.npy"
HASH_BYTES = 32


def read_image(path: str | Path, size: int | Preprocessing) -> torch.Tensor:
    """An image file as every reader of this library sees it: (3, S, S) float32 in [0, 1].

    Args:
        path: of any kind that docs/data.md names.
        size: side in pixels of the centre that is taken of the image, or how a network
            sees it (`model.spec.preprocessing`).

    Raises:
        TaskError: a file that is missing or no image; it is named.
        UsageError: no path, or no size.
    """
    check_path("path", path)
    preprocessing = Preprocessing.of(size)
    try:
        pixels = decode(os.fspath(path), preprocessing)
    except UnreadableImage as error:
        raise TaskError(f"{path} cannot be read as an image: {error}") from error
    return to_batch(pixels[None].copy())[0].float() / 255


@dataclass(frozen=True)
class OpenedImages:
    """A source as a network sees it.

    Fields:
        images: all of the source's, at its positions.
        good: the positions (G,) that can be decoded.
        content: (N, 32) uint8, the sha-256 of each image's file; zeros where it cannot be read.
        left_out: the others.
        treated: how many images needed what decoding.py calls TURNED, TRANSPARENT, DEEP or LONG.
    """

    images: CachedImages | StreamedImages
    good: np.ndarray
    content: np.ndarray
    left_out: tuple[LeftOut, ...]
    treated: dict[str, int]


@dataclass
class _Pass:
    """What reading a source gives, position by position."""

    content: np.ndarray  # (N, 32) uint8
    pixels: np.ndarray | None  # (N, K, K, 3) uint8; None where they are not kept
    problems: dict[int, tuple[str, str]] = field(default_factory=dict)  # reason and detail
    treated: Counter[str] = field(default_factory=Counter)
    passing: bool = False  # whether an image with this content may be readable at the next try

    def note(self, title: str, preprocessing: Preprocessing) -> dict[str, Any]:
        """What is kept beside the arrays."""
        problems = {str(position): problem for position, problem in self.problems.items()}
        treated = dict(sorted(self.treated.items()))
        counts = {"images": len(self.content), "treated": treated, "problems": problems}
        return {"title": title, **preprocessing.saved(), **counts}


def open_images(source: Source, preprocessing: Preprocessing, title: str) -> OpenedImages:
    """Images of a source as a network sees them.

    Decodes everything once and remembers it, unless the result would be larger than
    CACHE_LIMIT; then it remembers which images are whole. An unwritable cache folder or a full
    disk is no obstacle: the array is then kept in memory for this process.
    """
    cache_limit()  # a wrong setting is refused before the work
    keeps = math.prod(_shape(len(source), preprocessing)) <= CACHE_LIMIT
    hashes = FileHashes(source.root) if source.root is not None else None
    known = hashes.known(source.files) if hashes else []
    key = _key(source, known, preprocessing, keeps)
    found = None if key is None else _recall(key, len(source), preprocessing, keeps)
    if found is None:
        found = _read_all(source, preprocessing, title, hashes, keeps)
    images: CachedImages | StreamedImages
    if found.pixels is None:
        images = StreamedImages.of(source, preprocessing)
    else:
        images = CachedImages(found.pixels, preprocessing.size)
    tally = Tally()
    for position, (reason, _) in found.problems.items():
        tally.add(reason, source.short_name(position))
    good = np.setdiff1d(np.arange(len(source)), list(found.problems))
    return OpenedImages(images, good, found.content, tally.all(), dict(found.treated))


def _shape(count: int, preprocessing: Preprocessing) -> tuple[int, int, int, int]:
    """Of the array in which images are kept."""
    return count, preprocessing.kept, preprocessing.kept, 3


def _key(
    source: Source, known: Sequence[str | None], preprocessing: Preprocessing, keeps: bool
) -> str | None:
    """What the content is kept under; None where too many files have to be read first."""
    content = source.fingerprint
    if content is None:
        if not known or None in known:
            return None
        content = hashlib.sha256("".join(map(str, known)).encode()).hexdigest()
    parts = (decoder(), content, len(source), preprocessing.saved(), keeps)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _recall(key: str, count: int, preprocessing: Preprocessing, keeps: bool) -> _Pass | None:
    """What is kept under a key; None where it is not there, or damaged."""
    folder = decoded_folder(key)
    try:
        note = read_json(folder / NOTE)
        problems = _problems(note["problems"], count)
        content = _load(folder / CONTENT, (count, HASH_BYTES))
        pixels = _load(folder / PIXELS, _shape(count, preprocessing)) if keeps else None
        found = _Pass(content, pixels, problems, Counter(note["treated"]))
    except Exception:  # whatever a damaged file raises; it is made again
        return None
    touch(folder)
    return found


def _problems(noted: Mapping[str, Any], count: int) -> dict[int, tuple[str, str]]:
    """Positions with reason and detail. Raises ValueError for what is none."""
    problems = {}
    for place, (reason, detail) in noted.items():
        position = int(place)
        if not 0 <= position < count or not isinstance(reason, str) or not isinstance(detail, str):
            raise ValueError(f"{place} is no image of {count}")
        problems[position] = reason, detail
    return problems


def _load(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    array = np.load(path, mmap_mode="r")
    if array.shape != shape or array.dtype != np.uint8:
        raise ValueError(f"{path} holds {array.dtype} {array.shape}")
    return array


def _read_all(
    source: Source,
    preprocessing: Preprocessing,
    title: str,
    hashes: FileHashes | None,
    keeps: bool,
) -> _Pass:
    """Every image read, hashed and decoded once; kept in the cache, if that can be."""
    began = time.time_ns()
    count = len(source)
    pixels = np.zeros(_shape(count, preprocessing), np.uint8) if keeps else None
    found = _Pass(np.zeros((count, HASH_BYTES), np.uint8), pixels)
    for position, problem in _decoded(source, preprocessing, title, found):
        if problem is not None:
            found.problems[position] = problem.reason, str(problem)
            was_read = hashes is None or bool(found.content[position].any())
            found.passing |= was_read and not problem.lasts
    known = []
    if hashes is not None:
        known = [_hexadecimal(row) for row in found.content]
        hashes.remember(source.files, known, began)
    key = _key(source, known, preprocessing, keeps)
    if key is None or found.passing:
        return found
    _keep(key, found, title, preprocessing)
    return _recall(key, count, preprocessing, keeps) or found  # on the disk, it takes no memory


def _decoded(
    source: Source, preprocessing: Preprocessing, title: str, found: _Pass
) -> Iterator[tuple[int, UnreadableImage | None]]:
    """Decode every image into `found`, with what is wrong with each."""

    def one(position: int) -> tuple[tuple[str, ...], UnreadableImage | None]:
        try:
            content = content_of(source.fetch(position))
            digest = hashlib.sha256(_bytes_of(content)).digest()
            found.content[position] = np.frombuffer(digest, np.uint8)
            seen = picture(content, preprocessing, preprocessing.kept)
        except UnreadableImage as error:
            return (), error
        if found.pixels is not None:
            found.pixels[position] = seen.pixels
        return seen.treated, None

    def several(positions: range) -> list[tuple[tuple[str, ...], UnreadableImage | None]]:
        return [one(position) for position in positions]

    doing = "decoding" if found.pixels is not None else "checking"
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress_bar(f"{doing} {title}", len(source), "images") as bar,
    ):
        for block in _ranges(range(len(source)), BLOCK):
            pieces = _ranges(block, PIECE)
            results = itertools.chain.from_iterable(pool.map(several, pieces))
            for position, (treated, problem) in zip(block, results):
                found.treated.update(treated)
                yield position, problem
            bar.advance(len(block))


def _ranges(whole: range, length: int) -> list[range]:
    """A range in pieces of a length; the last one may be shorter."""
    return [whole[start : start + length] for start in range(0, len(whole), length)]


def _bytes_of(content: bytes | np.ndarray) -> bytes:
    return content.tobytes() if isinstance(content, np.ndarray) else content


def _hexadecimal(row: np.ndarray) -> str:
    """A hash as text; UNREAD where there is none."""
    return row.tobytes().hex() if row.any() else UNREAD


def _keep(key: str, found: _Pass, title: str, preprocessing: Preprocessing) -> None:
    def write(folder: Path) -> None:
        if found.pixels is not None:
            np.save(folder / PIXELS, found.pixels)
        np.save(folder / CONTENT, found.content)
        write_json(folder / NOTE, found.note(title, preprocessing))

    try:
        kept = keep_decoded(key, write)
    except StorageError:
        kept = None
    if kept is None:
        say(f"{title}: the cache in {cache_folder()} cannot keep the decoded images")
