"""The verb study."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pass_transfer.cli import options

if TYPE_CHECKING:
    from pass_transfer.study import Study

HELP = """Compare methods under one protocol.

Over tasks, budgets and seeds, as a YAML file says.

Example: pass-transfer study run benchmarks/studies/cifar100.yaml --dry-run
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
)

File = Annotated[Path, typer.Argument(help="Study file (YAML).")]
Cells = Annotated[
    Path | None,
    typer.Option(
        "--cells",
        help="Folder of the cells, in place of the study's `out`: for a study that is made again "
        "on another machine.",
    ),
]


@app.command("run")
def run(
    file: File,
    cells: Cells = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only say what is missing and how long it will take on this machine."
        ),
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try cells that failed before once more.")
    ] = False,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    as_json: options.Json = False,
) -> None:
    """Make the cells of a study that are missing.

    Stop and start it as you like. Start it several times, in several terminals or as a job array,
    to share the work: each process takes searches that no other holds.

    A study starts from a zoo entry (`hypernet: zoo/NAME`), or from a network by its name: `network:
    resnet50`, with `weights:` and `image_size:` as --weights and --image-size of adapt.

    Examples:

    \b
      pass-transfer study run studies/quick.yaml --dry-run
      pass-transfer study run studies/quick.yaml
      pass-transfer study run studies/quick.yaml --cells runs/quick
    """
    from pass_transfer.report import estimate_table
    from pass_transfer.study import estimate, run_study

    study = _study(file, cells)
    if dry_run:
        foreseen = estimate(study, device, precision, retry_failed)
        print(json.dumps(foreseen) if as_json else estimate_table(foreseen))
        return
    found = run_study(study, device=device, precision=precision, retry_failed=retry_failed)
    made = f"{found['done']} cells done, {found['failed']} failed"
    said = f"{made}, {found['elsewhere']} with other processes; they are in {study.out}"
    print(json.dumps(found) if as_json else said)


@app.command("report")
def report(
    file: File,
    cells: Cells = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for report.html, table.md, table.csv and the pictures (default: report/ "
            "beside the cells).",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="A method; the tables say by how many points it is above each other one, seed by "
            "seed.",
        ),
    ] = None,
) -> None:
    """Tables, pictures and a page (report.html).

    From the cells that are there.

    Examples:

    \b
      pass-transfer study report studies/quick.yaml
      pass-transfer study report studies/quick.yaml --against group_l1
    """
    from pass_transfer.report import study_report

    print(study_report(_study(file, cells), file, out, against))


def _study(file: Path, cells: Path | None) -> Study:
    from pass_transfer.study import load_study

    study = load_study(file)
    return study if cells is None else dataclasses.replace(study, out=cells)
