"""Latency of both networks (recipes/bench.py) as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from pass_transfer.report.table import plain


def bench_table(found: Mapping[str, Any]) -> str:
    """Median milliseconds with quartiles, images a second, and how many times as fast the small network is."""
    table = Table(
        title=f"{found['run']} on {found['device']}, {found['threads']} threads, {found['image_size']} px, torch {found['torch']}",
        title_justify="left",
    )
    for column in (
        "engine",
        "batch",
        "small (ms)",
        "dense (ms)",
        "small (images/s)",
        "dense (images/s)",
        "times as fast",
    ):
        table.add_column(column, justify="left" if column == "engine" else "right", no_wrap=True)
    rows = {(r["engine"], r["batch"], r["network"]): r for r in found["rows"]}
    for engine, batch in dict.fromkeys((r["engine"], r["batch"]) for r in found["rows"]):
        small, dense = rows[engine, batch, "small"], rows[engine, batch, "dense"]
        table.add_row(
            engine,
            str(batch),
            *(f"{r['median_ms']:.2f} ({r['q1_ms']:.2f}-{r['q3_ms']:.2f})" for r in (small, dense)),
            f"{small['images_per_second']:.0f}",
            f"{dense['images_per_second']:.0f}",
            f"{dense['median_ms'] / small['median_ms']:.2f}",
        )
    return plain(200, table)  # no wider than its columns; a narrower one would cut figures off
