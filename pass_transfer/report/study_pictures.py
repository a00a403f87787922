"""The pictures of a study, each drawn from its cells alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pass_transfer.report.drawing import Picture, Theme, heat_map, legend_below, new_figure, style
from pass_transfer.study import Row, Study, comparable, shared_channels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by those who see no red or green.
COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#888888",
    "#ee7733",
)
MARKERS = "osD^vPX*"
LINES = ("-", "--", ":", "-.")
NO_SEARCH = 0.1  # seconds at which a method without a search stands on a logarithmic axis
WIDE = 8.8  # inches
TOP1 = "top-1 on the test images (%)"


def study_pictures(
    rows: Sequence[Row], cells: Sequence[dict[str, Any]], study: Study
) -> dict[str, Picture]:
    """All pictures by name.

    There are accuracy and cost for every task, and the channels of the first seed for every
    budget.
    """
    made = []
    for task in dict.fromkeys(row.task for row in rows):
        name = task.replace("/", "_").replace(":", "-")
        part = _measured(row for row in rows if row.task == task)
        if part:
            made.append(_accuracy(f"{name}-accuracy", task, part))
            made.append(_search(f"{name}-search", task, part))
        for budget in study.budgets:
            seed = study.seeds[0]
            shown = comparable(cells, task, budget, seed)
            if shown:
                shared = shared_channels(cells, task, budget, seed)
                made.append(_channels(f"{name}-{budget:g}-channels", shown))
                made.append(_shared(f"{name}-{budget:g}-shared", shared))
    return {picture.name: picture for picture in made}


@dataclass(frozen=True)
class _Measured:
    """A row that has results: a method at one budget, means over seeds."""

    method: str
    budget: float
    macs_share: float
    top1: float
    deviation: float  # 0 for one seed
    search_seconds: float


def _measured(rows: Iterable[Row]) -> list[_Measured]:
    """Those of the rows that have results; the seeds of the others all failed."""
    found = []
    for row in rows:
        if row.top1 is None or row.macs_share is None or row.search_seconds is None:
            continue
        found.append(
            _Measured(
                row.method,
                row.budget,
                row.macs_share,
                row.top1,
                row.deviation or 0,
                row.search_seconds,
            )
        )
    return found


@dataclass(frozen=True)
class _Look:
    """How a method is drawn."""

    color: str
    marker: str
    linestyle: str
    fillstyle: str


def looks_of(methods: Iterable[str]) -> dict[str, _Look]:
    """The look of each method.

    Where there are more methods than colours, a colour comes again with another marker,
    hollow and filled in turn, and with another line.
    """
    looks = {}
    for number, name in enumerate(dict.fromkeys(methods)):
        turn, colour = divmod(number, len(COLOURS))
        looks[name] = _Look(
            COLOURS[colour],
            MARKERS[(number + turn) % len(MARKERS)],
            LINES[turn % len(LINES)],
            ("full", "none")[turn % 2],
        )
    return looks


def _accuracy(name: str, task: str, part: Sequence[_Measured]) -> Picture:
    """Accuracy against MACs, one line a method, with the deviation over seeds."""
    looks = looks_of(row.method for row in part)

    def draw(theme: Theme) -> Figure:
        figure = new_figure(3.6 + 0.2 * (len(looks) // 3), WIDE)
        axes = style(figure.add_subplot(), theme, grid="both", x="MACs kept (%)", y=TOP1)
        handles = []
        for method, look in looks.items():
            own = [row for row in part if row.method == method]
            handles.append(_line(axes, own, look))
        legend_below(figure, theme, handles, 3)
        return figure

    said = "; ".join(f"{row.method} {row.top1:.2f} % at {row.macs_share:.0%}" for row in part)
    return Picture(name, f"Top-1 accuracy against the share of MACs kept on {task}. {said}.", draw)


def _line(axes: Axes, rows: Sequence[_Measured], look: _Look) -> Any:
    """One method's accuracies, from the smallest network to the largest."""
    points = sorted((100 * row.macs_share, row.top1, row.deviation) for row in rows)
    x, y, deviation = zip(*points)
    return axes.errorbar(
        x, y, yerr=deviation, capsize=3, linewidth=1.2, label=rows[0].method, **asdict(look)
    )


def _search(name: str, task: str, part: Sequence[_Measured]) -> Picture:
    """Accuracy against the seconds of the search, at the budget with the most methods."""
    budgets = [row.budget for row in part]
    budget = max(dict.fromkeys(budgets), key=budgets.count)
    shown = [row for row in part if row.budget == budget]
    looks = looks_of(row.method for row in part)  # as in the other picture

    def draw(theme: Theme) -> Figure:
        figure = new_figure(3.6 + 0.2 * (len(shown) // 3), WIDE)
        axes = style(
            figure.add_subplot(),
            theme,
            grid="both",
            x=f"seconds of the search (without one: {NO_SEARCH})",
            y=TOP1,
            title=f"{budget:.0%} of the MACs",
        )
        handles = [_point(axes, row, looks[row.method]) for row in shown]
        axes.set_xscale("log")
        legend_below(figure, theme, handles, 3)
        return figure

    said = "; ".join(
        f"{row.method} {row.top1:.2f} % after {row.search_seconds:.0f} s" for row in shown
    )
    return Picture(
        name,
        f"Top-1 accuracy on {task} against the seconds of the search, "
        f"at {budget:.0%} of the MACs. {said}.",
        draw,
    )


def _point(axes: Axes, row: _Measured, look: _Look) -> Any:
    return axes.errorbar(
        max(row.search_seconds, NO_SEARCH),
        row.top1,
        yerr=row.deviation,
        capsize=3,
        markersize=7,
        label=row.method,
        **asdict(look) | {"linestyle": "none"},
    )


def _channels(name: str, cells: Sequence[Mapping[str, Any]]) -> Picture:
    """Share of its channels that each group keeps, by method."""
    groups, methods = list(cells[0]["kept"]), [cell["method"] for cell in cells]
    shares = []
    for cell in cells:
        kept, widths = cell["kept"], cell["channels"]
        shares.append([kept[group] / widths[group] for group in groups])
    said = (
        f"Heat map of the share of its channels, in per cent, that each of {len(groups)} groups "
        f"keeps under {', '.join(methods)}."
    )
    return _heat_picture(name, said, shares, methods, groups)


def _shared(name: str, pairs: Mapping[tuple[str, str], float]) -> Picture:
    """Share of a method's channels (row) that another one (column) keeps too."""
    methods = list(dict.fromkeys(one for one, _ in pairs))
    shares = []
    for one in methods:
        shares.append([pairs[one, two] for two in methods])
    said = (
        "Heat map of the share, in per cent, of a method's channels (row) that another one "
        f"(column) keeps too, for {', '.join(methods)}."
    )
    return _heat_picture(name, said, shares, methods, methods)


def _heat_picture(
    name: str,
    alt: str,
    shares: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
) -> Picture:
    def draw(theme: Theme) -> Figure:
        figure = new_figure(0.31 * len(rows) + 1.6, WIDE)
        heat_map(style(figure.add_subplot(), theme), theme, shares, rows, columns)
        return figure

    return Picture(name, alt, draw)
