"""A cut foreseen (recipes/inspect.py), as a table and as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from pass_transfer.errors import UsageError
from pass_transfer.files import write_bytes
from pass_transfer.report.drawing import LIGHT, new_figure, overlaid_bars, style
from pass_transfer.report.table import plain

PICTURES = (".png", ".svg", ".pdf")


def preview_table(found: Mapping[str, Any]) -> str:
    """Channels by group, layers, totals and warnings as plain text."""
    groups = Table(title=f"{found['hypernet']}: channels", title_justify="left")
    for column in ("group", "kept", "of", "", "layers"):
        groups.add_column(
            column,
            justify="right" if column in ("kept", "of") else "left",
            no_wrap=column != "layers",
        )
    for group in found["groups"]:
        share = group["kept"] / group["width"]
        groups.add_row(
            group["name"],
            str(group["kept"]),
            str(group["width"]),
            f"{share:4.0%} {'#' * round(20 * share)}",
            str(len(group["layers"])),
        )
    layers = Table(title="layers", title_justify="left")
    for column in ("layer", "in", "out", "positions", "MACs (M)", "dense (M)", "parameters"):
        layers.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    for layer in found["layers"]:
        layers.add_row(
            layer["name"],
            str(layer["inputs"]),
            str(layer["outputs"]),
            str(layer["positions"]),
            f"{layer['macs'] / 1e6:.2f}",
            f"{layer['dense_macs'] / 1e6:.2f}",
            str(layer["parameters"]),
        )
    totals = Table(title=f"one image of {found['image_size']} pixels", title_justify="left")
    for column in ("", "small", "dense", "small / dense"):
        totals.add_column(column, justify="right" if column else "left")
    for name, key in (("MACs (M)", "macs"), ("parameters (M)", "parameters")):
        small, dense = found[key], found[f"dense_{key}"]
        totals.add_row(name, f"{small / 1e6:.2f}", f"{dense / 1e6:.2f}", f"{small / dense:.1%}")
    totals.add_row(
        "estimated from the layers", "", "", f"{found['estimated_speed_up']:.2f}x as fast"
    )
    for batch, small in (found["latency_ms"] or {}).items():
        dense = found["dense_latency_ms"][batch]
        totals.add_row(
            f"latency, batch {batch} (ms)",
            f"{small:.2f}",
            f"{dense:.2f}",
            f"{dense / small:.2f}x as fast",
        )
    return plain(
        100, groups, layers, totals, *(f"note: {warning}" for warning in found["warnings"])
    )


def check_picture(path: str | Path) -> Path:
    """The path of a picture. Raises UsageError for one whose ending is none."""
    path = Path(path)
    if path.suffix.lower() not in PICTURES:
        raise UsageError(
            f"{path} is no picture; choose a name that ends with one of {', '.join(PICTURES)}"
        )
    return path


def preview_picture(found: Mapping[str, Any], path: str | Path) -> None:
    """Kept channels of every group, and MACs of every layer, beside the dense network's. Raises UsageError, StorageError."""
    path = check_picture(path)
    figure = new_figure(0.32 * len(found["layers"]) + 1.6, 11)
    for axes, rows, small, dense, scale, title in (
        (figure.add_subplot(1, 2, 1), found["groups"], "kept", "width", 1, "channels kept"),
        (figure.add_subplot(1, 2, 2), found["layers"], "macs", "dense_macs", 1e6, "MACs (M)"),
    ):
        style(axes, LIGHT, grid="x", title=title)
        overlaid_bars(
            axes,
            LIGHT,
            [row["name"] for row in rows],
            [row[small] / scale for row in rows],
            [row[dense] / scale for row in rows],
        )
    axes.legend(frameon=False)
    figure.suptitle(
        f"{found['hypernet']}: {found['macs'] / found['dense_macs']:.0%} of the MACs, {found['parameters'] / found['dense_parameters']:.0%} of the parameters"
    )
    content = io.BytesIO()
    figure.savefig(content, dpi=130, format=path.suffix.lower().removeprefix("."))
    write_bytes(path, content.getvalue())
