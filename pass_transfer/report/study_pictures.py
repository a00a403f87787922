"""The pictures of a study, each drawn from its cells alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pass_transfer.report.drawing import Picture, Theme, heat_map, legend_below, new_figure, style
from pass_transfer.study import Row, Study, comparable, shared_channels

COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#888888",
    "#ee7733",
)  # told apart by those who see no red or green
MARKERS = "osD^vPX*"
LINES = ("-", "--", ":", "-.")
NO_SEARCH = 0.1  # seconds at which a method without a search stands on a logarithmic axis
WIDE = 8.8  # inches


def study_pictures(
    rows: Sequence[Row], cells: Sequence[Mapping[str, Any]], study: Study
) -> dict[str, Picture]:
    """All pictures by name: for every task accuracy and cost, and for every budget the channels of the first seed."""
    made = []
    for task in dict.fromkeys(row.task for row in rows):
        part, name = (
            [row for row in rows if row.task == task and row.top1 is not None],
            task.replace("/", "_").replace(":", "-"),
        )
        if part:
            made += [_accuracy(f"{name}-accuracy", part), _search(f"{name}-search", part)]
        for budget in study.budgets:
            shown = comparable(cells, task, budget, study.seeds[0])
            if shown:
                made.append(_channels(f"{name}-{budget:g}-channels", shown))
                made.append(
                    _shared(
                        f"{name}-{budget:g}-shared",
                        shared_channels(cells, task, budget, study.seeds[0]),
                    )
                )
    return {picture.name: picture for picture in made}


@dataclass(frozen=True)
class _Look:
    """How a method is drawn."""

    color: str
    marker: str
    linestyle: str
    fillstyle: str


def _looks(methods: Iterable[str]) -> dict[str, _Look]:
    """Of each method; more of them than there are colours have other markers, hollow and filled in turn, and other lines."""
    names, many = list(dict.fromkeys(methods)), len(COLOURS)
    return {
        name: _Look(
            COLOURS[n % many],
            MARKERS[(n + n // many) % len(MARKERS)],
            LINES[n // many % len(LINES)],
            ("full", "none")[n // many % 2],
        )
        for n, name in enumerate(names)
    }


def _accuracy(name: str, part: Sequence[Row]) -> Picture:
    """Accuracy against MACs, one line a method, with the deviation over seeds."""
    looks = _looks(row.method for row in part)

    def draw(theme: Theme):
        figure = new_figure(3.6 + 0.2 * (len(looks) // 3), WIDE)
        axes = style(
            figure.add_subplot(),
            theme,
            grid="both",
            x="MACs kept (%)",
            y="top-1 on the test images (%)",
        )
        handles = []
        for method, look in looks.items():
            points = sorted(
                (100 * row.macs_share, row.top1, row.deviation or 0)
                for row in part
                if row.method == method
            )
            x, y, deviation = zip(*points)
            handles.append(
                axes.errorbar(
                    x, y, yerr=deviation, capsize=3, linewidth=1.2, label=method, **asdict(look)
                )
            )
        legend_below(figure, theme, handles, 3)
        return figure

    said = "; ".join(f"{row.method} {row.top1:.2f} % at {row.macs_share:.0%}" for row in part)
    return Picture(
        name, f"Top-1 accuracy against the share of MACs kept on {part[0].task}. {said}.", draw
    )


def _search(name: str, part: Sequence[Row]) -> Picture:
    """Accuracy against the seconds of the search, at the budget with the most methods."""
    budgets = [row.budget for row in part]
    budget = max(dict.fromkeys(budgets), key=budgets.count)
    shown = [row for row in part if row.budget == budget]
    looks = _looks(row.method for row in part)  # as in the other picture

    def draw(theme: Theme):
        figure = new_figure(3.6 + 0.2 * (len(shown) // 3), WIDE)
        axes = style(
            figure.add_subplot(),
            theme,
            grid="both",
            x=f"seconds of the search (without one: {NO_SEARCH})",
            y="top-1 on the test images (%)",
            title=f"{budget:.0%} of the MACs",
        )
        handles = [
            axes.errorbar(
                max(row.search_seconds, NO_SEARCH),
                row.top1,
                yerr=row.deviation or 0,
                capsize=3,
                markersize=7,
                label=row.method,
                **asdict(looks[row.method]) | {"linestyle": "none"},
            )
            for row in shown
        ]
        axes.set_xscale("log")
        legend_below(figure, theme, handles, 3)
        return figure

    said = "; ".join(
        f"{row.method} {row.top1:.2f} % after {row.search_seconds:.0f} s" for row in shown
    )
    return Picture(
        name,
        f"Top-1 accuracy on {part[0].task} against the seconds of the search, at {budget:.0%} of the MACs. {said}.",
        draw,
    )


def _channels(name: str, cells: Sequence[Mapping[str, Any]]) -> Picture:
    """Share of its channels that each group keeps, by method."""
    groups, methods = list(cells[0]["kept"]), [cell["method"] for cell in cells]
    shares = [[cell["kept"][group] / cell["channels"][group] for group in groups] for cell in cells]

    def draw(theme: Theme):
        figure = new_figure(0.31 * len(cells) + 1.6, WIDE)
        heat_map(style(figure.add_subplot(), theme), theme, shares, methods, groups)
        return figure

    return Picture(
        name,
        f"Heat map of the share of its channels, in per cent, that each of {len(groups)} groups keeps under {', '.join(methods)}.",
        draw,
    )


def _shared(name: str, pairs: Mapping[tuple[str, str], float]) -> Picture:
    """Share of a method's channels (row) that another one (column) keeps too."""
    methods = list(dict.fromkeys(one for one, _ in pairs))
    shares = [[pairs[one, two] for two in methods] for one in methods]

    def draw(theme: Theme):
        figure = new_figure(0.31 * len(methods) + 1.6, WIDE)
        heat_map(style(figure.add_subplot(), theme), theme, shares, methods, methods)
        return figure

    return Picture(
        name,
        f"Heat map of the share, in per cent, of a method's channels (row) that another one (column) keeps too, for {', '.join(methods)}.",
        draw,
    )
