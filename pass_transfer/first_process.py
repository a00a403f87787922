"""Of several processes that were started as one job, the first one speaks and writes."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Whether this process is the first of its job, as torchrun and accelerate number them."""
    return os.environ.get("RANK", "0") == "0"
