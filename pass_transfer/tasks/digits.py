"""scikit-learn's 1,797 handwritten digits (8 x 8, 17 grey levels), which need no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pass_transfer.errors import UsageError
from pass_transfer.tasks.source import Source, TaskSource

TEST_EVERY = 5  # every fifth image is a test image


def load_digits_sources(
    name: str, data_dir: str | Path | None
) -> tuple[list[str], dict[str, Source]]:
    """The ten class names, and the sources of the train and test splits."""
    from sklearn.datasets import load_digits

    if data_dir is not None:
        message = f"data_dir is {data_dir}; digits comes with scikit-learn and takes no folder"
        raise UsageError(message, "data_dir")
    data = load_digits()
    pixels = np.clip(data.images * 255.0 / 16.0, 0, 255).astype(np.uint8)
    labels = data.target.astype(np.int64)
    test = np.arange(len(pixels)) % TEST_EVERY == TEST_EVERY - 1
    sources = {
        "train": _source(pixels[~test], labels[~test], "train"),
        "test": _source(pixels[test], labels[test], "test"),
    }
    return [str(number) for number in data.target_names], sources


def _source(images: np.ndarray, labels: np.ndarray, split: str) -> Source:
    return Source(images.__getitem__, labels, f"digits {split}", lambda i: f"digit {i}")


DIGITS = TaskSource(load_digits_sources, names=("digits",), mirrored=False)
