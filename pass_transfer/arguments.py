"""Checks of a call's arguments: one of another kind is refused by its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pass_transfer.errors import UsageError

LONGEST = 60  # characters of a value in a message
ABSENT = (FileNotFoundError, NotADirectoryError, PermissionError)  # a path, though nothing is there


def check_is(argument: str, value: object, kind: type | tuple[type, ...], wanted: str) -> None:
    """Refuse a value of another kind; `wanted` says what it is to be. Raises UsageError."""
    if not isinstance(value, kind):
        raise UsageError(f"{argument} is {named(value)}; it is {wanted}", argument)


def check_path(argument: str, value: Any) -> None:
    """Refuse what no file or folder can be called. Raises UsageError."""
    check_is(argument, value, (str, os.PathLike), "a path, as str or Path")
    try:
        os.stat(value)
    except ABSENT:
        return
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{argument} is {named(value)}; it is no path: {why}", argument) from error


def expanded(path: str | Path) -> Path:
    """A path with ~ as the user's home. Raises UsageError for a user that is not known."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: there is no such user's home") from error


def named(value: object) -> str:
    """A plain value as Python writes it, cut short; anything else by its type."""
    if value is None or isinstance(value, (str, int, float, Path)):
        text = repr(value) if not isinstance(value, Path) else str(value)
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return f"a {type(value).__name__}"
