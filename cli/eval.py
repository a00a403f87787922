"""The verb eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pass_transfer.cli import options


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder of adapt.")],
    task: options.Task,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    as_json: options.Json = False,
) -> None:
    """Accuracy of a saved small network on a task's test images, or on new labelled images.

    New images lie in one folder per class; where there are no train, val and test folders, all
    of them are used.

    Examples:

    \b
      pass-transfer eval runs/fast --task digits
      pass-transfer eval runs/own --task folder:~/photos
    """
    from pass_transfer.recipes.eval import evaluate as run_evaluate

    result = run_evaluate(run, task, data_dir=data_dir, device=device, precision=precision)
    figures = f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %"
    where = f"{result['images']} {result['which']} of {task}"
    print(json.dumps(result) if as_json else f"{figures} on {where}")
