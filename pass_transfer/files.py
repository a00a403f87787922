"""Files are data: JSON and safetensors, written atomically and checked by sha-256.

`write_bytes` writes beside the target, flushes to the disk and renames, so that a
reader sees either the old file or the whole new one, also after a power cut. What a
kill leaves beside it ends in PART.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pass_transfer.errors import StorageError

if TYPE_CHECKING:
    import torch

PART = ".part"


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal sha-256 of a file's content. Raises StorageError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()


def make_folder(path: str | os.PathLike) -> Path:
    """Create a folder and its parents. Raises StorageError where that is not allowed."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot create the folder {path}: {error.strerror or error}") from error
    return path


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write a whole file or nothing. Raises StorageError (no space, no permission)."""
    path = Path(path)
    aside = None
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=PART, delete=False
        ) as file:
            aside = file.name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
        aside = None
        _flush_folder(path.parent)
    except OSError as error:
        advice = (
            "Free some space or choose another folder."
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else "Choose another folder."
        )
        raise StorageError(f"cannot write {path}: {error.strerror or error}. {advice}") from error
    finally:
        if aside is not None:
            Path(aside).unlink(missing_ok=True)


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
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_text(path: str | os.PathLike) -> str:
    """Read a text file. Raises StorageError if it is missing or not UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise StorageError(f"{path} is not a text file ({error})") from error


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file. Raises StorageError if it is missing or not JSON."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise StorageError(
            f"{path} is not valid JSON ({error}); it is damaged or not one of our files"
        ) from error


def write_tensors(path: str | os.PathLike, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write named tensors as safetensors, atomically; equal tensors give equal bytes."""
    from safetensors.torch import save

    write_bytes(
        path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    )


def read_tensors(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read a safetensors file onto the CPU. Raises StorageError if missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise StorageError(f"{path} is not a whole safetensors file ({error})") from error
