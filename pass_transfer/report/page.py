"""One self-contained HTML page: its shell, and the pieces that its contents are put together from.

Every value is escaped here, where it becomes HTML. A page has no script and loads
nothing: its policy forbids both.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pass_transfer.files import read_text
from pass_transfer.report.drawing import DARK, LIGHT, Picture, writable

STYLE = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Text that is HTML already."""


def text(value: Any) -> Html:
    """A value as HTML, escaped unless it is HTML already."""
    return value if isinstance(value, Html) else Html(escape(writable(str(value))))


def element(name: str, *children: Any, **attributes: Any) -> Html:
    """An element around its children; attributes that are None are left out, and `class_` is class."""
    said = "".join(
        f' {key.rstrip("_")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{said}>{''.join(map(text, children))}</{name}>")


def image(kind: str, content: bytes, alt: str, dark: bytes | None = None) -> Html:
    """An embedded image ("png" or "svg+xml"), with another one for dark pages if there is one."""
    light = f'<img alt="{text(alt)}" src="{_data(kind, content)}">'
    return Html(
        light
        if dark is None
        else f'<picture><source media="(prefers-color-scheme: dark)" srcset="{_data(kind, dark)}">{light}</picture>'
    )


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def figure(picture: Picture, caption: Any = None) -> Html:
    """A picture in the page's own colours, light and dark."""
    return element(
        "figure",
        image("svg+xml", picture.svg(LIGHT), picture.alt, picture.svg(DARK)),
        *([] if caption is None else [element("figcaption", caption)]),
    )


def table(
    header: Sequence[Any], rows: Iterable[Sequence[Any]], *, words: Sequence[int] = ()
) -> Html:
    """A table, with or without a header, whose first column names its rows; the others are numbers, set to the right, but for the columns that hold words."""

    def cell(name: str, column: int, value: Any, scope: str | None = None) -> Html:
        return element(
            name, value, scope=scope, class_="number" if column and column not in words else None
        )

    head = (
        [
            element(
                "thead",
                element("tr", *(cell("th", n, value, "col") for n, value in enumerate(header))),
            )
        ]
        if header
        else []
    )
    body = [
        element(
            "tr",
            cell("th", 0, first, "row"),
            *(cell("td", n, value) for n, value in enumerate(rest, 1)),
        )
        for first, *rest in rows
    ]
    return element("div", element("table", *head, element("tbody", *body)), class_="scroll")


def facts(rows: Iterable[tuple[Any, Any]]) -> Html:
    """A table of names and what they stand for."""
    return table((), rows, words=(1,))


def details(summary: str, *children: Any) -> Html:
    """Something that is folded until it is asked for."""
    return element("details", element("summary", summary), *children)


def card(*children: Any, title: str | None = None, wide: bool = False) -> Html:
    """A box; a wide one stands below others over the whole width."""
    return element(
        "section",
        *([element("h3", title)] if title else []),
        *children,
        class_="card wide" if wide else "card",
    )


def cards(*children: Html) -> Html:
    """Boxes beside each other where there is room."""
    return element("div", *children, class_="cards")


def stack(*children: Html) -> Html:
    """Boxes below each other, in the place of one."""
    return element("div", *children, class_="stack")


def command(line: str) -> Html:
    """A command line that breaks between its options."""
    return element(
        "pre",
        element(
            "code", Html(" ".join(element("span", part) for part in re.split(" (?=--)", line)))
        ),
    )


def tiles(values: Iterable[tuple[str, str, str]]) -> Html:
    """The numbers that matter most: (what, value, what it is to be compared with)."""
    return element(
        "dl",
        *(
            element(
                "div",
                element("dt", what),
                element("dd", value, class_="value"),
                element("dd", beside, class_="beside"),
                class_="tile",
            )
            for what, value, beside in values
        ),
        class_="tiles",
    )


def page(title: str, over: str, lead: str, *contents: Html) -> str:
    """A whole page: a heading with a line over it, a short summary, then the contents."""
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{text(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f'<link rel="icon" href="data:,">{element("title", title)}<style>{read_text(STYLE)}</style>'
    )
    header = element(
        "header",
        element("p", over, class_="over"),
        element("h1", title),
        element("p", lead, class_="lead"),
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{element("main", header, *contents)}</body></html>\n'
