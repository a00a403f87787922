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
    network: options.Network = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="Show what is understood of this task's images: classes, counts, what is left "
            "out. Alone, or with a network.",
        ),
    ] = None,
    data_dir: options.DataDir = None,
    backbone: options.Backbone = None,
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

    With --hypernet or --network: channels of every group, MACs and parameters of every layer,
    latency of both networks, and what would keep the small one from being faster. With --task:
    what is understood of its images.

    Examples:

    \b
      pass-transfer inspect --hypernet zoo/r18_tinyimnet --macs 0.4 --round-to 1
      pass-transfer inspect --network resnet18 --weights mine.safetensors \\
          --image-size 64 --macs 0.5
      pass-transfer inspect --task folder:photos
      pass-transfer inspect --hypernet zoo/r18_tinyimnet --params 3M \\
          --plot cut.png
      pass-transfer inspect --hypernet zoo/r18_tinyimnet --latency-ms 60 \\
          --batch 32 --device cpu
    """
    from pass_transfer.preprocessing import Preprocessing
    from pass_transfer.recipes.inspect import inspect as run_inspect
    from pass_transfer.recipes.inspect import inspect_task
    from pass_transfer.report import check_picture, data_table, preview_picture, preview_table

    asked = hypernet is not None or network is not None
    if not asked and task is None:
        raise UsageError(
            "give --hypernet ENTRY or --network NAME, --task TASK, or both. See inspect --help"
        )
    if hypernet is not None and network is not None:
        raise UsageError("give --hypernet ENTRY or --network NAME, not both")
    if not asked and (backbone or run or plot or weights):
        raise UsageError(
            "--backbone, --weights, --run and --plot are for a network: give --hypernet ENTRY or "
            "--network NAME too"
        )
    if budget["batch"] != 1 and not latency and "latency_ms" not in budget:
        raise UsageError(f"--batch {budget['batch']} is for what --no-latency leaves out")
    if plot is not None:
        check_picture(plot)
    found: dict[str, Any] = {}
    if asked:
        found = run_inspect(
            hypernet,
            network=network,
            weights=weights,
            image_size=image_size,
            run=run,
            backbone=backbone,
            classes=classes,
            latency=latency,
            device=device,
            **budget,
        )
    seen = None
    if task is not None:
        look = Preprocessing(**found["preprocessing"]) if asked else None
        seen = inspect_task(task, image_size=image_size, preprocessing=look, data_dir=data_dir)
    if plot is not None:
        preview_picture(found, plot)
    if as_json:
        print(json.dumps(found | (seen or {})))
        return
    if found:
        print(preview_table(found))
    if seen:
        print(data_table(seen))
