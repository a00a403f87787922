"""A study's cells (study/summary.py) as tables in Markdown and CSV, and as pictures."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from pass_transfer.errors import StorageError
from pass_transfer.files import make_folder, write_bytes
from pass_transfer.study import Row, Study, comparable, read_cells, rows, shared_channels


def study_report(study: Study, out: str | Path | None = None) -> str:
    """Write table.md, table.csv and pictures of the cells that are there; returns the Markdown.

    Args:
        out: a folder; report/ beside the cells without it.

    Raises:
        RunError: there are no cells yet.
        StorageError: a damaged cell, or nowhere to write.
    """
    cells = read_cells(study.out)
    found, folder = rows(cells, list(study.methods)), make_folder(Path(out) if out else study.out / "report")
    text = study_markdown(found)
    write_bytes(folder / "table.md", (text + "\n").encode())
    write_bytes(folder / "table.csv", study_csv(found).encode())
    for name, figure in _pictures(found, cells, study).items():
        try:
            figure.savefig(folder / f"{name}.png", dpi=130)
        except OSError as error:
            raise StorageError(f"cannot write {folder / name}.png: {error.strerror or error}") from error
    return text


def study_markdown(found: Iterable[Row]) -> str:
    """One table a task and budget: mean and deviation over seeds."""
    tables = defaultdict(list)
    for row in found:
        tables[row.task, row.budget].append(row)
    return "\n\n".join(_table(task, budget, part) for (task, budget), part in tables.items())


def _table(task: str, budget: float, part: Sequence[Row]) -> str:
    lines = [f"{task}, {budget:.0%} of the dense MACs", "", "| method | top-1 (%) | before fine-tuning (held out, %) | MACs kept | search (s) | in all (s) | seeds |", "|---|---|---|---|---|---|---|"]
    for row in part:
        cells = [row.method, _spread(row.top1, row.deviation), _number(row.before, 1), _number(row.macs_share and 100 * row.macs_share, 2, " %"),
                 _number(row.search_seconds, 0), _number(row.seconds, 0), str(row.seeds)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"\n{row.method} failed, {why}" for row in part for why in row.failed]
    return "\n".join(lines)


def _spread(mean: float | None, deviation: float | None) -> str:
    return _number(mean, 2) if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "failed" if value is None else f"{value:.{digits}f}{unit}"


def study_csv(found: Iterable[Row]) -> str:
    """All rows as CSV, numbers as they are."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "budget", "method", "seeds", "macs_share", "top1", "top1_deviation", "held_out_top1_before", "search_seconds", "seconds", "failed"])
    for row in found:
        writer.writerow([row.task, row.budget, row.method, row.seeds, row.macs_share, row.top1, row.deviation, row.before, row.search_seconds, row.seconds, "; ".join(row.failed)])
    return text.getvalue()


def estimate_table(found: Mapping[str, Any]) -> str:
    """What a dry run found."""
    lines = [f"{found['missing']} of {found['cells']} cells are missing; one process will take about {_duration(found['seconds'])}"]
    lines += [f"  {name}: {row['cells']} cells, {_duration(row['seconds'])}" for name, row in found["methods"].items()]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _pictures(found: Sequence[Row], cells: Sequence[dict[str, Any]], study: Study) -> dict[str, Any]:
    pictures = {}
    for task in dict.fromkeys(row.task for row in found):
        part, name = [row for row in found if row.task == task and row.top1 is not None], task.replace("/", "_").replace(":", "-")
        if part:
            pictures |= {f"{name}-accuracy": _accuracy(part), f"{name}-search": _search(part)}
        for budget in study.budgets:
            seed = study.seeds[0]
            shown = comparable(cells, task, budget, seed)
            if shown:
                pictures |= {f"{name}-{budget:g}-channels": _channels(shown), f"{name}-{budget:g}-shared": _shared(shared_channels(cells, task, budget, seed))}
    return pictures


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _accuracy(part: Sequence[Row]):
    """Accuracy against MACs, one line a method."""
    figure, axes = _figure(8, 5)
    for method in dict.fromkeys(row.method for row in part):
        points = sorted((100 * row.macs_share, row.top1, row.deviation or 0) for row in part if row.method == method)
        axes.errorbar(*zip(*[(x, y) for x, y, _ in points]), yerr=[d for *_, d in points], marker="o", capsize=3, linewidth=1.2, label=method)
    axes.set(xlabel="MACs kept (%)", ylabel="top-1 on the test images (%)", title=part[0].task)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _search(part: Sequence[Row]):
    """Accuracy against the seconds of the search, at the budget with the most methods."""
    budgets = [row.budget for row in part]
    budget = max(dict.fromkeys(budgets), key=budgets.count)
    figure, axes = _figure(8, 5)
    for row in part:
        if row.budget == budget:
            axes.scatter(max(row.search_seconds, 0.1), row.top1)
            axes.annotate(row.method, (max(row.search_seconds, 0.1), row.top1), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="seconds of the search", ylabel="top-1 on the test images (%)", title=f"{part[0].task}, {budget:.0%} of the MACs")
    return figure


def _channels(cells: Sequence[dict[str, Any]]):
    """Share of its channels that each group keeps, by method."""
    names = list(cells[0]["kept"])
    figure, axes = _figure(9, 0.34 * len(cells) + 2)
    shares = [[cell["kept"][name] / cell["channels"][name] for name in names] for cell in cells]
    image = axes.imshow(shares, vmin=0, vmax=1, aspect="auto", cmap="viridis")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(cells)), [cell["method"] for cell in cells], fontsize=8)
    figure.colorbar(image, label="share of channels kept")
    return figure


def _shared(pairs: Mapping[tuple[str, str], float]):
    """Share of a method's channels (row) that another one (column) keeps too."""
    methods = list(dict.fromkeys(one for one, _ in pairs))
    figure, axes = _figure(0.55 * len(methods) + 3, 0.45 * len(methods) + 2)
    image = axes.imshow([[pairs[one, two] for two in methods] for one in methods], vmin=0, vmax=1, cmap="viridis")
    axes.set_xticks(range(len(methods)), methods, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(methods)), methods, fontsize=8)
    for row, one in enumerate(methods):
        for column, two in enumerate(methods):
            axes.text(column, row, f"{pairs[one, two]:.2f}", ha="center", va="center", fontsize=7, color="white" if pairs[one, two] < 0.6 else "black")
    figure.colorbar(image, label="share of the row's channels that the column keeps")
    return figure
