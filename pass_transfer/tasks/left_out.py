"""What of a task's files is not used, and why: counted by reason, with a few names each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

SHOWN = 3  # names of each reason


@dataclass(frozen=True)
class LeftOut:
    """Files that are left out for one reason.

    Fields:
        reason: in words that come before a count, such as "images that cannot be decoded".
        count: how many there are.
        names: of the first few.
        images: whether they would be images of the task, had they been readable.
    """

    reason: str
    count: int
    names: tuple[str, ...]
    images: bool = True

    def saved(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"reason": self.reason, "count": self.count, "names": list(self.names)}

    def said(self) -> str:
        """A line for people: a warning where images are missing."""
        more = ", ..." if self.count > len(self.names) else ""
        found = f"{self.count} ({', '.join(self.names)}{more})"
        if self.images:
            return f"warning: {self.reason}, left out: {found}"
        return f"{self.reason}, not used: {found}"


def unread_images(parts: Iterable[LeftOut]) -> int:
    """How many of what was left out would be images of the task."""
    return sum(part.count for part in parts if part.images)


def together(parts: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """One of each reason, in the order in which the reasons first appear."""
    joined: dict[str, LeftOut] = {}
    for part in parts:
        known = joined.get(part.reason)
        if known is None:
            joined[part.reason] = part
        else:
            names = (*known.names, *part.names)[:SHOWN]
            count = known.count + part.count
            joined[part.reason] = LeftOut(part.reason, count, names, known.images)
    return tuple(joined.values())


class Tally:
    """Counts what is left out, reason by reason."""

    def __init__(self) -> None:
        self._found: dict[str, LeftOut] = {}

    def add(self, reason: str, name: str, images: bool = True) -> None:
        """One more file of a reason."""
        one = LeftOut(reason, 1, (name,), images)
        before = [self._found[reason]] if reason in self._found else []
        self._found[reason] = together([*before, one])[0]

    def join(self, other: Tally) -> None:
        """What another tally counted, too."""
        self._found = {part.reason: part for part in together([*self.all(), *other.all()])}

    def all(self) -> tuple[LeftOut, ...]:
        """What was counted."""
        return tuple(self._found.values())
