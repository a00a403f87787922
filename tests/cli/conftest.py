"""The command line as a user and as a test calls it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pass_transfer.cli.main import run as command_line

QUICK = ["--epochs", "1", "--batch-size", "64", "--device", "cpu", "--no-reconstruct"]
QUICK += ["--no-report"]
ONE_STEP = ["--set", "steps=1"]  # of the method prompt; others have no such setting


@pytest.fixture
def copied(entry, tmp_path):
    """An entry of one's own, to be damaged."""
    return Path(shutil.copytree(entry, tmp_path / "entry"))


# The device, the network, and what was understood of the images.
EXPECTED = r"running on |.* pixels, its weights with |.*: \d+ classes$|  \S"


@pytest.fixture
def refused(call):
    """Arguments -> the one message on stderr of a command that is refused with exit code `code`."""

    def run(*arguments, code=1):
        got, out, err = call(*arguments)
        lines = [line for line in err.splitlines() if not re.match(EXPECTED, line)]
        assert (got, out) == (code, ""), err
        assert len(lines) == 1 and lines[0].startswith("error: "), err
        return lines[0].removeprefix("error: ")

    return run


@pytest.fixture
def adapting(entry, tmp_path):
    """The shortest arguments of an adapt into tmp_path/run; later ones override them."""

    def arguments(*more):
        out, method = tmp_path / "run", [] if "--method" in more else ONE_STEP
        given = ["adapt", "--hypernet", entry, "--task", "digits", "--out", out]
        return [*given, *QUICK, *method, *more]

    return arguments


@pytest.fixture(scope="session")
def finished(entry, tmp_path_factory):
    """The folder of a finished run on digits; shared, not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    given = ["adapt", "--hypernet", str(entry), "--task", "digits", "--out", str(folder)]
    assert command_line([*given, *QUICK, *ONE_STEP, "--report"]) == 0
    return folder


@pytest.fixture(scope="session")
def shell():
    """(arguments, Popen settings) -> a started command line, with pipes and one thread."""
    main = "from pass_transfer.cli.main import main; main()"
    one_thread = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

    def start(*arguments, code=main, environment=None, **settings):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        variables = os.environ | one_thread | (environment or {})
        return subprocess.Popen(command, env=variables, **pipes, **settings)

    return start
