"""A study's rows (study/summary.py) as tables in Markdown and CSV, and how long it will take."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pass_transfer.study import Gains, Row

COLUMNS = (
    "method",
    "top-1 (%)",
    "held out (%)",
    "before fine-tuning (%)",
    "MACs kept",
    "search (s)",
    "in all (s)",
    "seeds",
)
# Columns of the CSV file, by the fields of a row that they hold.
CSV_COLUMNS = {
    "task": "task",
    "budget": "budget",
    "method": "method",
    "seeds": "seeds",
    "macs_share": "macs_share",
    "top1": "top1",
    "deviation": "top1_deviation",
    "held_out": "held_out_top1",
    "before": "held_out_top1_before",
    "search_seconds": "search_seconds",
    "seconds": "seconds",
    "failed": "failed",
}


@dataclass(frozen=True)
class StudyTable:
    """The rows of one task and budget as text, and what failed among them, a line a cell."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    failures: Sequence[str]

    def markdown(self) -> str:
        """The table under its title."""
        lines = [
            self.title,
            "",
            f"| {' | '.join(self.columns)} |",
            f"|{'---|' * len(self.columns)}",
        ]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        lines += [f"\n{failure}" for failure in self.failures]
        return "\n".join(lines)


def study_tables(
    found: Iterable[Row],
    against: str | None = None,
    gained: Gains | None = None,
    of: str = "MACs",
) -> list[StudyTable]:
    """One table a task and budget: mean and deviation over seeds.

    Args:
        against: a method whose distance to each other one is a column more.
        gained: that distance (study.gains).
        of: what a budget is a share of.
    """
    parts: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for row in found:
        parts[row.task, row.budget].append(row)
    columns = COLUMNS if against is None else (*COLUMNS, f"{against} above it by")
    tables = []
    for (task, budget), part in parts.items():
        cells = [_values(row) for row in part]
        if against is not None:
            for row, values in zip(part, cells):
                values.append(_gain(row, against, gained or {}))
        title = f"{task}, {budget:.0%} of the dense {of}"
        tables.append(StudyTable(title, columns, cells, _failures(part)))
    return tables


def _failures(rows: Iterable[Row]) -> list[str]:
    lines = []
    for row in rows:
        lines += [f"{row.method} failed, {why}" for why in row.failed]
    return lines


def _gain(row: Row, against: str, gained: Gains) -> str:
    found = gained.get((row.task, row.budget, row.method))
    if row.method == against or found is None:
        return ""
    mean, deviation = found
    return f"{mean:+.2f}" if deviation is None else f"{mean:+.2f} ± {deviation:.2f}"


def _values(row: Row) -> list[str]:
    """A row's values under COLUMNS."""
    return [
        row.method,
        spread(row.top1, row.deviation),
        number(row.held_out, 2),
        number(row.before, 1),
        number(row.macs_share and 100 * row.macs_share, 2, " %"),
        number(row.search_seconds, 0),
        number(row.seconds, 0),
        str(row.seeds),
    ]


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
    writer.writerow(CSV_COLUMNS.values())
    for row in found:
        values = {field: getattr(row, field) for field in CSV_COLUMNS}
        values["failed"] = "; ".join(row.failed)
        writer.writerow(values.values())
    return text.getvalue()


def estimate_table(found: Mapping[str, Any]) -> str:
    """What a dry run found."""
    lines = [
        f"{found['missing']} of {found['cells']} cells are missing; "
        f"one process will take about {_duration(found['seconds'])}"
    ]
    for name, row in found["methods"].items():
        lines.append(f"  {name}: {row['cells']} cells, {_duration(row['seconds'])}")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
