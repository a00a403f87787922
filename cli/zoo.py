"""The verb zoo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pass_transfer.cli import options

app = typer.Typer(
    no_args_is_help=True,
    help="Pretrained hypernetworks: list, show, verify, share.\n\nExample: pass-transfer zoo ls",
    rich_markup_mode=None,
)
Name = Annotated[
    str, typer.Argument(help="An entry's name, with or without zoo/ before it, or a folder.")
]


LINE = "{name}  {architecture}, {image_size} px, source {source}, {megabytes:.1f} MB"


@app.command("ls")
def ls(as_json: options.Json = False) -> None:
    """List the installed entries.

    Example: pass-transfer zoo ls
    """
    from pass_transfer.zoo.describe import describe_all

    rows = describe_all()
    lines = [LINE.format(**row) for row in rows]
    print(json.dumps(rows) if as_json else "\n".join(lines) or "no entries")


@app.command("show")
def show(name: Name, as_json: options.Json = False) -> None:
    """Show an entry's model card, or its configuration as JSON.

    Example: pass-transfer zoo show r18_tinyimnet
    """
    from pass_transfer.zoo.describe import card, configuration

    print(json.dumps(configuration(name)) if as_json else card(name))


@app.command("verify")
def verify(name: Name, as_json: options.Json = False) -> None:
    """Check an entry: every hash, and its masks made again.

    Example: pass-transfer zoo verify zoo/r18_tinyimnet
    """
    from pass_transfer.zoo.entry import verify_entry

    hashes = verify_entry(name)
    lines = [f"{digest}  {file}" for file, digest in hashes.items()]
    lines.append("all files are what the manifest says, and the masks are those of the prompt")
    print(json.dumps({"entry": name, "files": hashes, "ok": True}) if as_json else "\n".join(lines))


@app.command("add")
def add(
    folder: Annotated[
        Path, typer.Argument(help="An entry, such as the entry/ that pass-transfer search wrote.")
    ],
    to: Annotated[Path, typer.Option("--to", help="Folder to write, such as zoo/NAME.")],
    card: Annotated[Path, typer.Option("--card", help="Model card, markdown.")],
) -> None:
    """Copy an entry into a zoo with its model card.

    Example: pass-transfer zoo add runs/search/entry --to zoo/mine --card card.md
    """
    from pass_transfer.files import read_text
    from pass_transfer.zoo.verify import add_entry

    add_entry(folder, to, read_text(card))
    print(f"{to} is written; check it with pass-transfer zoo verify {to}")


@app.command("push")
def push(
    name: Name,
    repository: options.Repository,
    private: options.Private = False,
    license: options.License = None,
    as_json: options.Json = False,
) -> None:
    """Put an entry on the Hugging Face hub.

    Its files are compared with what is there afterwards. Log in first: hf auth login, or HF_TOKEN.

    Example: pass-transfer zoo push runs/search/entry me/entry --private
    """
    from pass_transfer.report import pushed
    from pass_transfer.zoo.share import push_entry

    done = push_entry(name, repository, private=private, license=license)
    print(json.dumps(done) if as_json else pushed(done))


@app.command("pull")
def pull(
    repository: options.Repository,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit, if not the newest.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="New folder for a copy, such as zoo/NAME.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Fetch an entry from the Hugging Face hub and check it.

    It is in the hub's cache then, and serves without a network.

    Examples:

    \b
      pass-transfer zoo pull me/entry
      pass-transfer adapt --hypernet hf-hub:me/entry --task digits --out runs/digits
    """
    from pass_transfer.zoo.share import pull_entry

    done = pull_entry(repository, revision=revision, to=to)
    said = f"all files are what the manifest says; use it with --hypernet {done['entry']}"
    print(json.dumps(done) if as_json else f"{done['folder']}\n{said}")
