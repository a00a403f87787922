"""Pictures of a study whose tasks have few images: what their number and the size decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pass_transfer.report.drawing import Picture, Theme, legend_below, new_figure, style
from pass_transfer.report.study_pictures import TOP1, WIDE, looks_of
from pass_transfer.study import Row, Study, gains

if TYPE_CHECKING:
    from matplotlib.figure import Figure

L1 = ("group_l1", "uniform_l1")  # what a gain is over: the first that the study has
IMAGES_A_CLASS = "training images of each class"


@dataclass(frozen=True)
class _Point:
    """A value of a method with its deviation over seeds, 0 for one seed."""

    x: float
    y: float
    deviation: float


Lines = Mapping[str, Sequence[_Point]]  # by method, from left to right


def few_pictures(
    rows: Sequence[Row], cells: Sequence[dict[str, Any]], study: Study
) -> dict[str, Picture]:
    """Accuracy against images of a class, and gain over L1 against the budget, by name.

    Empty for a study whose tasks name no number of images or epochs.
    """
    made = []
    for name, about, lines in _by_images(rows, cells, study):
        made.append(_picture(name, f"{TOP1}, {about}", IMAGES_A_CLASS, TOP1, lines))
    reference = next((name for name in study.methods if study.method(name).name in L1), None)
    if reference is not None:
        found = gains(cells, reference)
        for task, planned in study.tasks.items():
            lines = _over(reference, task, found)
            if lines and (planned.images_per_class, planned.epochs) != (None, None):
                said = f"points of top-1 above {reference}, {task}"
                y = f"top-1 above {reference} (points)"
                made.append(
                    _picture(f"{_safe(task)}-gain", said, f"{study.shares_of} kept (%)", y, lines)
                )
    return {picture.name: picture for picture in made}


def _safe(name: str) -> str:
    return name.replace("/", "_").replace(":", "-")


def _by_images(
    rows: Sequence[Row], cells: Sequence[dict[str, Any]], study: Study
) -> list[tuple[str, str, Lines]]:
    """Of each family, budget and number of epochs a picture's name, what it is of, and lines."""
    counted = {cell["task"]: cell["images_a_class"] for cell in cells if "images_a_class" in cell}
    parts: dict[tuple[str, int | None, float], dict[str, list[_Point]]] = {}
    for row in rows:
        planned = study.tasks[row.task]
        if row.top1 is not None and row.task in counted:
            key = planned.family or row.task, planned.epochs, row.budget
            point = _Point(counted[row.task], row.top1, row.deviation or 0)
            parts.setdefault(key, {}).setdefault(row.method, []).append(point)
    found: list[tuple[str, str, Lines]] = []
    for (family, epochs, budget), lines in parts.items():
        if len({point.x for points in lines.values() for point in points}) < 2:
            continue
        name, about = _safe(family), f"{family} at {budget:.0%} of the {study.shares_of}"
        if epochs is not None:
            name, about = f"{name}-{epochs}-epochs", f"{about} after {epochs} epochs"
        ordered = {method: sorted(own, key=_of_x) for method, own in lines.items()}
        found.append((f"{name}-{budget:g}-images", about, ordered))
    return found


def _over(
    reference: str, task: str, found: Mapping[tuple[str, float, str], tuple[float, float | None]]
) -> Lines:
    """Of each method the points that it is above the reference on a task, by budget."""
    lines: dict[str, list[_Point]] = {}
    for (of, budget, method), (mean, deviation) in found.items():
        if of == task:
            lines.setdefault(method, []).append(_Point(100 * budget, -mean, deviation or 0))
    return {method: sorted(points, key=_of_x) for method, points in lines.items()}


def _of_x(point: _Point) -> float:
    return point.x


def _picture(name: str, about: str, x: str, y: str, lines: Lines) -> Picture:
    """One line a method, with the deviation over seeds."""
    looks = looks_of(lines)

    def draw(theme: Theme) -> Figure:
        figure = new_figure(3.6 + 0.2 * (len(lines) // 3), WIDE)
        axes = style(figure.add_subplot(), theme, grid="both", x=x, y=y)
        handles = []
        for method, points in lines.items():
            handles.append(
                axes.errorbar(
                    [point.x for point in points],
                    [point.y for point in points],
                    yerr=[point.deviation for point in points],
                    capsize=3,
                    linewidth=1.2,
                    label=method,
                    **asdict(looks[method]),
                )
            )
        if x == IMAGES_A_CLASS:
            axes.set_xscale("log")
        legend_below(figure, theme, handles, 3)
        return figure

    said = []
    for method, points in lines.items():
        values = ", ".join(f"{point.y:.2f} at {point.x:g}" for point in points)
        said.append(f"{method} {values}")
    return Picture(name, f"{about}. {'; '.join(said)}.", draw)
