"""Files are data: JSON and safetensors, written atomically and checked by sha-256.

`write_bytes` writes beside the target, flushes to the disk and renames, so that a
reader sees either the old file or the whole new one, also after a power cut. What a
kill leaves beside it ends in PART.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pass_transfer.errors import StorageError

if TYPE_CHECKING:
    import torch

PART = ".part"
DEEPEST = 100  # objects and lists in one another; ours have five


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal sha-256 of a file's content. Raises StorageError if it cannot be read."""
    with os_errors(f"cannot read {path}", path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def os_errors(failure: str, path: str | os.PathLike) -> Iterator[None]:
    """Turn what the system refuses into a StorageError that says what failed, and why."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        # safetensors says the path once more
        raise StorageError(f"{failure}: {reason.removesuffix(f': {path}')}") from error


def make_folder(path: str | os.PathLike) -> Path:
    """Create a folder and its parents. Raises StorageError where that is not allowed."""
    path = Path(path)
    with os_errors(f"cannot create the folder {path}", path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write a whole file or nothing. Raises StorageError (no space, no permission)."""
    path = Path(path)
    try:
        _replace(path, content)
    except OSError as error:
        advice = "Choose another folder."
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "Free some space or choose another folder."
        raise StorageError(f"cannot write {path}: {error.strerror or error}. {advice}") from error


def _replace(path: Path, content: bytes) -> None:
    aside: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=PART, delete=False
        ) as file:
            aside = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o644)
        os.replace(aside, path)
        aside = None
        _flush_folder(path.parent)
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a rename in a folder durable, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a value as indented JSON, atomically. NaN and infinity are refused (ValueError)."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """What write_json writes."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def read_text(path: str | os.PathLike) -> str:
    """Read a text file. Raises StorageError if it is missing or not UTF-8."""
    try:
        with os_errors(f"cannot read {path}", path):
            return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StorageError(f"{path} is not a text file ({error})") from error


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises StorageError if it is missing or not JSON. A name that an object has twice, NaN,
    numbers beyond a float and a nesting of more than DEEPEST are not ours.
    """
    try:
        value = json.loads(
            read_text(path),
            parse_constant=_no_number,
            parse_float=_finite,
            object_pairs_hook=_named_once,
        )
        _check_depth(value)
    except (ValueError, RecursionError) as error:
        raise StorageError(
            f"{path} is not valid JSON ({error}); it is damaged or not one of our files"
        ) from error
    return value


def read_object(path: str | os.PathLike) -> dict[str, Any]:
    """Read a JSON file that holds an object. Raises StorageError as read_json, and for others."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise StorageError(f"{path} holds no JSON object; it is damaged or not one of our files")
    return value


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large for a number")
    return value


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} is there twice")
    return found


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        inside: list[Any] = []
        for one in level:
            if isinstance(one, (dict, list)):
                inside += one.values() if isinstance(one, dict) else one
        if not inside:
            return
        level = inside
    raise ValueError(f"it is nested more than {DEEPEST} times")


def write_tensors(path: str | os.PathLike, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write named tensors as safetensors, atomically; equal tensors give equal bytes."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(plain))


def read_tensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read a safetensors file onto the CPU. Raises StorageError if missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with os_errors(f"cannot read {path}", path):
            return load_file(path)
    except SafetensorError as error:
        raise StorageError(f"{path} is not a whole safetensors file ({error})") from error
