"""Where a figure comes from: command, commit, machine, versions."""

from __future__ import annotations

import sys
from typing import Any

from pass_transfer.provenance import provenance as of_the_code


def provenance() -> dict[str, Any]:
    """What stands beside every committed result."""
    return {"command": " ".join(["python", *sys.argv])} | of_the_code()
