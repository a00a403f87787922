"""Checks of settings: a value that is not allowed is refused by its name."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pass_transfer.errors import UsageError

MOST = 1 << 48  # beyond any count of images, steps or channels


def check_whole(config: object, **least: int) -> None:
    """Refuse fields that are no whole numbers, below their least value, or absurdly large.

    A field that is None is left alone. Raises UsageError.
    """
    for field, lowest in least.items():
        value = getattr(config, field)
        if value is not None and not is_whole(value, lowest):
            raise UsageError(f"{field} is {value}; it is a whole number from {lowest}", field)


def is_whole(value: object, least: int = 1) -> bool:
    """Whether a value is an integer, no bool, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < MOST


def check_positive(config: object, *fields: str, zero: bool = False) -> None:
    """Refuse fields that are not finite and above zero (or zero itself, with zero=True).

    Raises UsageError.
    """
    for field in fields:
        value = getattr(config, field)
        number = isinstance(value, (int, float)) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and not zero):
            wanted = "zero or a positive number" if zero else "a positive number"
            raise UsageError(f"{field} is {value}; it is {wanted}", field)


def check_choice(field: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse a value that is none of those allowed. Raises UsageError."""
    if value not in allowed:
        raise UsageError(f"{field} is {value!r}; choose one of {', '.join(allowed)}", field)
