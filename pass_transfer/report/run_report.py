"""The report of a run: one HTML page and its pictures as PNG, from the run's files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pass_transfer.arguments import check_path
from pass_transfer.files import make_folder, write_bytes
from pass_transfer.report.damage import damage_refused
from pass_transfer.report.image_pictures import image_png
from pass_transfer.report.run_page import run_page, run_pictures
from pass_transfer.report.run_record import RunRecord, read_run
from pass_transfer.surroundings import as_guest

REPORT, PICTURES = "report.html", "report"


@as_guest
def write_report(run: str | Path) -> dict[str, Any]:
    """Write report.html and report/*.png into a run folder; replaces those of before.

    The page needs no other file and no network.

    Args:
        run: the folder of a finished run of adapt.

    Returns:
        "run", "report" and "pictures": the paths, as str.

    Raises:
        RunError: no run of adapt, or not a finished one.
        StorageError: a file that is damaged, or that cannot be written. A report of before
            stays as it was.
    """
    check_path("run", run)
    damaged = f"the files in {run} do not fit together, one is damaged or of another version"
    with damage_refused(damaged):
        record = read_run(run)
        pictures, samples = run_pictures(record), _sample_pngs(record)
        html = run_page(record, pictures, samples).encode()
        drawn = {name: picture.png() for name, picture in pictures.items()} | samples
    folder = make_folder(record.folder / PICTURES)
    for name, content in drawn.items():
        write_bytes(folder / f"{name}.png", content)
    write_bytes(record.folder / REPORT, html)
    return {
        "run": str(record.folder),
        "report": str(record.folder / REPORT),
        "pictures": [str(folder / f"{name}.png") for name in drawn],
    }


def _sample_pngs(record: RunRecord) -> dict[str, bytes]:
    """The record's samples as PNG by name; none where it saved none."""
    if record.evaluation is None:
        return {}
    return {
        f"sample_{number:02}": image_png(image) for number, image in enumerate(record.samples(), 1)
    }
