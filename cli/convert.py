"""The verb convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pass_transfer.cli import options


def convert(
    old: Annotated[Path, typer.Argument(help="Checkpoint, such as mine.pth.")],
    new: Annotated[Path, typer.Argument(help="File to write; its name ends in .safetensors.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write the tensors of a checkpoint as safetensors.

    No code of the file runs. What is no tensor of a network is left out, and named.

    Example: pass-transfer convert mine.pth converted.safetensors
    """
    from pass_transfer.recipes.convert import convert as run
    from pass_transfer.report import conversion

    found = run(old, new, force=force)
    print(json.dumps(found) if as_json else conversion(found))
