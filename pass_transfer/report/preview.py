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
from pass_transfer.report.table import COLUMNS, latency_rows, plain, size_rows
from pass_transfer.surroundings import as_guest

PICTURES = (".png", ".svg", ".pdf")
DPI = 130
LAYER_COLUMNS = ("layer", "in", "out", "positions", "MACs (M)", "dense (M)", "parameters")


def preview_table(found: Mapping[str, Any]) -> str:
    """Channels by group, layers, totals and warnings as plain text."""
    notes = [f"note: {warning}" for warning in found["warnings"]]
    whole = [f"kept whole: {name}, as {why}" for name, why in found["kept_whole"].items()]
    return plain(100, _groups(found), *whole, _layers(found), _totals(found), *notes)


def _groups(found: Mapping[str, Any]) -> Table:
    heads = any(group["unit"] == "head" for group in found["groups"])
    units = "channels, and heads of attention" if heads else "channels"
    table = Table(title=f"{_name(found)}: {units}", title_justify="left")
    for column in ("group", "kept", "of", "", "layers"):
        table.add_column(
            column,
            justify="right" if column in ("kept", "of") else "left",
            no_wrap=column != "layers",
        )
    for group in found["groups"]:
        share = group["kept"] / group["width"]
        table.add_row(
            group["name"],
            str(group["kept"]),
            str(group["width"]),
            f"{share:4.0%} {'#' * round(20 * share)}",
            str(len(group["layers"])),
        )
    return table


def _name(found: Mapping[str, Any]) -> str:
    return found["hypernet"] or found["network"]


def _layers(found: Mapping[str, Any]) -> Table:
    table = Table(title="layers", title_justify="left")
    for column in LAYER_COLUMNS:
        if column == "layer":  # a long name goes on in the next line, so that figures stay
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    for layer in found["layers"]:
        table.add_row(
            layer["name"],
            str(layer["inputs"]),
            str(layer["outputs"]),
            str(layer["positions"]),
            f"{layer['macs'] / 1e6:.2f}",
            f"{layer['dense_macs'] / 1e6:.2f}",
            str(layer["parameters"]),
        )
    return table


def _totals(found: Mapping[str, Any]) -> Table:
    table = Table(title=f"one image of {found['image_size']} pixels", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column else "left")
    speed_up = f"{found['estimated_speed_up']:.2f}x as fast"
    estimate = ("estimated from the layers", "", "", speed_up)
    for row in (*size_rows(found), estimate, *latency_rows(found)):
        table.add_row(*row)
    return table


def check_picture(path: str | Path) -> Path:
    """The path of a picture. Raises UsageError for one whose ending is none."""
    path = Path(path)
    if path.suffix.lower() not in PICTURES:
        raise UsageError(
            f"{path} is no picture; choose a name that ends with one of {', '.join(PICTURES)}"
        )
    return path


@as_guest
def preview_picture(found: Mapping[str, Any], path: str | Path) -> None:
    """Draw kept channels of every group, and MACs of every layer, beside the dense network's.

    Raises UsageError, StorageError.
    """
    path = check_picture(path)
    groups, layers = found["groups"], found["layers"]
    figure = new_figure(0.32 * len(layers) + 1.6, 11)
    left = style(figure.add_subplot(1, 2, 1), LIGHT, grid="x", title="channels kept")
    overlaid_bars(
        left,
        LIGHT,
        [group["name"] for group in groups],
        [group["kept"] for group in groups],
        [group["width"] for group in groups],
    )
    right = style(figure.add_subplot(1, 2, 2), LIGHT, grid="x", title="MACs (M)")
    overlaid_bars(
        right,
        LIGHT,
        [layer["name"] for layer in layers],
        [layer["macs"] / 1e6 for layer in layers],
        [layer["dense_macs"] / 1e6 for layer in layers],
    )
    right.legend(frameon=False)
    macs = found["macs"] / found["dense_macs"]
    parameters = found["parameters"] / found["dense_parameters"]
    figure.suptitle(f"{_name(found)}: {macs:.0%} of the MACs, {parameters:.0%} of the parameters")
    content = io.BytesIO()
    figure.savefig(content, dpi=DPI, format=path.suffix.lower().removeprefix("."))
    write_bytes(path, content.getvalue())
