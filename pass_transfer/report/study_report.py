"""The report of a study: tables, pictures and one HTML page, from its cells alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pass_transfer import __version__
from pass_transfer.errors import UsageError
from pass_transfer.files import make_folder, write_bytes
from pass_transfer.report.damage import damage_refused
from pass_transfer.report.drawing import Picture
from pass_transfer.report.few_pictures import few_pictures
from pass_transfer.report.page import Html, card, command, element, facts, figure, page, table
from pass_transfer.report.study_pictures import study_pictures
from pass_transfer.report.study_tables import StudyTable, study_csv, study_tables
from pass_transfer.study import Study, gains, read_cells, rows
from pass_transfer.surroundings import as_guest

PAGE = "report.html"
CAPTIONS = {
    "accuracy": "Accuracy against MACs",
    "search": "Accuracy against the cost of the search",
    "channels": "Channels kept by group (%)",
    "shared": "Channels in common (%)",
    "images": "Accuracy against images of a class",
    "gain": "Gain over L1 against MACs",
}

Cells = Sequence[Mapping[str, Any]]


@as_guest
def study_report(
    study: Study, source: str | Path, out: str | Path | None = None, against: str | None = None
) -> str:
    """Write table.md, table.csv, report.html and pictures of the cells that are there.

    Args:
        source: the study's file, which the page names.
        out: a folder; report/ beside the cells without it.
        against: a method of the study; the tables say by how much it is above each other one.

    Returns:
        The tables as Markdown.

    Raises:
        UsageError: the study has no method of that name.
        RunError: there are no cells yet, or some of other settings than the study's.
        StorageError: a damaged cell, or nowhere to write.
    """
    if against is not None and against not in study.methods:
        raise UsageError(f"the study has no method {against!r}; it has {', '.join(study.methods)}")
    cells = read_cells(study)
    with damage_refused(f"a cell in {study.out} is damaged or of another version"):
        found = rows(cells, list(study.methods))
        pictures = study_pictures(found, cells, study) | few_pictures(found, cells, study)
        drawn = {name: picture.png() for name, picture in pictures.items()}
        gained = None if against is None else gains(cells, against)
        tables = study_tables(found, against, gained, study.shares_of)
        html = study_page(study, source, tables, cells, pictures)
    folder = make_folder(Path(out) if out else study.out / "report")
    text = "\n\n".join(one.markdown() for one in tables)
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
    cells: Cells,
    drawn: Mapping[str, Picture],
) -> str:
    """The whole page as HTML.

    Args:
        tables: of the cells, in the order in which they are shown.
        drawn: study_pictures of them.
    """
    made_by = (
        f"Made by pass-transfer {__version__} from the cells in {study.out}; "
        "the pictures are beside this page as PNG, too."
    )
    return page(
        f"Study {Path(source).stem}",
        f"pass-transfer, {study.out}",
        _lead(study, len(cells)),
        element("h2", "Results"),
        *(_table_card(one) for one in tables),
        *(_picture_card(name, picture) for name, picture in drawn.items()),
        *_again(study, source, cells),
        element("footer", made_by),
    )


def _lead(study: Study, there: int) -> str:
    whole = len(study.cells())
    rest = "" if there == whole else ", the rest is still to be made"
    return (
        f"{len(study.methods)} methods choose channels of {study.made_from}'s backbone; "
        "everything after that is the same for all. "
        f"{there} of {whole} cells are there{rest}."
    )


def _table_card(one: StudyTable) -> Html:
    failures = [element("p", line, class_="note") for line in one.failures]
    return card(table(one.columns, one.rows), *failures, title=one.title, wide=True)


def _picture_card(name: str, picture: Picture) -> Html:
    about, kind = name.rsplit("-", 1)
    return card(figure(picture), title=f"{about}: {CAPTIONS[kind]}", wide=True)


def _again(study: Study, source: str | Path, cells: Cells) -> list[Html]:
    commands = card(
        command(f"pass-transfer study run {source}"),
        command(f"pass-transfer study report {source}"),
        title="Commands",
        wide=True,
    )
    settings = facts([*_settings(study), *_origins(cells)])
    return [
        element("h2", "To get it again"),
        commands,
        card(settings, title="Settings", wide=True),
    ]


def _settings(study: Study) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [
        ("epochs", study.epochs),
        ("batch size", study.batch_size),
        ("training images", study.train_images or "all"),
        ("reconstruction", study.reconstruct),
        ("measuring", study.measuring),
        ("seeds", ", ".join(map(str, study.seeds))),
    ]
    for name, given in study.methods.items():
        said = ", ".join(f"{key}: {value}" for key, value in given.items())
        rows.append((f"method {name}", said or "defaults"))
    return rows


def _origins(cells: Cells) -> list[tuple[str, str]]:
    """Commits, machines and versions that the cells were made by."""
    rows = []
    for kind in ("commit", "machine"):
        rows.append((kind, ", ".join(sorted({str(cell.get(kind)) for cell in cells}))))
    versions: set[str] = set()
    for cell in cells:
        versions |= {f"{name} {value}" for name, value in cell.get("versions", {}).items()}
    return [*rows, ("versions", ", ".join(sorted(versions)))]
