"""Latency of both networks (recipes/bench.py) as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from pass_transfer.report.table import plain

COLUMNS = (
    "engine",
    "batch",
    "small (ms)",
    "dense (ms)",
    "small (images/s)",
    "dense (images/s)",
    "times as fast",
)
WIDTH = 200  # no wider than its columns; a narrower table would cut figures off


def bench_table(found: Mapping[str, Any]) -> str:
    """Both networks' speed by engine and batch size.

    It gives the median milliseconds with quartiles, images a second, and how many times as
    fast the small network is.
    """
    where = f"{found['device']}, {found['threads']} threads, {found['image_size']} px"
    title = f"{_measured(found)} on {where}, torch {found['torch']}"
    table = Table(title=title, title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "engine" else "right", no_wrap=True)
    rows = {(row["engine"], row["batch"], row["network"]): row for row in found["rows"]}
    for engine, batch in dict.fromkeys((engine, batch) for engine, batch, _ in rows):
        small, dense = rows[engine, batch, "small"], rows[engine, batch, "dense"]
        table.add_row(
            engine,
            str(batch),
            _milliseconds(small),
            _milliseconds(dense),
            f"{small['images_per_second']:.0f}",
            f"{dense['images_per_second']:.0f}",
            f"{dense['median_ms'] / small['median_ms']:.2f}",
        )
    return plain(WIDTH, table)


def _measured(found: Mapping[str, Any]) -> str:
    """The run, or the network with the share of its MACs that is kept."""
    if found["run"] is not None:
        return found["run"]
    return f"{found['network']} at {found['macs'] / found['dense_macs']:.1%} of its MACs"


def _milliseconds(row: Mapping[str, Any]) -> str:
    return f"{row['median_ms']:.2f} ({row['q1_ms']:.2f}-{row['q3_ms']:.2f})"
