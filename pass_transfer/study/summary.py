"""Cells to rows: mean and deviation over seeds, from the raw JSON alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pass_transfer.masks import ChannelMasks
from pass_transfer.study.cell import unpacked

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
        before, held_out: held-out top-1 before and after fine-tuning, means; what is chosen is chosen by these.
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
    keys = sorted({(cell["task"], -cell["budget"], order.index(cell["method"])) for cell in cells})
    return [
        _row(
            [
                c
                for c in cells
                if (c["task"], c["budget"], c["method"]) == (task, -budget, order[number])
            ]
        )
        for task, budget, number in keys
    ]


def _row(cells: list[dict[str, Any]]) -> Row:
    done = [cell for cell in cells if "failed" not in cell]

    def mean(name: str) -> float | None:
        return statistics.mean(cell[name] for cell in done) if done else None

    deviation = statistics.stdev(cell["top1"] for cell in done) if len(done) > 1 else None
    failed = tuple(f"seed {cell['seed']}: {cell['failed']}" for cell in cells if "failed" in cell)
    return Row(
        cells[0]["task"],
        cells[0]["budget"],
        cells[0]["method"],
        len(done),
        mean("macs_share"),
        mean("top1"),
        deviation,
        mean("held_out_top1_before"),
        mean("held_out_top1"),
        mean("search_seconds"),
        mean("seconds"),
        failed,
    )


def gains(cells: Iterable[dict[str, Any]], method: str) -> Gains:
    """By how many points of top-1 a method is above each other one, seed by seed.

    Returns:
        Means over the seeds that both have, with the standard deviation where these are several.
    """
    top1 = {
        (cell["task"], cell["budget"], cell["method"], cell["seed"]): cell["top1"]
        for cell in cells
        if "failed" not in cell
    }
    differences: dict[tuple[str, float, str], list[float]] = {}
    for (task, budget, other, seed), value in top1.items():
        mine = top1.get((task, budget, method, seed))
        if mine is not None and other != method:
            differences.setdefault((task, budget, other), []).append(mine - value)
    return {
        key: (statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)
        for key, values in differences.items()
    }


def comparable(
    cells: Sequence[dict[str, Any]], task: str, budget: float, seed: int = 0
) -> list[dict[str, Any]]:
    """The finished cells of a task, budget and seed whose masks are of the same channel groups; with independent coupling they are of others."""
    found = [
        c
        for c in cells
        if (c["task"], c["budget"], c["seed"]) == (task, budget, seed) and "masks" in c
    ]
    groups = min((c["channels"] for c in found), key=len, default=None)
    return [c for c in found if c["channels"] == groups]


def shared_channels(
    cells: Sequence[dict[str, Any]], task: str, budget: float, seed: int = 0
) -> dict[tuple[str, str], float]:
    """Share of the channels one method keeps that the other keeps too, for each pair of methods."""
    masks: dict[str, ChannelMasks] = {
        cell["method"]: unpacked(cell["masks"], cell["channels"])
        for cell in comparable(cells, task, budget, seed)
    }
    found = {}
    for one, mine in masks.items():
        for two, other in masks.items():
            common = sum(int((mine[name] & other[name]).sum()) for name in mine)
            found[one, two] = common / sum(mine.kept.values())
    return found
