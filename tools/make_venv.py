"""Make a virtual environment with pip in it, on any Python of 3.11 or newer.

    python3 tools/make_venv.py FOLDER

Debian and Ubuntu ship Python without ensurepip, so that `python3 -m venv` fails there
until python3-venv is installed. The venv module itself is always there: the environment
is then made without pip, and pip comes from the system's own pip or from PyPI.
Only the standard library is used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import ssl
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

LEAST = (3, 11)
INDEX = "https://pypi.org/simple"
ADVICE = "on Debian and Ubuntu: apt install python3-venv"


def make_venv(folder: Path) -> None:
    """Make a folder a virtual environment with pip; one that is there and works is kept."""
    if sys.version_info < LEAST:
        _stop(
            f"Python {sys.version.split()[0]} is too old, 3.11 or newer is needed; "
            "choose one with make PYTHON=python3.12"
        )
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if _has_pip(python):
        return
    if importlib.util.find_spec("ensurepip"):
        made = _run(sys.executable, "-m", "venv", "--clear", str(folder))
        if made and _has_pip(python):
            return
    print("this Python has no ensurepip; making the environment without it", file=sys.stderr)
    if not _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)):
        _stop(f"this Python cannot make virtual environments; {ADVICE}")
    if _pip_of_the_system(python) and _has_pip(python):
        return
    try:
        _pip_from_index(python)
    except (OSError, ValueError) as error:
        _stop(f"cannot get pip from {_index()} ({error}); install it another way, {ADVICE}")
    if not _has_pip(python):
        _stop(f"pip could not be installed; {ADVICE}")


def _stop(message: str) -> None:
    sys.exit(f"error: {message}")


def _run(*command: str) -> bool:
    """Whether a command ends well; what it prints is left out."""
    quiet = subprocess.DEVNULL
    return subprocess.run(command, stdout=quiet, stderr=quiet).returncode == 0


def _has_pip(python: Path) -> bool:
    return python.exists() and _run(str(python), "-m", "pip", "--version")


def _pip_of_the_system(python: Path) -> bool:
    if importlib.util.find_spec("pip") is None:
        return False
    return _run(sys.executable, "-m", "pip", "--python", str(python), "install", "pip")


def _index() -> str:
    return os.environ.get("PIP_INDEX_URL", INDEX).rstrip("/")


def _get(url: str) -> bytes:
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
    request = urllib.request.Request(
        url, headers={"Accept": "text/html", "User-Agent": "make_venv"}
    )
    with urllib.request.urlopen(request, timeout=60, context=context) as answer:
        return answer.read()


class _Links(HTMLParser):
    """Wheels that an index page offers: file name to (address, sha-256)."""

    def __init__(self, page: str):
        super().__init__()
        self.wheels: dict[str, tuple[str, str]] = {}
        self.page = page

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag != "a" or "data-yanked" in found:
            return
        address, _, digest = (found.get("href") or "").partition("#sha256=")
        name = address.rsplit("/", 1)[-1]
        is_wheel = name.endswith("-py3-none-any.whl")
        if is_wheel and digest and _release(name) and _fits(found.get("data-requires-python")):
            self.wheels[name] = urllib.parse.urljoin(self.page, address), digest


def _fits(requirement: str | None) -> bool:
    """Whether this Python is new enough for a wheel."""
    least = re.search(r">=\s*3\.(\d+)", requirement or "")
    return least is None or sys.version_info >= (3, int(least[1]))


def _pip_from_index(python: Path) -> None:
    """Download pip's newest wheel, check its sha-256, and let it install itself."""
    links = _Links(f"{_index()}/pip/")
    links.feed(_get(links.page).decode())
    if not links.wheels:
        raise ValueError("no wheel of pip listed")
    name = max(links.wheels, key=_release)
    address, digest = links.wheels[name]
    content = _get(address)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{name} does not have the sha-256 that the index gives")
    with tempfile.TemporaryDirectory() as aside:
        wheel = Path(aside) / name
        wheel.write_bytes(content)
        if not _run(str(python), f"{wheel}/pip", "install", "--no-index", str(wheel)):
            raise ValueError(f"{name} does not run")


def _release(filename: str) -> tuple[int, ...]:
    """Version of pip-X.Y.Z-py3-none-any.whl as numbers; empty for a pre-release."""
    parts = filename.split("-")[1].split(".")
    return tuple(int(p) for p in parts) if all(p.isdigit() for p in parts) else ()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python3 tools/make_venv.py FOLDER")
    make_venv(Path(sys.argv[1]))
