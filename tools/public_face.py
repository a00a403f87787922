"""The public face as JSON: every public name with its signature, every verb with its options.

    python tools/public_face.py           # print it
    python tools/public_face.py --write   # into tests/golden/public_face.json, on purpose

A test compares it with that file, so that no name, argument or option changes by accident.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import typer.main

import pass_transfer as pt
from pass_transfer.cli.main import app

FILE = Path(__file__).resolve().parents[1] / "tests" / "golden" / "public_face.json"


def public_face() -> dict[str, Any]:
    """Names of the package and verbs of the command line, as plain values."""
    names = {name: describe(getattr(pt, name)) for name in pt.__all__}
    return {"python": names, "command line": verbs(typer.main.get_command(app))}


def describe(value: Any) -> Any:
    """A function's signature; a class's, with its public methods and fields."""
    if not inspect.isclass(value):
        return signature(value)
    if issubclass(value, Exception):
        return [base.__name__ for base in value.__mro__[1:-1]]
    found = {"()": signature(value.__init__)}
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    for name in sorted(set(vars(value)) - {field.name for field in fields}):
        if not name.startswith("_"):
            member = getattr(value, name)
            found[name] = signature(member) if callable(member) else "property"
    return found


def signature(function: Any) -> str:
    """Arguments with their defaults, without types."""
    parts = inspect.signature(function).parameters.values()
    plain = [part.replace(annotation=inspect.Parameter.empty) for part in parts]
    return str(inspect.Signature(plain))


def verbs(command: Any) -> dict[str, Any]:
    """Every verb's options and arguments, by name, with their defaults."""
    if hasattr(command, "commands"):
        return {name: verbs(part) for name, part in sorted(command.commands.items())}
    found = {}
    for option in command.params:
        names = "/".join([*option.opts, *option.secondary_opts])
        found[names] = "required" if option.required else repr(option.default)
    return found


if __name__ == "__main__":
    text = json.dumps(public_face(), indent=2) + "\n"
    if "--write" in sys.argv[1:]:
        FILE.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
