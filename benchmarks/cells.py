"""What benchmarks over several cells share: options, and a JSON file for each cell.

A run can be stopped and started, or shared between processes that take other seeds: the
cells that are there are not made again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from provenance import provenance

from pass_transfer.files import make_folder, read_json, write_json


def options(description: str, out: str) -> argparse.ArgumentParser:
    """A parser with the options of every comparison on a task."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hypernet", default="zoo/r18_tinyimnet")
    parser.add_argument("--task", default="cifar100")
    parser.add_argument("--data-dir")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", default=out)
    return parser


def make_cell(out: str | Path, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures of a cell: measured and written with their provenance, or read if there."""
    path = make_folder(out) / f"{name}.json"
    if not path.exists():
        origin = provenance()  # of the code as it is now, not as it is when the cell is done
        write_json(path, measure() | origin)
    return read_json(path)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation in words; the mean alone of one value."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"
