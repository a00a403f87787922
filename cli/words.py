"""The library's words as the command line's: arguments become flags."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# Arguments that a flag has another name for.
OTHER_NAMES = {"from_run": "--from"}

# steps=50, but not in "--set steps=50" or a path
KEYWORD = r"(?<![\w=/.-])(?<!--set )([a-z_]+)=((?:[\w.]+(?<!\.))?)"

# Flags of version 0.1, and what they are now.
RENAMED = {
    "--transfer": "--method",
    "--prior": "--set prior=task|source",
    "--prompt-steps": "--set steps=N",
    "--prompt-lr": "--set lr=X",
    "--deploy-prompt": "--set deploy_prompt=true",
    "--no-deploy-prompt": "--set deploy_prompt=false",
    "--budget": "--effort",
    "--size": "--image-size",
}


def in_flags(message: str, argument: str | None, command: Any) -> str:
    """A library's message with flags in place of keyword arguments.

    "macs is 2; ..." becomes "--macs is 2; ...", and "resume=True" or "(resume)" becomes
    "--resume".

    Args:
        argument: the one that the message begins with, if it is about one.
        command: the whole command line, whose flags are known.
    """
    known = set(_flags(command))

    def flag(name: str) -> str | None:
        found = OTHER_NAMES.get(name, f"--{name.replace('_', '-')}")
        return found if found in known else None

    if argument and flag(argument):
        message = re.sub(rf"^{re.escape(argument)}\b", flag(argument) or "", message)

    def as_flag(match: re.Match[str]) -> str:
        name, value = flag(match[1]), match[2]
        if name is None:
            return match[0]
        if value == "False":
            return name.replace("--", "--no-", 1)
        return name if value in ("", "True") else f"{name} {value}"

    def in_brackets(match: re.Match[str]) -> str:
        return f"({flag(match[1]) or match[1]})"

    message = re.sub(r"\(([a-z_]+)\)", in_brackets, message)
    return re.sub(KEYWORD, as_flag, message)


def _flags(command: Any) -> Iterator[str]:
    """All flags of a command line, of every verb."""
    for part in getattr(command, "commands", {}).values():
        yield from _flags(part)
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
