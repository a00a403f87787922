"""Pictures made of tensors: prompts, samples, and which classes are taken for which."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from pass_transfer.report.drawing import Picture, Theme, heat_map, new_figure, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def prompt_picture(prompts: Mapping[str, torch.Tensor]) -> Picture:
    """Prompts (3, S, S) by title as images.

    Grey is no change; where there is no frame, nothing is drawn.
    """

    def draw(theme: Theme) -> Figure:
        figure = new_figure(2.65)
        panels = figure.subplots(1, len(prompts), squeeze=False)[0]
        for axes, (title, frame) in zip(panels, prompts.items()):
            colours = _as_colours(frame).permute(1, 2, 0).numpy()
            style(axes, theme).imshow(colours, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines["bottom"].set_visible(False)
            axes.set_title(f"{title}\n±{strength(frame):.3f}", fontsize=9, color=theme.text)
        return figure

    said = [f"{title}, strongest value ±{strength(frame):.3f}" for title, frame in prompts.items()]
    return Picture(
        "prompt",
        f"Prompts as images, a frame with grey for no change. {'; '.join(said)}.",
        draw,
    )


def _as_colours(frame: torch.Tensor) -> torch.Tensor:
    """RGBA (4, S, S) of a prompt: full colour is its strongest value, zero is transparent."""
    drawn = frame.ne(0).any(0, keepdim=True)
    scaled = 0.5 + frame / (2 * strength(frame) or 1)
    return torch.cat([scaled, drawn]).clamp(0, 1)


def strength(frame: torch.Tensor) -> float:
    """The largest change of brightness, of 1."""
    return float(frame.abs().max())


def confusion_picture(
    confusion: torch.Tensor, classes: Sequence[int], names: Sequence[str]
) -> Picture:
    """A heat map of some classes.

    A row has the shares of a class's test images that were taken for each of the classes.

    Args:
        confusion: (all classes, all classes) counts, a row for each true class.
        classes: those that are shown.
        names: of all classes.
    """
    counts = confusion[classes][:, classes]
    shares = counts / confusion[classes].sum(1, keepdim=True).clamp(min=1)
    labels = [names[c] for c in classes]

    def draw(theme: Theme) -> Figure:
        figure = new_figure(0.31 * len(classes) + 1.3)
        axes = style(figure.add_subplot(), theme, x="predicted", y="true")
        heat_map(axes, theme, shares.tolist(), labels, labels)
        return figure

    wrong = counts.clone().fill_diagonal_(0)
    said = [
        f"{labels[true]} taken for {labels[predicted]}: {int(wrong[true, predicted])}"
        for true, predicted in wrong.nonzero().tolist()
    ]
    return Picture(
        "confusion",
        f"Heat map of {len(classes)} classes, per cent of the true class by predicted class. "
        f"{'; '.join(said) or 'None is taken for another'}.",
        draw,
    )


def image_png(image: torch.Tensor) -> bytes:
    """A PNG of an image (3, S, S) in [0, 1]."""
    pixels = image.mul(255).round().byte().permute(1, 2, 0).numpy()
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()
