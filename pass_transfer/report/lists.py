"""What predict, cache, convert and push print."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

MEGABYTE = 1e6


def predictions(found: Mapping[str, Any]) -> str:
    """A line for each image: its file and its likeliest classes (recipes/predict.py)."""
    lines = []
    for row in found["predictions"]:
        classes = [f"{one['class']} {one['probability']:.1%}" for one in row["classes"]]
        lines.append(f"{row['file']}: {', '.join(classes)}")
    return "\n".join(lines)


def cache_table(found: Mapping[str, Any]) -> str:
    """What the cache holds, with the sum (tasks/cache.py, cache_contents)."""
    lines = []
    for entry in found["entries"]:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["used"]))
        lines.append(f"{_megabytes(entry['bytes'])}  {day}  {entry['title']}")
    total = sum(entry["bytes"] for entry in found["entries"])
    limit = _megabytes(found["limit"]).strip()
    lines.append(f"{_megabytes(total)}  in {found['folder']}; at most {limit} stay decoded")
    return "\n".join(lines)


def conversion(found: Mapping[str, Any]) -> str:
    """What convert took of a checkpoint, and what it left (recipes/convert.py)."""
    millions = f"{found['numbers'] / MEGABYTE:.1f} M numbers"
    taken = f"{found['new']}: {found['tensors']} tensors, {millions}, {', '.join(found['dtypes'])}"
    left = [f"{name} ({what})" for name, what in found["left"].items()]
    return f"{taken}\nleft out: {', '.join(left) or 'nothing'}"


def pushed(done: Mapping[str, Any]) -> str:
    """Where files are on the hub now (hub/upload.py)."""
    lines = [f"{digest}  {file}" for file, digest in done["files"].items()]
    said = f"the hub has these files; {done['url']} at {done['commit']}"
    return "\n".join([*lines, said])


def _megabytes(count: int) -> str:
    return f"{count / MEGABYTE:10.1f} MB"
