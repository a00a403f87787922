"""Entry point: pass-transfer VERB. Verbs import what they need when they run, so --help is fast."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import typer
from typer.core import TyperGroup

from pass_transfer.cli import (
    adapt,
    bench,
    cache,
    convert,
    env,
    eval,
    export,
    finetune,
    inspect,
    methods,
    predict,
    push,
    report,
    search,
    study,
    zoo,
)
from pass_transfer.cli.words import RENAMED, in_flags
from pass_transfer.errors import PassTransferError
from pass_transfer.first_process import is_first
from pass_transfer.memory import keep_freed_memory

# ClickException: of click, or of the copy that newer typers carry.
WrongUsage: Any = typer.BadParameter.__mro__[2]
OUT_OF_MEMORY = (
    "out of memory; try a smaller batch (--batch-size, or --batch where a verb has that), or free "
    "some"
)


ANOTHER_ENDED = "another process of this job has ended; continue with --resume"
ALONE_SECONDS = 10.0  # after which a process that is not the first one speaks for itself

HELP = """Prune a pretrained vision network for your own images, by transfer from a hypernetwork.

Example:

\b
  pass-transfer adapt --hypernet zoo/r18_tinyimnet --task cifar100 \\
      --macs 0.5 --out runs/c100
"""


class _Interrupted(Exception):
    """Ctrl-C, past typer, which would drop the text that says how to continue."""


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise _Interrupted(str(stop) or "interrupted") from stop


app = typer.Typer(
    name="pass-transfer",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    help=HELP,
)
app.command("adapt")(adapt.adapt)
app.command("search")(search.search)
app.command("finetune")(finetune.finetune)
app.command("eval")(eval.evaluate)
app.command("predict")(predict.predict)
app.command("export")(export.export)
app.command("bench")(bench.bench)
app.command("inspect")(inspect.inspect)
app.command("methods")(methods.methods)
app.command("convert")(convert.convert)
app.command("push")(push.push)
app.command("report")(report.report)
app.command("env")(env.env)
app.add_typer(study.app, name="study")
app.add_typer(zoo.app, name="zoo")
app.add_typer(cache.app, name="cache")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Exits 0 when done, 1 with one clear message, 2 for wrong usage, 130 when interrupted.
    """
    keep_freed_memory()
    if not is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # the first process says it all
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        return app(arguments, prog_name="pass-transfer", standalone_mode=False) or 0
    except PassTransferError as error:
        return _fail(_said(error), error.exit_code)
    except WrongUsage as error:
        return _wrong_usage(error)
    except _Interrupted as error:
        return _fail(in_flags(str(error), None, typer.main.get_command(app)), 130, "")
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130, "")
    except MemoryError:
        return _fail(OUT_OF_MEMORY, 1)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except RuntimeError as error:  # torch has no kinds of its own for these
        if "gloo" in str(error).lower():
            return _fail(ANOTHER_ENDED, 1)
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        return _fail(OUT_OF_MEMORY, 1)


def _said(error: PassTransferError) -> str:
    """An error's message, in the command line's words."""
    return in_flags(str(error), getattr(error, "argument", None), typer.main.get_command(app))


def _wrong_usage(error: Any) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.ctx.get_help(), file=sys.stderr)
        return 2
    old = getattr(error, "option_name", None)
    if old in RENAMED:
        return _fail(f"{old} is now {RENAMED[old]}. See CHANGELOG.md", 2)
    said = error.format_message().rstrip(".")
    end = "" if said.endswith("?") else "."
    path = context.command_path if context else "pass-transfer"
    return _fail(f"{said}{end} See {path} --help", 2)


def _fail(message: str, code: int, kind: str = "error: ") -> int:
    if not is_first():  # what all find wrong, the first process says, and this one is ended
        time.sleep(ALONE_SECONDS)
        kind = f"process {os.environ['RANK']}: {kind}"
    print(f"{kind}{message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
