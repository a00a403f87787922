"""One self-contained HTML page: its shell, and the pieces that its contents are made of.

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
from pass_transfer.report.drawing import DARK, LIGHT, Picture
from pass_transfer.report.words import writable

STYLE = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Text that is HTML already."""


def text(value: Any) -> Html:
    """A value as HTML, escaped unless it is HTML already."""
    return value if isinstance(value, Html) else Html(escape(writable(str(value))))


def element(name: str, *children: Any, **attributes: Any) -> Html:
    """An element around its children.

    Attributes that are None are left out; `class_` is class.
    """
    given = {key.rstrip("_"): value for key, value in attributes.items() if value is not None}
    said = "".join(f' {key}="{text(value)}"' for key, value in given.items())
    inside = "".join(map(text, children))
    return Html(f"<{name}{said}>{inside}</{name}>")


def image(kind: str, content: bytes, alt: str, dark: bytes | None = None) -> Html:
    """An embedded image ("png" or "svg+xml"), with another one for dark pages if there is one."""
    light = f'<img alt="{text(alt)}" src="{_data(kind, content)}">'
    if dark is None:
        return Html(light)
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{_data(kind, dark)}">'
    return Html(f"<picture>{source}{light}</picture>")


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def figure(picture: Picture, caption: Any = None) -> Html:
    """A picture in the page's own colours, light and dark."""
    drawn = image("svg+xml", picture.svg(LIGHT), picture.alt, picture.svg(DARK))
    under = [] if caption is None else [element("figcaption", caption)]
    return element("figure", drawn, *under)


def table(
    header: Sequence[Any], rows: Iterable[Sequence[Any]], *, words: Sequence[int] = ()
) -> Html:
    """A table whose first column names its rows.

    Args:
        header: names of the columns; none for a table without a header.
        rows: their cells. Those beside the first column are numbers, set to the right.
        words: columns that hold words instead.
    """

    def cell(name: str, column: int, value: Any, scope: str | None = None) -> Html:
        is_number = column > 0 and column not in words
        return element(name, value, scope=scope, class_="number" if is_number else None)

    parts = []
    if header:
        titles = [cell("th", column, value, "col") for column, value in enumerate(header)]
        parts.append(element("thead", element("tr", *titles)))
    body = []
    for first, *rest in rows:
        others = [cell("td", column, value) for column, value in enumerate(rest, 1)]
        body.append(element("tr", cell("th", 0, first, "row"), *others))
    return element("div", element("table", *parts, element("tbody", *body)), class_="scroll")


def facts(rows: Iterable[tuple[Any, Any]]) -> Html:
    """A table of names and what they stand for."""
    return table((), rows, words=(1,))


def details(summary: str, *children: Any) -> Html:
    """Something that is folded until it is asked for."""
    return element("details", element("summary", summary), *children)


def card(*children: Any, title: str | None = None, wide: bool = False) -> Html:
    """A box; a wide one stands below others over the whole width."""
    heading = [element("h3", title)] if title else []
    return element("section", *heading, *children, class_="card wide" if wide else "card")


def cards(*children: Html) -> Html:
    """Boxes beside each other where there is room."""
    return element("div", *children, class_="cards")


def stack(*children: Html) -> Html:
    """Boxes below each other, in the place of one."""
    return element("div", *children, class_="stack")


def command(line: str) -> Html:
    """A command line that breaks between its options."""
    options = [element("span", part) for part in re.split(" (?=--)", line)]
    return element("pre", element("code", Html(" ".join(options))))


def tiles(values: Iterable[tuple[str, str, str]]) -> Html:
    """The numbers that matter most: (what, value, what it is to be compared with)."""
    return element("dl", *(_tile(*value) for value in values), class_="tiles")


def _tile(what: str, value: str, beside: str) -> Html:
    return element(
        "div",
        element("dt", what),
        element("dd", value, class_="value"),
        element("dd", beside, class_="beside"),
        class_="tile",
    )


def page(title: str, over: str, lead: str, *contents: Html) -> str:
    """A whole page: a heading with a line over it, a short summary, then the contents."""
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{text(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<link rel="icon" href="data:,">'
        f"{element('title', title)}<style>{read_text(STYLE)}</style>"
    )
    header = element(
        "header",
        element("p", over, class_="over"),
        element("h1", title),
        element("p", lead, class_="lead"),
    )
    body = element("main", header, *contents)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'
