"""The command line as a user and as a test calls it, on a small zoo entry with random weights."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pass_transfer.cli.main import run as command_line

QUICK = [
    "--epochs",
    "1",
    "--prompt-steps",
    "1",
    "--batch-size",
    "64",
    "--device",
    "cpu",
    "--no-reconstruct",
    "--no-report",
]


@pytest.fixture
def copied(entry, tmp_path):
    """An entry of one's own, to be damaged."""
    return Path(shutil.copytree(entry, tmp_path / "entry"))


@pytest.fixture(scope="session")
def few_photos(photos, tmp_path_factory):
    """A task of two classes with nine images each to train on, for runs that need not learn anything."""
    return f"folder:{photos(tmp_path_factory.mktemp('photos') / 'photos', count=12)}"


@pytest.fixture
def refused(call):
    """Arguments -> the one message on stderr of a command that must be refused; `code` is its exit code."""

    def run(*arguments, code=1):
        got, out, err = call(*arguments)
        lines = [line for line in err.splitlines() if not line.startswith("running on ")]
        assert (got, out) == (code, ""), err
        assert len(lines) == 1 and lines[0].startswith("error: "), err
        return lines[0].removeprefix("error: ")

    return run


@pytest.fixture
def adapting(entry, tmp_path):
    """The shortest arguments of an adapt into tmp_path/run; later ones override them."""

    def arguments(*more):
        return [
            "adapt",
            "--hypernet",
            entry,
            "--task",
            "digits",
            "--out",
            tmp_path / "run",
            *QUICK,
            *more,
        ]

    return arguments


@pytest.fixture(scope="session")
def finished(entry, tmp_path_factory):
    """The folder of a finished run on digits; shared, not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    arguments = [
        "adapt",
        "--hypernet",
        str(entry),
        "--task",
        "digits",
        "--out",
        str(folder),
        *QUICK,
        "--report",
    ]
    assert command_line(arguments) == 0
    return folder


@pytest.fixture(scope="session")
def shell():
    """(arguments, Popen settings) -> a started process of the command line, with pipes and one thread."""

    def start(
        *arguments,
        code="from pass_transfer.cli.main import main; main()",
        environment=None,
        **settings,
    ):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        environment = (
            os.environ
            | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
            | (environment or {})
        )
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            **settings,
        )

    return start
