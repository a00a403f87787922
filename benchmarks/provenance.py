"""Where a figure comes from: command, commit, machine, versions."""

from __future__ import annotations

import sys
from typing import Any

from pass_transfer.origin import origin


def provenance() -> dict[str, Any]:
    """What stands beside every committed result."""
    return {"command": " ".join(["python", *sys.argv])} | origin()
