"""The pictures of a run, each drawn from result.json or metrics.jsonl alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pass_transfer.report.drawing import (
    Picture,
    Theme,
    legend_below,
    new_figure,
    overlaid_bars,
    style,
)

ROW = 0.26  # inches a horizontal bar takes


def accuracy_picture(result: Mapping[str, Any]) -> Picture:
    """Top-1 against MACs: the small network, the same without its prompt, the dense one where it was trained."""
    small, dense = result["macs"] / 1e6, result["dense_macs"] / 1e6
    points = [("small", small, result["top1"], "o", "small")]
    if result["top1_without_prompt"] not in (None, result["top1"]):
        points.append(
            ("small, without its prompt", small, result["top1_without_prompt"], "D", "wrong")
        )
    if result["dense_top1"] is not None:
        points.append(("dense", dense, result["dense_top1"], "o", "dense"))
    labels = [f"{name}: {top1:.2f} % at {macs:.2f} M" for name, macs, top1, _, _ in points]
    missing = f"dense: not trained, {dense:.2f} M" if result["dense_top1"] is None else None

    def draw(theme: Theme):
        figure = new_figure(3.3)
        axes = style(
            figure.add_subplot(),
            theme,
            grid="both",
            x="multiply-accumulates for one image (M)",
            y="top-1 (%)",
        )
        handles = [
            axes.scatter(
                macs,
                top1,
                s=70,
                marker=marker,
                color=getattr(theme, colour),
                edgecolor=theme.text if colour == "dense" else "none",
                label=label,
                zorder=3,
            )
            for (_, macs, top1, marker, colour), label in zip(points, labels)
        ]
        if missing:
            handles.append(
                axes.axvline(
                    dense, color=theme.muted, linestyle=(0, (4, 3)), linewidth=1.2, label=missing
                )
            )
        low, high = min(p[2] for p in points), max(p[2] for p in points)
        axes.set(xlim=(0, 1.08 * dense), ylim=(max(0, low - 5), min(101, high + 5)))
        bottom, top = axes.get_ylim()
        axes.set_yticks([tick for tick in axes.get_yticks() if bottom <= tick <= min(100, top)])
        legend_below(figure, theme, handles, 1)
        return figure

    return Picture(
        "accuracy",
        f"Top-1 accuracy against multiply-accumulates. {'; '.join(labels + ([missing] if missing else []))}.",
        draw,
    )


def channels_picture(result: Mapping[str, Any]) -> Picture:
    """Channels kept of every group, over all of them."""
    kept, widths = result["channels_kept"], result["channels"]

    def draw(theme: Theme):
        figure = new_figure(ROW * len(kept) + 1.1)
        axes = style(figure.add_subplot(), theme, grid="x", x="channels")
        overlaid_bars(axes, theme, list(kept), list(kept.values()), [widths[name] for name in kept])
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
        axes.set_xlim(0, 1.14 * max(widths.values()))
        legend_below(figure, theme, axes.containers[::-1], 2)
        return figure

    return Picture(
        "channels",
        "Channels kept by group: "
        + ", ".join(f"{name} {count} of {widths[name]}" for name, count in kept.items())
        + ".",
        draw,
    )


def latency_picture(result: Mapping[str, Any]) -> Picture:
    """Milliseconds of a forward pass, small under dense, a panel for every batch size."""
    small, dense = result["latency_ms"], result["dense_latency_ms"]

    def draw(theme: Theme):
        figure = new_figure(0.1 + 1.05 * len(small))
        panels = figure.subplots(len(small), squeeze=False)[:, 0]
        for axes, batch in zip(panels, small):
            style(axes, theme, title=f"batch {batch}")
            bars = axes.barh(
                ["dense", "small"],
                [dense[batch], small[batch]],
                color=[theme.dense, theme.small],
                height=0.72,
            )
            axes.bar_label(
                bars,
                [f"{dense[batch]:.2f} ms", f"{small[batch]:.2f} ms"],
                padding=4,
                fontsize=9,
                color=theme.text,
            )
            axes.set_xlim(0, 1.22 * max(dense[batch], small[batch]))
            axes.set_xticks([])
            axes.spines["bottom"].set_visible(False)
        return figure

    return Picture(
        "latency",
        "Median latency. "
        + "; ".join(f"batch {b}: small {small[b]:.2f} ms, dense {dense[b]:.2f} ms" for b in small)
        + ".",
        draw,
    )


def curves_picture(name: str, stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> Picture:
    """Top-1 and loss by epoch.

    Args:
        name: of the picture.
        stages: rows of metrics.jsonl by what they are to be called; a second one is drawn in the dense network's colour.
    """

    def draw(theme: Theme):
        from matplotlib.ticker import MaxNLocator

        figure = new_figure(4.1)
        top, bottom = figure.subplots(2, sharex=True)
        for axes, key, label in ((top, "top1", "top-1 (%)"), (bottom, "loss", "loss")):
            style(axes, theme, grid="y", title=label)
            for (stage, rows), colour in zip(stages.items(), (theme.small, theme.muted)):
                for part, line in (("held_out", "-"), ("train", (0, (3, 2)))):
                    points = [
                        (row["epoch"], row[f"{part}_{key}"])
                        for row in rows
                        if f"{part}_{key}" in row
                    ]
                    if points:
                        axes.plot(
                            *zip(*points),
                            color=colour,
                            linestyle=line,
                            marker="o",
                            markersize=3.2 if len(points) < 40 else 0,
                            linewidth=1.6,
                            label=f"{stage}, {part.replace('_', '-')}",
                        )
        bottom.set_xlabel("epoch", color=theme.muted, fontsize=9)
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        legend_below(figure, theme, top.get_lines(), 2 if len(top.get_lines()) > 1 else 1)
        return figure

    ends = [
        f"{stage}: {len(rows)} epoch{'s' * (len(rows) > 1)}, {_last(rows)}"
        for stage, rows in stages.items()
    ]
    return Picture(name, f"Training curves, top-1 and loss by epoch. {'; '.join(ends)}.", draw)


def _last(rows: Sequence[Mapping[str, Any]]) -> str:
    named = (("held_out_top1", "on held-out images"), ("train_top1", "on training images"))
    return "the last with " + " and ".join(
        f"{rows[-1][key]:.2f} % {where}" for key, where in named if key in rows[-1]
    )
