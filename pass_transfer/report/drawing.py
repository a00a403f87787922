"""How pictures look: colours for light and dark pages, axes, and figures as SVG and PNG.

Figures are drawn without pyplot, so that nothing is kept between two of them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pass_transfer.report.words import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inches: two fit beside each other on a desktop's page, and a phone still shows their letters.
WIDTH = 4.4
PNG_DPI = 200
# Weights of red, green and blue in relative luminance, and what is added to it in a contrast,
# as the Web Content Accessibility Guidelines define them.
LUMINANCE = (0.2126, 0.7152, 0.0722)
FLARE = 0.05


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
        """The picture without background; letters are outlines, which look alike everywhere."""
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

    def _saved(self, figure: Figure, **settings: Any) -> bytes:
        import matplotlib

        content = io.BytesIO()
        with (
            matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": self.name}),
            warnings.catch_warnings(),
        ):
            # The font lacks letters of some names; the page's text has them.
            warnings.filterwarnings("ignore", "Glyph .* missing")
            figure.savefig(content, **settings)
        return content.getvalue()


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, in inches, that makes room for its labels itself."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def style(
    axes: Axes,
    theme: Theme,
    *,
    grid: Literal["x", "y", "both"] | None = None,
    title: str = "",
    x: str = "",
    y: str = "",
) -> Axes:
    """Give axes a theme's colours, perhaps a grid, a title and labels; returns the axes."""
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
    """A horizontal bar for each name, the first one on top.

    The small network's value lies over the dense one's.
    """
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
                said, colour = f"{100 * share:.0f}", _letters(theme, colours(share))
                axes.text(column, row, said, ha="center", va="center", fontsize=8, color=colour)
    labels = [short(name) for name in columns]
    slant: dict[str, Any] = {}
    if max(map(len, labels)) > 3:
        slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(labels)), labels, parse_math=False, **slant)
    axes.set_yticks(range(len(rows)), [short(name) for name in rows], parse_math=False)
    axes.spines["bottom"].set_visible(False)


def _letters(theme: Theme, ground: Sequence[float]) -> str:
    """The colour of letters on a ground (red, green, blue): a theme's text or page colour.

    The one that stands out more is taken.
    """
    from matplotlib.colors import to_rgb

    behind = _luminance(ground)

    def contrast(colour: str) -> float:
        before = _luminance(to_rgb(colour))
        return max(behind / before, before / behind)

    return max((theme.text, theme.page), key=contrast)


def _luminance(colour: Sequence[float]) -> float:
    weighted = [weight * channel**2.2 for weight, channel in zip(LUMINANCE, colour)]
    return sum(weighted) + FLARE
