"""The verb cache."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pass_transfer.cli import options

app = typer.Typer(
    no_args_is_help=True,
    help="Decoded images and hashes of files, kept so that the next run starts at once: list, "
    "clear.\n\nThe folder is $PASS_TRANSFER_CACHE, or pass-transfer in the user's cache folder. "
    "What was used least recently goes when decoded images take more than "
    "$PASS_TRANSFER_CACHE_SIZE (20G).\n\nExample: pass-transfer cache ls",
    rich_markup_mode=None,
)


ImageSize = Annotated[
    int | None,
    typer.Option("--image-size", metavar="PIXELS", help="Only decoded images of this size."),
]


@app.command("ls")
def ls(image_size: ImageSize = None, as_json: options.Json = False) -> None:
    """List what is kept, the most recently used first.

    Examples:

    \b
      pass-transfer cache ls
      pass-transfer cache ls --image-size 224
    """
    from pass_transfer.report import cache_table
    from pass_transfer.tasks.cache import cache_contents

    found = cache_contents(image_size)
    print(json.dumps(found) if as_json else cache_table(found))


@app.command("clear")
def clear(image_size: ImageSize = None, as_json: options.Json = False) -> None:
    """Delete all of it, or images of one size. It is made again when it is needed.

    Examples:

    \b
      pass-transfer cache clear --image-size 224
      pass-transfer cache clear
    """
    from pass_transfer.tasks.cache import cache_folder, clear_cache

    freed = clear_cache(image_size)
    said = f"freed {freed / 1e6:.1f} MB in {cache_folder()}"
    print(json.dumps({"folder": str(cache_folder()), "freed": freed}) if as_json else said)
