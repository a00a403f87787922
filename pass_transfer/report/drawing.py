"""How pictures look: colours for light and dark pages, axes, and figures as SVG and PNG.

Figures are drawn without pyplot, so that nothing is kept between two of them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = (
    4.4  # inches: two beside each other on a desktop's page, and letters that a phone still shows
)
PNG_DPI = 200
NAME_LENGTH = 22  # characters of a name beside an axis


@dataclass(frozen=True)
class Theme:
    """Colours of one scheme. `small` and `dense` are the two networks'; `wrong` marks mistakes."""

    page: str
    text: str
    muted: str
    grid: str
    small: str
    dense: str
    wrong: str


LIGHT = Theme(
    page="#ffffff",
    text="#1f2328",
    muted="#59636e",
    grid="#e4e8ec",
    small="#0969da",
    dense="#c3cad2",
    wrong="#bc4c00",
)
DARK = Theme(
    page="#151b23",
    text="#e6edf3",
    muted="#9aa4af",
    grid="#2c343d",
    small="#4493f8",
    dense="#56606b",
    wrong="#f0883e",
)


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn for both schemes.

    Fields:
        name: of its files, without an ending.
        alt: what it shows, in words, for those who do not see it.
        draw: makes the figure in the colours of a theme.
    """

    name: str
    alt: str
    draw: Callable[[Theme], Figure]

    def svg(self, theme: Theme) -> bytes:
        """The picture without background; letters are outlines, so that it looks alike everywhere."""
        return self._saved(
            self.draw(theme),
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None},
        )

    def png(self) -> bytes:
        """The picture on white."""
        return self._saved(
            self.draw(LIGHT),
            format="png",
            dpi=PNG_DPI,
            facecolor=LIGHT.page,
            metadata={"Software": None},
        )

    def _saved(self, figure: Figure, **settings: object) -> bytes:
        import matplotlib

        content = io.BytesIO()
        with (
            matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": self.name}),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings(
                "ignore", "Glyph .* missing"
            )  # a name in letters that the font lacks; the page's text has it
            figure.savefig(content, **settings)
        return content.getvalue()


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, in inches, that makes room for its labels itself."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def style(
    axes: Axes, theme: Theme, *, grid: str | None = None, title: str = "", x: str = "", y: str = ""
) -> Axes:
    """Give axes a theme's colours, an optional grid along "x" or "y", a title and labels; returns them."""
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.grid)
    axes.tick_params(colors=theme.muted, length=0, labelsize=9)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=theme.grid, linewidth=0.8)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=theme.text)
    axes.set_xlabel(x, color=theme.muted, fontsize=9)
    axes.set_ylabel(y, color=theme.muted, fontsize=9)
    return axes


def legend_below(figure: Figure, theme: Theme, handles: Sequence, columns: int) -> None:
    """A legend under the axes, where it covers nothing."""
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=theme.text,
        handlelength=2.4,
        columnspacing=1.4,
    )


def overlaid_bars(
    axes: Axes, theme: Theme, names: Sequence[str], small: Sequence[float], dense: Sequence[float]
) -> None:
    """One horizontal bar a name, the small network's over the dense one's, the first name on top."""
    for values, colour, label in ((dense, theme.dense, "dense"), (small, theme.small, "small")):
        axes.barh(range(len(names)), values, color=colour, label=label, height=0.72)
    axes.set_yticks(range(len(names)), [short(name) for name in names], parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)


def heat_map(
    axes: Axes,
    theme: Theme,
    shares: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
) -> None:
    """Shares of 1 as colours, each with its per cent; nothing is written where a share is 0."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("shares", [theme.page, theme.small])
    axes.imshow(shares, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            if share:
                axes.text(
                    column,
                    row,
                    f"{100 * share:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color=_letters(theme, colours(share)),
                )
    labels = [short(name) for name in columns]
    slanted = (
        {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        if max(map(len, labels)) > 3
        else {}
    )
    axes.set_xticks(range(len(labels)), labels, parse_math=False, **slanted)
    axes.set_yticks(range(len(rows)), [short(name) for name in rows], parse_math=False)
    axes.spines["bottom"].set_visible(False)


def _letters(theme: Theme, ground: Sequence[float]) -> str:
    """Of a theme's text and page colours the one that stands out more from a ground (red, green, blue)."""
    from matplotlib.colors import to_rgb

    def light(
        colour: Sequence[float],
    ) -> float:  # relative luminance, as the Web Content Accessibility Guidelines define contrast
        return (
            sum(weight * channel**2.2 for weight, channel in zip((0.2126, 0.7152, 0.0722), colour))
            + 0.05
        )

    def contrast(colour: str) -> float:
        return max(light(ground) / light(to_rgb(colour)), light(to_rgb(colour)) / light(ground))

    return max((theme.text, theme.page), key=contrast)


def short(name: str) -> str:
    """A name on one line that fits beside an axis."""
    line = " ".join(writable(name).split())
    return line if len(line) <= NAME_LENGTH else f"{line[: NAME_LENGTH - 1]}…"


def writable(text: str) -> str:
    """Text without what UTF-8 cannot hold: file names may come as broken bytes."""
    return text.encode("utf-8", "replace").decode()
