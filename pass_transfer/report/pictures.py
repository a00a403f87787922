"""The pictures of a run, each drawn from result.json or metrics.jsonl alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pass_transfer.report.drawing import (
    Picture,
    Theme,
    legend_below,
    new_figure,
    overlaid_bars,
    style,
)
from pass_transfer.report.words import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROW = 0.26  # inches a horizontal bar takes
DASHES = (0, (3, 2))
LONG_DASHES = (0, (4, 3))
MANY_EPOCHS = 40  # a curve of so many has no markers


@dataclass(frozen=True)
class _Point:
    """A network in the picture of accuracies; `colour` is the name of a theme's colour."""

    name: str
    macs: float  # millions
    top1: float
    marker: str
    colour: str

    @property
    def label(self) -> str:
        return f"{self.name}: {self.top1:.2f} % at {self.macs:.2f} M"


def accuracy_picture(result: Mapping[str, Any]) -> Picture:
    """Top-1 against MACs: the small network and the dense one, where that was trained.

    The small network without its prompt is there, too, where that makes a difference.
    """
    points, dense_macs = _points(result), result["dense_macs"] / 1e6
    missing = None
    if result["dense_top1"] is None:
        missing = f"dense: not trained, {dense_macs:.2f} M"

    def draw(theme: Theme) -> Figure:
        figure = new_figure(3.3)
        axes = style(
            figure.add_subplot(),
            theme,
            grid="both",
            x="multiply-accumulates for one image (M)",
            y="top-1 (%)",
        )
        handles: list[Any] = [_scatter(axes, theme, point) for point in points]
        if missing:
            line = axes.axvline(
                dense_macs, color=theme.muted, linestyle=LONG_DASHES, linewidth=1.2, label=missing
            )
            handles.append(line)
        _limit(axes, dense_macs, [point.top1 for point in points])
        legend_below(figure, theme, handles, 1)
        return figure

    said = [point.label for point in points] + ([missing] if missing else [])
    return Picture(
        "accuracy", f"Top-1 accuracy against multiply-accumulates. {'; '.join(said)}.", draw
    )


def _points(result: Mapping[str, Any]) -> list[_Point]:
    small, top1, bare = result["macs"] / 1e6, result["top1"], result["top1_without_prompt"]
    points = [_Point("small", small, top1, "o", "small")]
    if bare is not None and bare != top1:
        points.append(_Point("small, without its prompt", small, bare, "D", "wrong"))
    if result["dense_top1"] is not None:
        dense = result["dense_macs"] / 1e6
        points.append(_Point("dense", dense, result["dense_top1"], "o", "dense"))
    return points


def _scatter(axes: Axes, theme: Theme, point: _Point) -> Any:
    return axes.scatter(
        point.macs,
        point.top1,
        s=70,
        marker=point.marker,
        color=getattr(theme, point.colour),
        edgecolor=theme.text if point.colour == "dense" else "none",
        label=point.label,
        zorder=3,
    )


def _limit(axes: Axes, dense_macs: float, top1: Sequence[float]) -> None:
    """Leave room around the points, and no tick above 100 %."""
    axes.set(xlim=(0, 1.08 * dense_macs), ylim=(max(0, min(top1) - 5), min(101, max(top1) + 5)))
    bottom, top = axes.get_ylim()
    highest = min(100, top)
    axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= highest])


def channels_picture(result: Mapping[str, Any]) -> Picture:
    """Channels kept of every group, over all of them."""
    kept = result["channels_kept"]
    widths = {name: result["channels"][name] for name in kept}

    def draw(theme: Theme) -> Figure:
        figure = new_figure(ROW * len(kept) + 1.1)
        axes = style(figure.add_subplot(), theme, grid="x", x="channels")
        overlaid_bars(axes, theme, list(kept), list(kept.values()), list(widths.values()))
        for row, (name, count) in enumerate(kept.items()):
            axes.annotate(
                f"{count / widths[name]:.0%}",
                (widths[name], row),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color=theme.muted,
            )
        axes.set_xlim(0, 1.14 * max(result["channels"].values()))
        legend_below(figure, theme, axes.containers[::-1], 2)
        return figure

    said = ", ".join(f"{name} {count} of {widths[name]}" for name, count in kept.items())
    return Picture("channels", f"Channels kept by group: {said}.", draw)


def latency_picture(result: Mapping[str, Any]) -> Picture:
    """Milliseconds of a forward pass, small under dense, a panel for every batch size."""
    small, dense = result["latency_ms"], result["dense_latency_ms"]

    def draw(theme: Theme) -> Figure:
        figure = new_figure(0.1 + 1.05 * len(small))
        panels = figure.subplots(len(small), squeeze=False)[:, 0]
        for axes, batch in zip(panels, small):
            style(axes, theme, title=f"batch {batch}")
            times = [dense[batch], small[batch]]
            bars = axes.barh(
                ["dense", "small"], times, color=[theme.dense, theme.small], height=0.72
            )
            labels = [f"{time:.2f} ms" for time in times]
            axes.bar_label(bars, labels, padding=4, fontsize=9, color=theme.text)
            axes.set_xlim(0, 1.22 * max(times))
            axes.set_xticks([])
            axes.spines["bottom"].set_visible(False)
        return figure

    said = [
        f"batch {batch}: small {time:.2f} ms, dense {dense[batch]:.2f} ms"
        for batch, time in small.items()
    ]
    return Picture("latency", f"Median latency. {'; '.join(said)}.", draw)


Rows = Sequence[Mapping[str, Any]]  # of metrics.jsonl


def curves_picture(name: str, stages: Mapping[str, Rows]) -> Picture:
    """Top-1 and loss by epoch.

    Args:
        name: of the picture.
        stages: rows of metrics.jsonl by what they are to be called; a second one is drawn
            in the dense network's colour.
    """

    def draw(theme: Theme) -> Figure:
        from matplotlib.ticker import MaxNLocator

        figure = new_figure(4.1)
        top, bottom = figure.subplots(2, sharex=True)
        for axes, key, title in ((top, "top1", "top-1 (%)"), (bottom, "loss", "loss")):
            style(axes, theme, grid="y", title=title)
            for (stage, rows), colour in zip(stages.items(), (theme.small, theme.muted)):
                _plot(axes, rows, f"held_out_{key}", colour, "-", f"{stage}, held-out")
                _plot(axes, rows, f"train_{key}", colour, DASHES, f"{stage}, train")
        bottom.set_xlabel("epoch", color=theme.muted, fontsize=9)
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        lines = top.get_lines()
        legend_below(figure, theme, lines, 2 if len(lines) > 1 else 1)
        return figure

    ends = [
        f"{stage}: {counted(len(rows), 'epoch')}, {_last(rows)}" for stage, rows in stages.items()
    ]
    return Picture(name, f"Training curves, top-1 and loss by epoch. {'; '.join(ends)}.", draw)


def _plot(axes: Axes, rows: Rows, key: str, colour: str, line: Any, label: str) -> None:
    """A curve of one metric over the epochs that have it, if there are any."""
    known = [row for row in rows if key in row]
    if known:
        axes.plot(
            [row["epoch"] for row in known],
            [row[key] for row in known],
            color=colour,
            linestyle=line,
            marker="o",
            markersize=3.2 if len(known) < MANY_EPOCHS else 0,
            linewidth=1.6,
            label=label,
        )


def _last(rows: Rows) -> str:
    named = (("held_out_top1", "on held-out images"), ("train_top1", "on training images"))
    last = rows[-1]
    said = [f"{last[key]:.2f} % {where}" for key, where in named if key in last]
    return f"the last with {' and '.join(said)}"
