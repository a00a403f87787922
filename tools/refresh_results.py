"""Write docs/results.md again: what its commands print, and the pictures it shows.

    python tools/refresh_results.py

A command is an indented line `pass-transfer study report FILE ...`. What it printed stands
between the comments `printed` and `end` that come next.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "results.md"
PRINTED = re.compile(
    r"(^    (pass-transfer study report .*)\n"
    r"(?:.*\n)*?<!-- printed -->\n)"
    r"(?:.*\n)*?(?=<!-- end -->)",
    re.MULTILINE,
)
PICTURE = re.compile(r"!\[.*?\]\(results/(?P<study>[^/)]+)/(?P<name>[^/)]+)\)")


def refreshed(text: str, run: Callable[[Sequence[str]], str]) -> str:
    """The document with what its commands print now.

    Args:
        run: arguments of pass-transfer to what it prints.
    """

    def with_output(found: re.Match[str]) -> str:
        arguments = shlex.split(found[2])[1:]
        return f"{found[1]}\n{run(arguments).strip()}\n\n"

    return PRINTED.sub(with_output, text)


def main() -> None:
    """Refresh the document and its pictures in place."""
    text = DOCUMENT.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:

        def run(arguments: Sequence[str]) -> str:
            out = Path(folder) / Path(arguments[2]).stem
            return subprocess.run(
                [Path(sys.executable).with_name("pass-transfer"), *arguments, "--out", str(out)],
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
            ).stdout

        DOCUMENT.write_text(refreshed(text, run), encoding="utf-8")
        for study, name in PICTURE.findall(text):
            target = DOCUMENT.with_suffix("") / study / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(folder) / study / name, target)


if __name__ == "__main__":
    main()
