"""What is called how on the hub: "hf-hub:owner/name", or "hf-hub:owner/name@revision"."""

from __future__ import annotations

import re
from pathlib import Path

from pass_transfer.arguments import check_is
from pass_transfer.errors import UsageError
from pass_transfer.settings import shown

HUB_PREFIX = "hf-hub:"
AT = "@"
PART = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?"  # the hub's own rule, but for -- and ..


def check_repository(repository: str) -> str:
    """A repository's name without the prefix. Raises UsageError for what can be none."""
    check_is("repository", repository, str, "owner/name, such as 'me/small'")
    name = repository.removeprefix(HUB_PREFIX)
    if not re.fullmatch(f"{PART}/{PART}", name, re.ASCII) or "--" in name or ".." in name:
        allowed = "letters, digits, '-', '_' and '.', such as me/small"
        raise UsageError(f"repository is {shown(repository)}; give owner/name of {allowed}")
    return name


def pinned(name: str | Path, revision: str | None) -> str | Path:
    """A name with the revision it is wanted at.

    Raises UsageError for a revision of what is not on the hub, or beside another one.
    """
    if revision is None:
        return name
    check_is("revision", revision, str, "a branch, a tag or a commit")
    if not str(name).startswith(HUB_PREFIX):
        said = f"revision is {shown(revision)}; only {HUB_PREFIX}owner/name has revisions"
        raise UsageError(f"{said}, not {name}", "revision")
    if AT in str(name) or not revision:
        said = f"revision is {shown(revision)}; give one, here or behind {AT} in {name}"
        raise UsageError(said, "revision")
    return f"{name}{AT}{revision}"


def split(name: str) -> tuple[str, str | None]:
    """Repository and revision of a name with the prefix; None is the newest one."""
    repository, _, revision = name.removeprefix(HUB_PREFIX).partition(AT)
    return repository, revision or None
