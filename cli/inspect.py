"""The verb inspect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pass_transfer.cli import options
from pass_transfer.errors import UsageError


@options.takes_budget
def inspect(
    hypernet: options.OptionalHypernet = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="Show what is understood of this task's images: classes, counts, what is left "
            "out. Alone, or with --hypernet.",
        ),
    ] = None,
    data_dir: options.DataDir = None,
    backbone: options.Backbone = None,
    image_size: options.ImageSize = None,
    budget: Any = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            help="Take the channel scores of this run of adapt, instead of those of the source "
            "task's prompt.",
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            "--classes",
            min=1,
            help="Classes of the task, if not the run's, or the source's without one.",
        ),
    ] = None,
    device: options.Device = "auto",
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Measure both networks here.")
    ] = True,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw it into this file (.png, .svg or .pdf).")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show what a cut would leave, before anything is trained.

    With --hypernet: channels of every group, MACs and parameters of every layer, latency of both
    networks, and what would keep the small one from being faster. With --task: what is
    understood of its images.

    Examples:

    \b
      pass-transfer inspect --hypernet zoo/r18_tinyimnet --macs 0.4 --round-to 1
      pass-transfer inspect --task folder:photos
      pass-transfer inspect --hypernet zoo/r18_tinyimnet --params 3M \\
          --plot cut.png
      pass-transfer inspect --hypernet zoo/r18_tinyimnet --latency-ms 60 \\
          --batch 32 --device cpu
    """
    from pass_transfer.recipes.inspect import inspect as run_inspect
    from pass_transfer.recipes.inspect import inspect_task
    from pass_transfer.report import check_picture, data_table, preview_picture, preview_table

    if hypernet is None and task is None:
        raise UsageError("give --hypernet ENTRY, --task TASK, or both. See inspect --help")
    if hypernet is None and (backbone or run or plot):
        raise UsageError(
            "--backbone, --run and --plot are for a network: give --hypernet ENTRY too"
        )
    if budget["batch"] != 1 and not latency and "latency_ms" not in budget:
        raise UsageError(f"--batch {budget['batch']} is for what --no-latency leaves out")
    if plot is not None:
        check_picture(plot)
    found: dict[str, Any] = {}
    if hypernet is not None:
        found = run_inspect(
            hypernet,
            run=run,
            backbone=backbone,
            image_size=image_size,
            classes=classes,
            latency=latency,
            device=device,
            **budget,
        )
    seen = None
    if task is not None:
        size = found.get("image_size", image_size)
        seen = inspect_task(task, image_size=size, data_dir=data_dir)
    if plot is not None:
        preview_picture(found, plot)
    if as_json:
        print(json.dumps(found | (seen or {})))
        return
    if found:
        print(preview_table(found))
    if seen:
        print(data_table(seen))
