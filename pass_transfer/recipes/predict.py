"""What a saved model sees in image files and in folders of them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pass_transfer.arguments import check_is, check_path, expanded
from pass_transfer.errors import TaskError, UsageError
from pass_transfer.files import write_bytes
from pass_transfer.progress import progress_bar, say
from pass_transfer.pruned import PrunedModel, load_pruned
from pass_transfer.surroundings import as_guest
from pass_transfer.tasks.decoding import UnreadableImage, decode
from pass_transfer.tasks.left_out import Tally
from pass_transfer.tasks.listing import images_below, start_folder
from pass_transfer.tasks.readers import to_batch
from pass_transfer.training import choose_runtime

BATCH = 64
ENDINGS = (".csv", ".json")


@as_guest
def predict(
    run: str | Path,
    paths: Sequence[str | Path],
    *,
    top: int = 1,
    out: str | Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """The likeliest classes of images.

    Args:
        run: a run folder of adapt, or hf-hub:owner/name.
        paths: image files, and folders whose images are taken at any depth.
        top: how many classes of each image.
        out: a file to write, ending in .csv (a row for each image) or .json.
        device: see choose_runtime.

    Returns:
        "run", "predictions" (a list of "file" and "classes", each a "class" with its
        "probability", likeliest first) and "left_out" (a list of "reason", "count", "names").

    Raises:
        RunError, StorageError: see load_pruned; or `out` cannot be written.
        TaskError: a path that is not there, or no image that can be read.
        UsageError: another ending, or a `top` that the model has not.
    """
    out = None if out is None else Path(out)
    if out is not None and out.suffix.lower() not in ENDINGS:
        raise UsageError(f"out is {out}; give a file that ends in {' or '.join(ENDINGS)}", "out")
    model = load_pruned(run)
    model.check_top(top)
    tally = Tally()
    files = _image_files(paths, tally)
    choose_runtime(device, "no").place(model)
    found = list(_predicted(model, files, top, tally))
    for part in tally.all():
        say(part.said())
    if not found:
        raise TaskError(f"no image can be read in {', '.join(map(str, paths))}")
    left = [part.saved() for part in tally.all()]
    result = {"run": str(run), "predictions": found, "left_out": left}
    if out is not None:
        write_bytes(out, _as_csv(found) if out.suffix.lower() == ".csv" else _as_json(result))
    return result


def _image_files(paths: Sequence[str | Path], tally: Tally) -> list[str]:
    """The files that are named, and the images in the folders that are."""
    check_is("paths", paths, (list, tuple), "a list of paths")
    files: list[str] = []
    for given in paths:
        check_path("paths", given)
        path = expanded(given)
        if path.is_dir():
            files += [file.path for file in images_below(start_folder(path), tally)]
        elif path.exists():
            files.append(str(path))
        else:
            raise TaskError(f"there is no {path}")
    return files


def _predicted(
    model: PrunedModel, files: Sequence[str], top: int, tally: Tally
) -> Iterator[dict[str, Any]]:
    preprocessing = model.spec.preprocessing

    def pixels_of(path: str) -> np.ndarray | UnreadableImage:
        try:
            return decode(path, preprocessing)
        except UnreadableImage as error:
            return error

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress_bar("predicting", len(files), "images") as bar,
    ):
        for first in range(0, len(files), BATCH):
            batch = files[first : first + BATCH]
            read: list[tuple[str, np.ndarray]] = []
            for path, pixels in zip(batch, pool.map(pixels_of, batch)):
                if isinstance(pixels, UnreadableImage):
                    tally.add(pixels.reason, path)
                else:
                    read.append((path, pixels))
            if read:
                images = to_batch(np.stack([pixels for _, pixels in read])) / 255
                for (path, _), classes in zip(read, model.classify(images, top)):
                    shown = [{"class": name, "probability": share} for name, share in classes]
                    yield {"file": path, "classes": shown}
            bar.advance(len(batch))


def _as_csv(found: Sequence[dict[str, Any]]) -> bytes:
    """A row for each image: its file, and each class with its probability."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ["file"]
    for place in range(1, len(found[0]["classes"]) + 1):
        header += (
            ["class", "probability"] if place == 1 else [f"class{place}", f"probability{place}"]
        )
    writer.writerow(header)
    for row in found:
        cells = [row["file"]]
        for one in row["classes"]:
            cells += [one["class"], f"{one['probability']:.6f}"]
        writer.writerow(cells)
    return text.getvalue().encode(errors="backslashreplace")


def _as_json(result: dict[str, Any]) -> bytes:
    return (json.dumps(result, indent=2) + "\n").encode()
