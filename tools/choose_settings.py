"""Choose each method's settings by held-out images, and write them into studies.

    python tools/choose_settings.py                                     # say what is chosen
    python tools/choose_settings.py benchmarks/studies/cifar100.yaml    # write it there, too

The settings are those that benchmarks/studies/strengths.yaml and depgraph.yaml compare. Of
regularisers the best is taken. Of lengths of a search, the shortest is taken that ends within
0.3 points of its method's best.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from pass_transfer.study import load_study, read_cells, rows

STRENGTHS = ("benchmarks/studies/strengths.yaml", "benchmarks/studies/depgraph.yaml")
CLOSE = 0.3  # points of held-out top-1
LENGTH = "steps"
LINE = re.compile(r"^  (\w+):[ ]*(\{.*\})?$")


def choose() -> dict[str, dict[str, Any]]:
    """Method to its chosen settings."""
    held_out: dict[str, float] = {}
    variants: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for study in map(load_study, STRENGTHS):
        for row in rows(read_cells(study)):
            if row.held_out is not None:
                held_out[row.method] = row.held_out
        for name, settings in study.methods.items():
            if name in held_out:
                own = dict(settings)
                variants[own.pop("method")][name] = own
    chosen = {}
    for method, settings_by_name in variants.items():
        name = best_variant(settings_by_name, held_out)
        chosen[method] = settings_by_name[name]
        others = ", ".join(f"{other} {held_out[other]:.2f}" for other in settings_by_name)
        print(f"{method}: {name} ({held_out[name]:.2f}) of {others}")
    return chosen


def best_variant(variants: dict[str, dict[str, Any]], held_out: dict[str, float]) -> str:
    """The name of a method's best settings; of lengths close to the best, the shortest."""
    best = max(held_out[name] for name in variants)
    close = []
    for name, settings in variants.items():
        allowed = CLOSE if LENGTH in settings else 0
        if held_out[name] >= best - allowed:
            close.append(name)
    return min(close, key=lambda name: variants[name].get(LENGTH, 0))


def write(path: Path, chosen: dict[str, dict[str, Any]]) -> None:
    """Put chosen settings into a study file, a method a line."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        found = LINE.match(line)
        if found and found.group(1) in chosen:
            line = f"  {found.group(1)}: {flow(chosen[found.group(1)])}"
        lines.append(line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def flow(settings: dict[str, Any]) -> str:
    """Settings in one line."""
    return yaml.safe_dump(settings, default_flow_style=True, sort_keys=False, width=1000).strip()


if __name__ == "__main__":
    found = choose()
    for study_file in sys.argv[1:]:
        write(Path(study_file), found)
