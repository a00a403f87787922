"""The report of a study: tables, pictures and one HTML page, from its cells alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pass_transfer import __version__
from pass_transfer.errors import StorageError, UsageError
from pass_transfer.files import make_folder, write_bytes
from pass_transfer.report.drawing import Picture
from pass_transfer.report.page import Html, card, command, element, facts, figure, page, table
from pass_transfer.report.study_pictures import study_pictures
from pass_transfer.report.study_tables import StudyTable, study_csv, study_tables
from pass_transfer.study import Study, gains, read_cells, rows

PAGE = "report.html"
CAPTIONS = {
    "accuracy": "Accuracy against MACs",
    "search": "Accuracy against the cost of the search",
    "channels": "Channels kept by group (%)",
    "shared": "Channels in common (%)",
}


def study_report(
    study: Study, source: str | Path, out: str | Path | None = None, against: str | None = None
) -> str:
    """Write table.md, table.csv, report.html and pictures of the cells that are there; returns the Markdown.

    Args:
        source: the study's file, which the page names.
        out: a folder; report/ beside the cells without it.
        against: a method of the study; the tables say by how much it is above each other one.

    Raises:
        UsageError: the study has no method of that name.
        RunError: there are no cells yet, or some of other settings than the study's.
        StorageError: a damaged cell, or nowhere to write.
    """
    if against is not None and against not in study.methods:
        raise UsageError(f"the study has no method {against!r}; it has {', '.join(study.methods)}")
    cells = read_cells(study)
    try:
        found = rows(cells, list(study.methods))
        pictures = study_pictures(found, cells, study)
        drawn = {name: picture.png() for name, picture in pictures.items()}
        tables = study_tables(found, against, None if against is None else gains(cells, against))
        html = study_page(study, source, tables, cells, pictures)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, ArithmeticError) as error:
        raise StorageError(
            f"a cell in {study.out} is damaged or of another version ({type(error).__name__}: {error})"
        ) from error
    folder, text = (
        make_folder(Path(out) if out else study.out / "report"),
        "\n\n".join(one.markdown() for one in tables),
    )
    write_bytes(folder / "table.md", (text + "\n").encode())
    write_bytes(folder / "table.csv", study_csv(found).encode())
    for name, content in drawn.items():
        write_bytes(folder / f"{name}.png", content)
    write_bytes(folder / PAGE, html.encode())
    return text


def study_page(
    study: Study,
    source: str | Path,
    tables: Sequence[StudyTable],
    cells: Sequence[Mapping[str, Any]],
    drawn: Mapping[str, Picture],
) -> str:
    """The whole page as HTML.

    Args:
        tables: of the cells, in the order in which they are shown.
        drawn: study_pictures of them.
    """
    whole = len(study.cells())
    lead = (
        f"{len(study.methods)} methods choose channels of {study.hypernet}'s backbone; everything after that is the same for all. "
        f"{len(cells)} of {whole} cells are there{'' if len(cells) == whole else ', the rest is still to be made'}."
    )
    parts = [
        element("h2", "Results"),
        *(
            card(
                table(t.columns, t.rows),
                *(element("p", line, class_="note") for line in t.failures),
                title=t.title,
                wide=True,
            )
            for t in tables
        ),
    ]
    for name, picture in drawn.items():
        parts.append(
            card(
                figure(picture),
                title=f"{name.rsplit('-', 1)[0]}: {CAPTIONS[name.rsplit('-', 1)[1]]}",
                wide=True,
            )
        )
    return page(
        f"Study {Path(source).stem}",
        f"pass-transfer, {study.out}",
        lead,
        *parts,
        *_again(study, source, cells),
        element(
            "footer",
            f"Made by pass-transfer {__version__} from the cells in {study.out}; the pictures are beside this page as PNG, too.",
        ),
    )


def _again(study: Study, source: str | Path, cells: Sequence[Mapping[str, Any]]) -> list[Html]:
    settings = [
        ("epochs", study.epochs),
        ("batch size", study.batch_size),
        ("training images", study.train_images or "all"),
        ("reconstruction", study.reconstruct),
        ("seeds", ", ".join(map(str, study.seeds))),
        *(
            (f"method {name}", ", ".join(f"{k}: {v}" for k, v in given.items()) or "defaults")
            for name, given in study.methods.items()
        ),
    ]
    origin = [
        (kind, ", ".join(sorted({str(cell.get(kind)) for cell in cells})))
        for kind in ("commit", "machine")
    ]
    versions = sorted(
        {f"{name} {value}" for cell in cells for name, value in cell.get("versions", {}).items()}
    )
    return [
        element("h2", "To get it again"),
        card(
            command(f"pass-transfer study run {source}"),
            command(f"pass-transfer study report {source}"),
            title="Commands",
            wide=True,
        ),
        card(
            facts([*settings, *origin, ("versions", ", ".join(versions))]),
            title="Settings",
            wide=True,
        ),
    ]
