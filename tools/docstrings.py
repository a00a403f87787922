"""How our docstrings reach the API reference: a griffe extension, named in mkdocs.yml.

We write `width, height: pixels` for two parameters at once, and `Fields:` over those of a
dataclass. Griffe wants a line for each parameter, and calls fields attributes.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

SHARED = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<text>.*)$")


def separated(docstring: str) -> str:
    """A docstring with a line of its own for each parameter, and attributes in place of fields."""
    written: list[str] = []
    lines = docstring.replace("Fields:\n", "Attributes:\n").splitlines()
    while lines:
        line = lines.pop(0)
        shared = SHARED.match(line)
        if shared is None:
            written.append(line)
            continue
        more = []
        while lines and lines[0].startswith(shared["indent"] + "  "):
            more.append(lines.pop(0))
        for name in shared["names"].split(", "):
            written += [f"{shared['indent']}{name}: {shared['text']}", *more]
    return "\n".join(written)


class Separated(griffe.Extension):
    """Rewrites every docstring before griffe parses it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = separated(obj.docstring.value)
