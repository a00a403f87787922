"""Chooses each method's settings by the held-out images of benchmarks/studies/strengths.yaml and depgraph.yaml, and writes them into other studies:
    python tools/choose_settings.py                                 # says what is chosen
    python tools/choose_settings.py benchmarks/studies/cifar100.yaml benchmarks/studies/others.yaml ...
Of regularisers the best is taken, of lengths of a search the shortest that ends within 0.3 points of its method's best.
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
    held_out, variants = {}, defaultdict(dict)
    for study in map(load_study, STRENGTHS):
        held_out |= {
            row.method: row.held_out for row in rows(read_cells(study)) if row.held_out is not None
        }
        for name, settings in study.methods.items():
            if name in held_out:
                variants[settings["method"]][name] = {
                    key: value for key, value in settings.items() if key != "method"
                }
    chosen = {}
    for method, own in variants.items():
        best = max(held_out[name] for name in own)
        close = [
            name for name in own if held_out[name] >= best - (CLOSE if LENGTH in own[name] else 0)
        ]
        name = min(close, key=lambda n: own[n].get(LENGTH, 0))
        chosen[method] = own[name]
        print(
            f"{method}: {name} ({held_out[name]:.2f}) of "
            + ", ".join(f"{n} {held_out[n]:.2f}" for n in own)
        )
    return chosen


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
