"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Task = Annotated[str, typer.Option("--task", help="digits, cifar10, cifar100, tiny-imagenet, dtd, stanford-cars, food101, or folder:PATH with one folder of images per class.")]
DataDir = Annotated[Optional[str], typer.Option("--data-dir", help="Folder with the task's parquet files, instead of downloading it.")]
Out = Annotated[Path, typer.Option("--out", help="Run folder to write.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, typer.Option("--precision", help="auto, bf16, or no for float32.")]
Seed = Annotated[int, typer.Option("--seed", help="Of order, augmentation and initial values.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the run in --out.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]
