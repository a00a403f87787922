"""Pictures made of tensors: prompts, samples, and which classes are taken for which."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import torch
from PIL import Image

from pass_transfer.report.drawing import Picture, Theme, heat_map, new_figure, style


def prompt_picture(prompts: Mapping[str, torch.Tensor]) -> Picture:
    """Prompts (3, S, S) by title as images: grey is no change; where there is no frame, nothing is drawn."""
    titles = [f"{title}\n±{strength(frame):.3f}" for title, frame in prompts.items()]

    def draw(theme: Theme):
        figure = new_figure(2.65)
        for axes, frame, title in zip(
            figure.subplots(1, len(prompts), squeeze=False)[0], prompts.values(), titles
        ):
            drawn = frame.ne(0).any(0, keepdim=True)
            colours = torch.cat([0.5 + frame / (2 * strength(frame) or 1), drawn]).clamp(0, 1)
            style(axes, theme).imshow(colours.permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines["bottom"].set_visible(False)
            axes.set_title(title, fontsize=9, color=theme.text)
        return figure

    return Picture(
        "prompt",
        "Prompts as images, a frame with grey for no change. "
        + "; ".join(t.replace("\n", ", strongest value ") for t in titles)
        + ".",
        draw,
    )


def strength(frame: torch.Tensor) -> float:
    """The largest change of brightness, of 1."""
    return float(frame.abs().max())


def confusion_picture(
    confusion: torch.Tensor, classes: Sequence[int], names: Sequence[str]
) -> Picture:
    """A heat map of some classes: in each row the share of a class's test images that were taken for each of them.

    Args:
        confusion: (all classes, all classes) counts, a row for each true class.
        classes: those that are shown.
        names: of all classes.
    """
    counts = confusion[classes][:, classes]
    shares = counts / confusion[classes].sum(1, keepdim=True).clamp(min=1)
    labels = [names[c] for c in classes]

    def draw(theme: Theme):
        figure = new_figure(0.31 * len(classes) + 1.3)
        heat_map(
            style(figure.add_subplot(), theme, x="predicted", y="true"),
            theme,
            shares.tolist(),
            labels,
            labels,
        )
        return figure

    said = [
        f"{names[t]} taken for {names[p]}: {int(counts[i, j])}"
        for i, t in enumerate(classes)
        for j, p in enumerate(classes)
        if t != p and counts[i, j]
    ]
    return Picture(
        "confusion",
        f"Heat map of {len(classes)} classes, per cent of the true class by predicted class. {'; '.join(said) or 'None is taken for another'}.",
        draw,
    )


def image_png(image: torch.Tensor) -> bytes:
    """A PNG of an image (3, S, S) in [0, 1]."""
    content = io.BytesIO()
    Image.fromarray(image.mul(255).round().byte().permute(1, 2, 0).numpy()).save(content, "PNG")
    return content.getvalue()
