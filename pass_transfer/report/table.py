"""The summary table of a run: the small network beside the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("", "small", "dense", "small / dense")


def summary(result: Mapping[str, Any]) -> str:
    """result.json as a table of plain text."""
    table = Table(
        title=f"{result['task']} by {result['hypernet']} (method {result['method']})",
        title_justify="left",
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if not column else "right")
    for row in comparison(result):
        table.add_row(*row)
    return plain(
        92,
        table,
        f"{result['search_seconds']:.0f} s to find the masks, {result['seconds']:.0f} s in all; everything is in {result['run']}",
    )


def plain(width: int, *parts: Table | str) -> str:
    """Tables, and lines that are not broken, as text without colours; what users named is shown as it is, not read as markup."""
    console = Console(
        width=width,
        color_system=None,
        force_terminal=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    with console.capture() as capture:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))
    return capture.get().rstrip()


def comparison(result: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The rows of that table: a quantity of the small network, of the dense one, and how they compare."""
    dense_top1 = result["dense_top1"]
    rows = [
        (
            "top-1 (%)",
            f"{result['top1']:.2f}",
            "not trained" if dense_top1 is None else f"{dense_top1:.2f}",
            "" if dense_top1 is None else f"{result['top1'] - dense_top1:+.2f}",
        ),
        ("top-5 (%)", f"{result['top5']:.2f}", "", ""),
    ]
    if result["top1_without_prompt"] is not None:
        rows.append(("top-1 without prompt (%)", f"{result['top1_without_prompt']:.2f}", "", ""))
    for name, key in (("MACs (M)", "macs"), ("parameters (M)", "parameters")):
        small, dense = result[key], result[f"dense_{key}"]
        rows.append((name, f"{small / 1e6:.2f}", f"{dense / 1e6:.2f}", f"{small / dense:.1%}"))
    for batch, small in result["latency_ms"].items():
        dense = result["dense_latency_ms"][batch]
        rows.append(
            (
                f"latency, batch {batch} (ms)",
                f"{small:.2f}",
                f"{dense:.2f}",
                f"{dense / small:.2f}x as fast",
            )
        )
    return rows
