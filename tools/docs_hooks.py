"""What mkdocs does not know of our Markdown: a block fenced as `sh slow` is a block of shell."""

from __future__ import annotations

import re
from typing import Any

SLOW = re.compile(r"^```sh slow$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page's Markdown as mkdocs shall read it."""
    return SLOW.sub("```sh", markdown)
