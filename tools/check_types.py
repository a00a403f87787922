"""mypy over the package as it is installed, with the command line as pass_transfer.cli.

    python tools/check_types.py

The command line lies in cli/ beside the package and is mapped into it on installation, which
mypy does not know. So it is shown a folder of links, build/types, in which cli/ is inside.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHOWN = ROOT / "build" / "types"


def show() -> Path:
    """Make the folder of links anew; returns it."""
    package = SHOWN / "pass_transfer"
    package.mkdir(parents=True, exist_ok=True)
    for old in package.iterdir():
        old.unlink()
    children = [path for path in (ROOT / "pass_transfer").iterdir() if path.name != "__pycache__"]
    for path in [*children, ROOT / "cli"]:
        (package / path.name).symlink_to(path)
    return SHOWN


if __name__ == "__main__":
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*command, "-p", "pass_transfer", *sys.argv[1:]], cwd=show(), check=False)
    sys.exit(done.returncode)
