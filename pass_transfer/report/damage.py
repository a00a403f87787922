"""Results that cannot be shown: files that are damaged, or of another version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pass_transfer.errors import StorageError

# What working with a value of another kind than expected may raise.
UNFITTING = (KeyError, TypeError, AttributeError, ValueError, IndexError, ArithmeticError)


@contextmanager
def damage_refused(message: str) -> Iterator[None]:
    """Raise StorageError with a message where values within do not fit together."""
    try:
        yield
    except UNFITTING as error:
        raise StorageError(f"{message} ({type(error).__name__}: {error})") from error
