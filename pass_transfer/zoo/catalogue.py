"""Where entries are found: a path, the installed zoo by name, or the Hugging Face hub.

Imports no torch.
"""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path

from pass_transfer.errors import ZooError
from pass_transfer.hub import HUB_PREFIX, download

CONFIG = "config.json"


def installed_entries() -> dict[str, Path]:
    """Entries that came with the package, by name."""
    root = Path(str(resources.files("pass_transfer.zoo_data")))
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{CONFIG}"))}


def find_entry(name: str | Path) -> Path:
    """The folder of an entry.

    Args:
        name: a folder; or an installed entry's name, with or without "zoo/" before it,
            from any working folder; or "hf-hub:owner/name".

    Raises:
        ZooError: nothing of that name.
    """
    text = str(name)
    if text.startswith(HUB_PREFIX):
        return download(text, ZooError)
    path = Path(text).expanduser()
    if (path / CONFIG).is_file():
        return path
    known = installed_entries()
    short = text.strip("/").removeprefix("zoo/")
    if short in known:
        return known[short]
    if path.is_dir():
        raise ZooError(f"{path} is a folder without {CONFIG}; it is not a zoo entry")
    near = difflib.get_close_matches(short, known, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    installed = ", ".join(known) or "none"
    raise ZooError(
        f"no zoo entry {text!r}.{hint} Installed: {installed}; see them with pass-transfer zoo ls"
    )
