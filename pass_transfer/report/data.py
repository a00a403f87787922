"""What was understood of a task's data: on the terminal, and on a run's page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from pass_transfer.preprocessing import Preprocessing
from pass_transfer.report.page import Html, card, cards, element, table
from pass_transfer.report.table import plain
from pass_transfer.tasks.overview import SPLITS, TREATED

SHOWN_CLASSES = 50  # on the terminal; --json has all


def data_table(found: Mapping[str, Any]) -> str:
    """Images of each class, as plain text (recipes/inspect.py, inspect_task)."""
    counts = found["class_images"]
    title = f"{found['task']}: images of each class"
    shown = Table()
    for column in ("class", *SPLITS.values()):
        shown.add_column(column, justify="left" if column == "class" else "right")
    for name, row in list(counts.items())[:SHOWN_CLASSES]:
        shown.add_row(name, *map(str, row))
    more = len(counts) - SHOWN_CLASSES
    return plain(
        100,
        title,
        shown,
        *([f"and {more} more classes; --json has all"] if more > 0 else []),
        f"each image is {Preprocessing(**found['preprocessing'])}",
    )


def images_section(result: Mapping[str, Any], seen: Preprocessing) -> list[Html]:
    """The images of a run, as its page has them; nothing for a run that kept no account.

    Args:
        seen: what became of each before the network saw it.
    """
    data = result.get("data")
    if not data:
        return []
    rows = [
        (SPLITS.get(name, name), one["images"], _class(one["smallest"]), _class(one["largest"]))
        for name, one in data["splits"].items()
    ]
    counted = card(
        table(("split", "images", "fewest", "most"), rows, words=(2, 3)),
        title=f"{data['classes']} classes",
    )
    notes = [*_left_out(data), *_treated(data), *_copies(data)]
    said = element("ul", *(element("li", note) for note in notes))
    every = element("p", f"Each image is {seen}.")
    noted = card(every, said if notes else element("p", "Every file was used."), title="Notes")
    return [element("h2", "The images"), cards(counted, noted)]


def _class(end: list[Any]) -> str:
    name, count = end
    return f"{name} ({count})"


def _left_out(data: Mapping[str, Any]) -> list[str]:
    return [
        f"Left out: {one['reason']}: {one['count']} ({', '.join(one['names'])}"
        f"{', ...' if one['count'] > len(one['names']) else ''})"
        for one in data["left_out"]
    ]


def _treated(data: Mapping[str, Any]) -> list[str]:
    return [f"Images {TREATED.get(what, what)}: {count}" for what, count in data["treated"].items()]


def _copies(data: Mapping[str, Any]) -> list[str]:
    return [f"Images that {pair} both have: {count}" for pair, count in data["copies"].items()]
