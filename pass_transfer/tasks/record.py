"""Which images a task has: what a run keeps of them, and how those of another day differ.

Of every image two hashes are kept: of its name (with its class) and of its file's content. The
place of the data is in neither, so data that was moved or copied is the same.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pass_transfer.errors import StorageError
from pass_transfer.files import read_tensors, write_tensors
from pass_transfer.tasks.source import UNSPLIT

DATA = "data.safetensors"  # in a run's folder
SHORT = 8  # bytes of a hash that are kept of each image
WORDS = {UNSPLIT: "images", "train": "train images", "val": "val images", "test": "test images"}


@dataclass(frozen=True)
class SplitRecord:
    """The images of a split as it is given: (N,) int64 hashes of their names and contents."""

    names: np.ndarray
    contents: np.ndarray
    fingerprint: str

    @classmethod
    def of(
        cls, class_names: Sequence[str], names: Sequence[str], content: np.ndarray
    ) -> SplitRecord:
        """From the images' names with their classes, and their contents' sha-256 (N, 32) uint8.

        The classes' order counts in the fingerprint: by it a network's outputs are named.
        """
        hashed = [_hash(name) for name in names]
        whole = hashlib.sha256("\n".join(class_names).encode() + b"".join(hashed))
        whole.update(np.ascontiguousarray(content).tobytes())
        named = np.frombuffer(b"".join(hashed), np.uint8).reshape(-1, 32)
        return cls(short_hashes(named), short_hashes(content), whole.hexdigest())


@dataclass(frozen=True)
class DataRecord:
    """A task's images.

    Fields:
        splits: of each split as it is given.
        learned: (N,) int64 hashes of the contents that networks are trained on or chosen by.
    """

    splits: Mapping[str, SplitRecord]
    learned: np.ndarray

    def fingerprints(self) -> dict[str, Any]:
        """What config.json has of each split: how many images, and a hash of them all."""
        return {
            split: {"images": len(record.names), "sha256": record.fingerprint}
            for split, record in self.splits.items()
        }

    def fingerprint(self) -> str:
        """One hash of all splits, in 16 hexadecimal digits."""
        whole = "".join(f"{split} {one.fingerprint}" for split, one in sorted(self.splits.items()))
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write data.safetensors into a run's folder. Raises StorageError."""
        parts = {"learned": self.learned}
        for split, record in self.splits.items():
            parts |= {f"{split}.names": record.names, f"{split}.contents": record.contents}
        write_tensors(folder / DATA, {name: torch.from_numpy(part) for name, part in parts.items()})


def read_data(folder: Path) -> dict[str, np.ndarray]:
    """The hashes that DataRecord.save wrote, by name; nothing where it wrote none.

    Raises:
        StorageError: the file is damaged.
    """
    if not (folder / DATA).is_file():
        return {}
    parts = {name: tensor.numpy() for name, tensor in read_tensors(folder / DATA).items()}
    if any(part.ndim != 1 or part.dtype != np.int64 for part in parts.values()):
        raise StorageError(f"{folder / DATA} does not hold hashes of images")
    return parts


def _hash(name: str) -> bytes:
    """Of a name in composed Unicode, as macOS decomposes it."""
    composed = unicodedata.normalize("NFC", name)
    return hashlib.sha256(composed.encode(errors="surrogatepass")).digest()


def short_hashes(hashes: np.ndarray) -> np.ndarray:
    """The first bytes of (N, 32) uint8 hashes, as (N,) int64."""
    return np.ascontiguousarray(hashes[:, :SHORT]).view("<i8")[:, 0].copy()


def difference(old: Mapping[str, np.ndarray], new: DataRecord) -> list[str]:
    """How a task's images differ from those of read_data, in words by split."""
    said = []
    splits = {name.partition(".")[0] for name in old if "." in name} | set(new.splits)
    for split in sorted(splits):
        then = _pairs(old.get(f"{split}.names"), old.get(f"{split}.contents"))
        record = new.splits.get(split)
        now = _pairs(record.names, record.contents) if record else []
        changes = _changes(then, now)
        if changes:
            counts = ", ".join(f"{count} {what}" for what, count in changes.items() if count)
            said.append(f"{WORDS.get(split, split)}: {counts} ({len(now)} now, {len(then)} then)")
    return said


def _pairs(names: np.ndarray | None, contents: np.ndarray | None) -> list[tuple[int, int]]:
    if names is None or contents is None:
        return []
    return list(zip(names.tolist(), contents.tolist()))


def _changes(then: list[tuple[int, int]], now: list[tuple[int, int]]) -> dict[str, int]:
    """How many images were edited, renamed, added and removed; nothing where none was."""
    if then == now:
        return {}
    gone, come = Counter(then) - Counter(now), Counter(now) - Counter(then)
    edited = sum((_one_of(gone, 0) & _one_of(come, 0)).values())
    renamed = sum((_one_of(gone, 1) & _one_of(come, 1)).values())
    renamed = min(renamed, sum(gone.values()) - edited)
    changes = {
        "with other content": edited,
        "renamed": renamed,
        "added": sum(come.values()) - edited - renamed,
        "removed": sum(gone.values()) - edited - renamed,
    }
    return changes if any(changes.values()) else {"in another order": len(now)}


def _one_of(pairs: Counter[tuple[int, int]], which: int) -> Counter[int]:
    """The names (0) or the contents (1) of pairs, as often as they are there."""
    found: Counter[int] = Counter()
    for pair, count in pairs.items():
        found[pair[which]] += count
    return found
