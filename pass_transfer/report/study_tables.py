"""A study's rows (study/summary.py) as tables in Markdown and CSV, and how long it will take."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from typing import Any, Iterable, Mapping, Sequence

from pass_transfer.study import Row

COLUMNS = ("method", "top-1 (%)", "held out (%)", "before fine-tuning (%)", "MACs kept", "search (s)", "in all (s)", "seeds")


def study_markdown(found: Iterable[Row]) -> str:
    """One table a task and budget: mean and deviation over seeds."""
    tables = defaultdict(list)
    for row in found:
        tables[row.task, row.budget].append(row)
    return "\n\n".join(_table(task, budget, part) for (task, budget), part in tables.items())


def _table(task: str, budget: float, part: Sequence[Row]) -> str:
    lines = [title(task, budget), "", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(columns(row))} |" for row in part]
    lines += [f"\n{line}" for line in failures(part)]
    return "\n".join(lines)


def title(task: str, budget: float) -> str:
    """Of a table."""
    return f"{task}, {budget:.0%} of the dense MACs"


def columns(row: Row) -> list[str]:
    """A row's values under COLUMNS."""
    return [row.method, spread(row.top1, row.deviation), number(row.held_out, 2), number(row.before, 1), number(row.macs_share and 100 * row.macs_share, 2, " %"),
            number(row.search_seconds, 0), number(row.seconds, 0), str(row.seeds)]


def failures(part: Sequence[Row]) -> list[str]:
    """What failed, a line a cell."""
    return [f"{row.method} failed, {why}" for row in part for why in row.failed]


def spread(mean: float | None, deviation: float | None) -> str:
    """A mean with its standard deviation, if there are several seeds."""
    return number(mean, 2) if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def number(value: float | None, digits: int, unit: str = "") -> str:
    """A value, or that every cell failed."""
    return "failed" if value is None else f"{value:.{digits}f}{unit}"


def study_csv(found: Iterable[Row]) -> str:
    """All rows as CSV, numbers as they are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "budget", "method", "seeds", "macs_share", "top1", "top1_deviation", "held_out_top1", "held_out_top1_before", "search_seconds", "seconds", "failed"])
    for row in found:
        writer.writerow([row.task, row.budget, row.method, row.seeds, row.macs_share, row.top1, row.deviation, row.held_out, row.before, row.search_seconds, row.seconds, "; ".join(row.failed)])
    return text.getvalue()


def estimate_table(found: Mapping[str, Any]) -> str:
    """What a dry run found."""
    lines = [f"{found['missing']} of {found['cells']} cells are missing; one process will take about {_duration(found['seconds'])}"]
    lines += [f"  {name}: {row['cells']} cells, {_duration(row['seconds'])}" for name, row in found["methods"].items()]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
