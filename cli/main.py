"""Entry point: pass-transfer VERB. Verbs import what they need when they run, so --help is fast."""

from __future__ import annotations

import sys

import click
import typer

from pass_transfer.cli import adapt, env, evaluate, finetune, search, zoo
from pass_transfer.errors import PassTransferError

app = typer.Typer(
    name="pass-transfer", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]}, rich_markup_mode=None,
    help="Prune a pretrained vision network for your own images, by transfer from a pretrained hypernetwork.\n\n"
         "Example: pass-transfer adapt --hypernet zoo/r18_tinyimnet --task cifar100 --macs 0.5 --out runs/c100",
)
app.command("adapt")(adapt.adapt)
app.command("search")(search.search)
app.command("finetune")(finetune.finetune)
app.command("eval")(evaluate.evaluate)
app.command("env")(env.env)
app.add_typer(zoo.app, name="zoo")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits 0 when done, 1 with one clear message, 2 for wrong usage, 130 when interrupted."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        return app(arguments, standalone_mode=False) or 0
    except PassTransferError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except KeyboardInterrupt:
        return 130
    except MemoryError:
        return _fail("out of memory; try a smaller --batch-size", 1)
    except OSError as error:
        return _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
