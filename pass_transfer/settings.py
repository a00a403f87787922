"""Checks of settings, given or read from a file: a wrong value is refused by its name."""

from __future__ import annotations

import math
import reprlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pass_transfer.errors import UsageError

MOST = 1 << 48  # beyond any count of images, steps or channels
# Of a value in a message: characters of a text and of a whole list, fields and levels of an object.
LONGEST, LONGEST_LIST, FIELDS_SHOWN, LEVELS_SHOWN = 60, 400, 20, 3


@dataclass(frozen=True)
class Kind:
    """What a value may be: `words` say it in a message, `fits` tells."""

    words: str
    fits: Callable[[Any], bool]


TEXT = Kind("a text", lambda value: isinstance(value, str))
TRUTH = Kind("true or false", lambda value: isinstance(value, bool))
OBJECT = Kind("an object with names", lambda value: isinstance(value, dict))
ANYTHING = Kind("anything", lambda value: True)


def whole(least: int = 0, most: int = MOST - 1) -> Kind:
    """Whole numbers between two bounds, and no bool."""
    bound = f"from {least}" if most == MOST - 1 else f"from {least} to {most}"
    return Kind(f"a whole number {bound}", lambda value: is_whole(value, least) and value <= most)


def number(least: float = -MOST, most: float = MOST) -> Kind:
    """Numbers between two bounds."""
    bound = f" from {least:g}" if most == MOST else f" from {least:g} to {most:g}"
    return Kind(
        f"a number{'' if least == -MOST else bound}",
        lambda value: is_number(value) and least <= value <= most,
    )


def maybe(kind: Kind) -> Kind:
    """A kind, or null."""
    return Kind(f"{kind.words}, or null", lambda value: value is None or kind.fits(value))


def listed(kind: Kind) -> Kind:
    """A list of values of a kind."""
    return Kind(
        f"a list, each {kind.words}",
        lambda value: isinstance(value, list) and all(map(kind.fits, value)),
    )


def named(kind: Kind) -> Kind:
    """An object whose values are of a kind."""
    return Kind(
        f"an object with names, each {kind.words}",
        lambda value: isinstance(value, dict) and all(map(kind.fits, value.values())),
    )


def shaped(**fields: Kind) -> Kind:
    """An object with these fields, each of its kind."""

    def fits(value: Any) -> bool:
        if not isinstance(value, dict) or set(value) != set(fields):
            return False
        return all(kind.fits(value[name]) for name, kind in fields.items())

    return Kind(f"an object with {', '.join(fields)}", fits)


def check_fields(
    given: object,
    needed: Mapping[str, Kind],
    known: Mapping[str, Kind] | None = None,
    closed: bool = False,
) -> None:
    """Refuse what was read from JSON where a field is missing or of another kind.

    Args:
        needed: the kinds of the fields that must be there.
        known: those of fields that may be there.
        closed: whether any other field is refused, too.

    Raises:
        UsageError: it names the field, what it is, and what it is to be.
    """
    if not isinstance(given, Mapping):
        raise UsageError(f"{shown(given)} is no JSON object with {', '.join(needed)}")
    kinds = {**(known or {}), **needed}
    for name in needed:
        if name not in given:
            raise UsageError(f"the field {name} is missing", name)
    for name, value in given.items():
        if name in kinds and not kinds[name].fits(value):
            raise UsageError(f"{name} is {shown(value)}; it is {kinds[name].words}", name)
        if name not in kinds and closed:
            raise UsageError(f"the field {shown(name)} is unknown; known: {', '.join(kinds)}")


def shown(value: object) -> str:
    """A value in a message, as Python writes it; cut short where that is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = LONGEST
    short.maxdict, short.maxlevel = FIELDS_SHOWN, LEVELS_SHOWN
    try:
        text = short.repr(value)
    except ValueError:  # Python writes no integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_LIST else f"{text[:LONGEST_LIST]}..."


def check_whole(config: object, *, most: int = MOST - 1, **least: int) -> None:
    """Refuse fields that are no whole numbers, below their least value, or absurdly large.

    A field that is None is left alone. Raises UsageError.
    """
    for field, lowest in least.items():
        value, kind = getattr(config, field), whole(lowest, most)
        if value is not None and not kind.fits(value):
            raise UsageError(f"{field} is {shown(value)}; it is {kind.words}", field)


def check_pixels(size: object) -> None:
    """Refuse what is no side of an image in pixels. Raises UsageError."""
    if not is_whole(size):
        raise UsageError(f"size is {shown(size)}; it is a number of pixels, at least 1", "size")


def is_whole(value: object, least: int = 1) -> bool:
    """Whether a value is an integer, no bool, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < MOST


def is_number(value: object) -> bool:
    """Whether a value is a finite number, no bool, that a float can hold."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max and math.isfinite(value)


def check_positive(
    config: object, *fields: str, zero: bool = False, most: float | None = None
) -> None:
    """Refuse fields that are not finite and above zero (or zero itself, with zero=True).

    Args:
        most: the largest value that is allowed.

    Raises UsageError.
    """
    for field in fields:
        value = getattr(config, field)
        fits = is_number(value) and (value > 0 or (zero and value == 0))
        if not fits or (most is not None and value > most):
            wanted = "zero or a positive number" if zero else "a positive number"
            bound = "" if most is None else f", at most {most:g}"
            raise UsageError(f"{field} is {shown(value)}; it is {wanted}{bound}", field)


def check_densities(low: float, high: float) -> None:
    """Refuse a range of densities whose ends are none, or in the wrong order. Raises UsageError."""
    if not (is_number(low) and is_number(high) and 0 < low <= high <= 1):
        raise UsageError(
            f"low and high are {shown(low)} and {shown(high)}; they are densities above 0 and at "
            "most 1, low the smaller one"
        )


def check_truth(config: object, *fields: str) -> None:
    """Refuse fields that are neither true nor false. Raises UsageError."""
    for field in fields:
        value = getattr(config, field)
        if not isinstance(value, bool):
            raise UsageError(f"{field} is {shown(value)}; it is true or false", field)


def check_choice(field: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse a value that is none of those allowed. Raises UsageError."""
    if value not in allowed:
        raise UsageError(f"{field} is {shown(value)}; choose one of {', '.join(allowed)}", field)
