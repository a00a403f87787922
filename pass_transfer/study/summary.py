"""Cells to rows: mean and deviation over seeds, from the raw JSON alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pass_transfer.masks import ChannelMasks
from pass_transfer.study.packing import unpacked

Gains = Mapping[
    tuple[str, float, str], tuple[float, float | None]
]  # (task, budget, other method) to mean and deviation


@dataclass(frozen=True)
class Row:
    """A method at one budget of one task.

    Fields:
        seeds: that are done.
        macs_share: of the dense network's MACs, counted on the removed networks, mean.
        top1, deviation: mean and standard deviation over seeds, in percent on the test images.
        before, held_out: held-out top-1 before and after fine-tuning, means. What is chosen is
            chosen by these.
        search_seconds, seconds: means.
        failed: why seeds failed.
    """

    task: str
    budget: float
    method: str
    seeds: int
    macs_share: float | None
    top1: float | None
    deviation: float | None
    before: float | None
    held_out: float | None
    search_seconds: float | None
    seconds: float | None
    failed: tuple[str, ...]


def rows(cells: Iterable[dict[str, Any]], methods: Sequence[str] = ()) -> list[Row]:
    """One row for every task, budget and method, in that order; methods as given, then by name."""
    cells = list(cells)
    order = [*methods, *sorted({cell["method"] for cell in cells} - set(methods))]
    parts: dict[tuple[str, float, int], list[dict[str, Any]]] = {}
    for cell in cells:
        key = (cell["task"], -cell["budget"], order.index(cell["method"]))
        parts.setdefault(key, []).append(cell)
    return [_row(parts[key]) for key in sorted(parts)]


def _row(cells: list[dict[str, Any]]) -> Row:
    done = [cell for cell in cells if "failed" not in cell]

    def mean(name: str) -> float | None:
        return statistics.mean(cell[name] for cell in done) if done else None

    failed = [f"seed {cell['seed']}: {cell['failed']}" for cell in cells if "failed" in cell]
    first, top1 = cells[0], [cell["top1"] for cell in done]
    return Row(
        task=first["task"],
        budget=first["budget"],
        method=first["method"],
        seeds=len(done),
        macs_share=mean("macs_share"),
        top1=mean("top1"),
        deviation=_deviation(top1),
        before=mean("held_out_top1_before"),
        held_out=mean("held_out_top1"),
        search_seconds=mean("search_seconds"),
        seconds=mean("seconds"),
        failed=tuple(failed),
    )


def _deviation(values: Sequence[float]) -> float | None:
    """Standard deviation of several values; None of a single one."""
    return statistics.stdev(values) if len(values) > 1 else None


def gains(cells: Iterable[dict[str, Any]], method: str) -> Gains:
    """By how many points of top-1 a method is above each other one, seed by seed.

    Returns:
        Means over the seeds that both have, with the standard deviation where these are
        several.
    """
    top1 = {}
    for cell in cells:
        if "failed" not in cell:
            top1[cell["task"], cell["budget"], cell["method"], cell["seed"]] = cell["top1"]
    differences: dict[tuple[str, float, str], list[float]] = {}
    for (task, budget, other, seed), value in top1.items():
        mine = top1.get((task, budget, method, seed))
        if mine is not None and other != method:
            differences.setdefault((task, budget, other), []).append(mine - value)
    found = {}
    for key, values in differences.items():
        found[key] = statistics.mean(values), _deviation(values)
    return found


def comparable(
    cells: Sequence[dict[str, Any]], task: str, budget: float, seed: int = 0
) -> list[dict[str, Any]]:
    """The finished cells of a task, budget and seed whose masks are of the same channel groups.

    With independent coupling they are of others; masks of single weights are not in a cell.
    """
    key = (task, budget, seed)
    alike = [cell for cell in cells if (cell["task"], cell["budget"], cell["seed"]) == key]
    found = [cell for cell in alike if cell.get("masks")]
    groups = min((cell["channels"] for cell in found), key=len, default=None)
    return [cell for cell in found if cell["channels"] == groups]


def shared_channels(
    cells: Sequence[dict[str, Any]], task: str, budget: float, seed: int = 0
) -> dict[tuple[str, str], float]:
    """Share of the channels one method keeps that the other keeps too, for each pair of methods."""
    masks: dict[str, ChannelMasks] = {}
    for cell in comparable(cells, task, budget, seed):
        masks[cell["method"]] = unpacked(cell["masks"], cell["channels"])
    found = {}
    for one, mine in masks.items():
        for two, other in masks.items():
            common = sum(int((mine[name] & other[name]).sum()) for name in mine)
            found[one, two] = common / sum(mine.kept.values())
    return found
