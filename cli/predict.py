"""The verb predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pass_transfer.cli import options


def predict(
    run: Annotated[str, typer.Argument(help="Run folder of adapt, or hf-hub:owner/name.")],
    paths: Annotated[
        list[Path], typer.Argument(help="Image files, and folders of images at any depth.")
    ],
    top: Annotated[int, typer.Option("--top", min=1, help="Classes of each image.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write them into this .csv or .json file.")
    ] = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Show the likeliest classes of images.

    Examples:

    \b
      pass-transfer predict runs/own photo.jpg --top 2
      pass-transfer predict runs/own ~/photos --out classes.csv
    """
    from pass_transfer.recipes.predict import predict as run_predict
    from pass_transfer.report import predictions

    found = run_predict(run, paths, top=top, out=out, device=device)
    print(json.dumps(found) if as_json else predictions(found))
