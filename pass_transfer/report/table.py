"""The summary table of a run: the small network beside the dense one."""

from __future__ import annotations

from typing import Any, Mapping

from rich.console import Console
from rich.table import Table


def summary(result: Mapping[str, Any]) -> str:
    """result.json as a table of plain text."""
    table = Table(title=f"{result['task']} by {result['hypernet']} ({result['transfer']} transfer)", title_justify="left")
    for column in ("", "small", "dense", "small / dense"):
        table.add_column(column, justify="left" if not column else "right")
    dense_top1 = result["dense_top1"]
    table.add_row("top-1 (%)", f"{result['top1']:.2f}", "not trained" if dense_top1 is None else f"{dense_top1:.2f}",
                  "" if dense_top1 is None else f"{result['top1'] - dense_top1:+.2f}")
    table.add_row("top-5 (%)", f"{result['top5']:.2f}", "", "")
    table.add_row("top-1 without prompt (%)", f"{result['top1_without_prompt']:.2f}", "", "")
    for name, key, scale, unit in (("MACs", "macs", 1e6, "M"), ("parameters", "parameters", 1e6, "M")):
        small, dense = result[key], result[f"dense_{key}"]
        table.add_row(f"{name} ({unit})", f"{small / scale:.2f}", f"{dense / scale:.2f}", f"{small / dense:.1%}")
    for batch, small in result["latency_ms"].items():
        dense = result["dense_latency_ms"][batch]
        table.add_row(f"latency, batch {batch} (ms)", f"{small:.2f}", f"{dense:.2f}", f"{dense / small:.2f}x as fast")
    console = Console(width=92, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(table)
        console.print(f"{result['search_seconds']:.0f} s to find the masks, {result['seconds']:.0f} s in all; everything is in {result['run']}", soft_wrap=True)
    return capture.get().rstrip()
