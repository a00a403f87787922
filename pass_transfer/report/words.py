"""Words on pages and pictures: names that fit, numbers of things, text that can be written."""

from __future__ import annotations

NAME_LENGTH = 22  # characters of a name beside an axis


def short(name: str) -> str:
    """A name on one line that fits beside an axis."""
    line = " ".join(writable(name).split())
    return line if len(line) <= NAME_LENGTH else f"{line[: NAME_LENGTH - 1]}…"


def writable(text: str) -> str:
    """Text without what UTF-8 cannot hold: file names may come as broken bytes."""
    return text.encode("utf-8", "replace").decode()


def counted(count: int, noun: str) -> str:
    """So many of a thing: 1 image, 2 images."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
