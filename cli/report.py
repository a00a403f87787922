"""The verb report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pass_transfer.cli import options


def report(
    run: Annotated[Path, typer.Argument(help="Run folder of adapt.")],
    as_json: options.Json = False,
) -> None:
    """Write a run's report again, from its files.

    One page, report.html in the run folder, that opens without a network, and its pictures as
    PNG in report/ beside it.

    Example: pass-transfer report runs/c100
    """
    from pass_transfer.report import write_report

    written = write_report(run)
    pictures = written["pictures"]
    said = f"{written['report']}, and {len(pictures)} pictures in {Path(pictures[0]).parent}"
    print(json.dumps(written) if as_json else said)
