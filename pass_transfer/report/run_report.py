"""The report of a run: one HTML page and its pictures as PNG, from the run folder's files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pass_transfer.errors import StorageError
from pass_transfer.files import make_folder, write_bytes
from pass_transfer.report.image_pictures import image_png
from pass_transfer.report.run_page import run_page, run_pictures
from pass_transfer.report.run_record import read_run

REPORT, PICTURES = "report.html", "report"


def write_report(run: str | Path) -> dict[str, Any]:
    """Write report.html, which needs no other file and no network, and report/*.png into a run folder; replaces those of before.

    Args:
        run: the folder of a finished run of adapt.

    Returns:
        "run", "report" and "pictures": the paths, as str.

    Raises:
        RunError: no run of adapt, or not a finished one.
        StorageError: a file that is damaged, or that cannot be written. A report of before stays as it was.
    """
    try:
        record = read_run(run)
        pictures = run_pictures(record)
        samples = (
            {}
            if record.evaluation is None
            else {
                f"sample_{number:02}": image_png(image)
                for number, image in enumerate(record.samples(), 1)
            }
        )
        html = run_page(record, pictures, samples).encode()
        drawn = {name: picture.png() for name, picture in pictures.items()} | samples
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, ArithmeticError) as error:
        raise StorageError(
            f"the files in {run} do not fit together, one is damaged or of another version ({type(error).__name__}: {error})"
        ) from error
    folder = make_folder(record.folder / PICTURES)
    for name, content in drawn.items():
        write_bytes(folder / f"{name}.png", content)
    write_bytes(record.folder / REPORT, html)
    return {
        "run": str(record.folder),
        "report": str(record.folder / REPORT),
        "pictures": [str(folder / f"{name}.png") for name in drawn],
    }
