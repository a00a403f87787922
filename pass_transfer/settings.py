"""Checks of settings, with the flag's name in the message."""

from __future__ import annotations

from pass_transfer.errors import UsageError


def flag(field: str) -> str:
    """The command line's name of a field."""
    return f"--{field.replace('_', '-')}"


def check_whole(config: object, **least: int) -> None:
    """Refuse fields that are below their least value, or absurdly large; None is left alone. Raises UsageError."""
    for field, lowest in least.items():
        value = getattr(config, field)
        if value is not None and not lowest <= value < 1 << 48:
            raise UsageError(f"{flag(field)} is {value}; it is a whole number from {lowest}")


def check_positive(config: object, *fields: str, zero: bool = False) -> None:
    """Refuse fields that are not finite and above zero (or zero itself, with zero=True). Raises UsageError."""
    for field in fields:
        value = getattr(config, field)
        if not 0 <= value < float("inf") or (value == 0 and not zero):
            raise UsageError(
                f"{flag(field)} is {value}; it is {'zero or ' if zero else ''}a positive number"
            )
