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
            *(f"| {' | '.join(row)} |" for row in self.rows),
        ]
        return "\n".join([*lines, *(f"\n{line}" for line in self.failures)])


def study_tables(
    found: Iterable[Row], against: str | None = None, gained: Gains | None = None
) -> list[StudyTable]:
    """One table a task and budget: mean and deviation over seeds.

    Args:
        against: a method whose distance to each other one is a column more.
        gained: that distance (study.gains).
    """
    parts = defaultdict(list)
    for row in found:
        parts[row.task, row.budget].append(row)
    head = COLUMNS if against is None else (*COLUMNS, f"{against} above it by")
    return [
        StudyTable(
            f"{task}, {budget:.0%} of the dense MACs",
            head,
            [
                _values(row) + ([] if against is None else [_gain(row, against, gained or {})])
                for row in part
            ],
            [f"{row.method} failed, {why}" for row in part for why in row.failed],
        )
        for (task, budget), part in parts.items()
    ]


def _gain(row: Row, against: str, gained: Gains) -> str:
    if row.method == against:
        return ""
    found = gained.get((row.task, row.budget, row.method))
    return (
        ""
        if found is None
        else f"{found[0]:+.2f}" + ("" if found[1] is None else f" ± {found[1]:.2f}")
    )


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
    writer.writerow(
        [
            "task",
            "budget",
            "method",
            "seeds",
            "macs_share",
            "top1",
            "top1_deviation",
            "held_out_top1",
            "held_out_top1_before",
            "search_seconds",
            "seconds",
            "failed",
        ]
    )
    for row in found:
        writer.writerow(
            [
                row.task,
                row.budget,
                row.method,
                row.seeds,
                row.macs_share,
                row.top1,
                row.deviation,
                row.held_out,
                row.before,
                row.search_seconds,
                row.seconds,
                "; ".join(row.failed),
            ]
        )
    return text.getvalue()


def estimate_table(found: Mapping[str, Any]) -> str:
    """What a dry run found."""
    lines = [
        f"{found['missing']} of {found['cells']} cells are missing; one process will take about {_duration(found['seconds'])}"
    ]
    lines += [
        f"  {name}: {row['cells']} cells, {_duration(row['seconds'])}"
        for name, row in found["methods"].items()
    ]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s"
        if minutes < 2
        else f"{minutes} min"
        if minutes < 120
        else f"{minutes / 60:.1f} h"
    )
