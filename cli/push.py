"""The verb push."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pass_transfer.cli import options


def push(
    run: Annotated[Path, typer.Argument(help="Run folder of adapt.")],
    repository: options.Repository,
    private: options.Private = False,
    license: options.License = None,
    as_json: options.Json = False,
) -> None:
    """Put a run's small network on the Hugging Face hub.

    Its two files and a model card, compared with what is there afterwards. Nothing of your images
    goes along. Log in first: hf auth login, or HF_TOKEN.

    Examples:

    \b
      pass-transfer push runs/c100 me/small --private
      pass-transfer predict hf-hub:me/small photo.jpg
    """
    from pass_transfer.recipes.push import push as run_push
    from pass_transfer.report import pushed

    done = run_push(run, repository, private=private, license=license)
    print(json.dumps(done) if as_json else pushed(done))
