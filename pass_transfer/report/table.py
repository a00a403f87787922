"""The summary table of a run: the small network beside the dense one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("", "small", "dense", "small / dense")

Line = tuple[
    str, str, str, str
]  # a quantity, of the small and the dense network, and how they compare


def summary(result: Mapping[str, Any]) -> str:
    """result.json as a table of plain text."""
    table = Table(
        title=f"{result['task']} by {_made_from(result)} (method {result['method']})",
        title_justify="left",
    )
    for column in COLUMNS:
        table.add_column(column, justify="right" if column else "left")
    for row in comparison(result):
        table.add_row(*row)
    times = (
        f"{result['search_seconds']:.0f} s to find the masks, {result['seconds']:.0f} s in all; "
        f"everything is in {result['run']}"
    )
    return plain(92, table, times)


def _made_from(result: Mapping[str, Any]) -> str:
    """The zoo entry, the network by its name, or the run that a small network is from."""
    return result["hypernet"] or result.get("network") or result["from"]


def plain(width: int, *parts: Table | str) -> str:
    """Tables and lines as text without colours; lines are not broken.

    What users named is shown as it is, not read as markup.
    """
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


def comparison(result: Mapping[str, Any]) -> list[Line]:
    """The rows of that table."""
    top1, dense_top1 = result["top1"], result["dense_top1"]
    if dense_top1 is None:
        accuracy = ("top-1 (%)", f"{top1:.2f}", "not trained", "")
    else:
        gain = f"{top1 - dense_top1:+.2f}"
        accuracy = ("top-1 (%)", f"{top1:.2f}", f"{dense_top1:.2f}", gain)
    rows = [accuracy, ("top-5 (%)", f"{result['top5']:.2f}", "", "")]
    if result["top1_without_prompt"] is not None:
        rows.append(("top-1 without prompt (%)", f"{result['top1_without_prompt']:.2f}", "", ""))
    return [*rows, *size_rows(result), *latency_rows(result)]


def size_rows(found: Mapping[str, Any]) -> list[Line]:
    """MACs and parameters in millions."""
    rows = []
    for name, key in (("MACs (M)", "macs"), ("parameters (M)", "parameters")):
        small, dense = found[key], found[f"dense_{key}"]
        rows.append((name, f"{small / 1e6:.2f}", f"{dense / 1e6:.2f}", f"{small / dense:.1%}"))
    return rows


def latency_rows(found: Mapping[str, Any]) -> list[Line]:
    """Milliseconds at each batch size; none where none were measured."""
    rows = []
    for batch, small in (found["latency_ms"] or {}).items():
        dense = found["dense_latency_ms"][batch]
        speed = f"{dense / small:.2f}x as fast"
        rows.append((f"latency, batch {batch} (ms)", f"{small:.2f}", f"{dense:.2f}", speed))
    return rows
