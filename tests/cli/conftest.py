"""A small zoo entry with random weights, and the command line as a user and as a test calls it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pass_transfer.cli.main import run as command_line
from pass_transfer.networks import BackboneSpec, build_backbone, find_groups
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig
from pass_transfer.scoring.magnitude import group_l1
from pass_transfer.scoring.prior import standardise
from pass_transfer.zoo.entry import EntryNotes, save_entry

SIDE = 32
CLASSES = 10
QUICK = ["--epochs", "1", "--batch-size", "64", "--device", "cpu", "--no-reconstruct"]
QUICK += ["--no-report"]
ONE_STEP = ["--set", "steps=1"]  # of the method prompt; others have no such setting


def write_entry(folder, seed=0, architecture="resnet18", **shape):
    """A zoo entry of a random backbone and an untrained hypernetwork."""
    torch.manual_seed(seed)
    spec = BackboneSpec(architecture, CLASSES, SIDE)
    backbone = build_backbone(spec).eval()
    groups = find_groups(backbone, SIDE)
    prior = standardise(group_l1(backbone, groups, SIDE))
    net = Hypernet(HypernetConfig(**shape), backbone, groups, prior)
    source = {"task": "digits", "class_names": [str(n) for n in range(CLASSES)]}
    prompt = Prompt("additive", SIDE, 3, seed)
    notes = EntryNotes(source, {}, {}, "# for tests\n")
    save_entry(folder, net, backbone.state_dict(), spec, prompt, notes)
    return folder


@pytest.fixture(scope="session")
def entries(tmp_path_factory):
    """(seed, architecture, shape) -> folder of an entry; shared, so tests change copies alone."""
    made, root = {}, tmp_path_factory.mktemp("entries")

    def get(seed=0, architecture="resnet18", **shape):
        key = repr((seed, architecture, shape))
        if key not in made:
            made[key] = write_entry(root / str(len(made)), seed, architecture, **shape)
        return made[key]

    return get


@pytest.fixture(scope="session")
def entry(entries):
    """The entry that most tests use."""
    return entries()


@pytest.fixture
def copied(entry, tmp_path):
    """An entry of one's own, to be damaged."""
    return Path(shutil.copytree(entry, tmp_path / "entry"))


@pytest.fixture(scope="session")
def photos():
    """(folder, classes, count, size) -> the folder, with noise images by class."""

    def write(root, classes=("cat", "dog"), count=8, size=20):
        draw = np.random.default_rng(0)
        for name in classes:
            (root / name).mkdir(parents=True)
            for number in range(count):
                noise = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(noise).save(root / name / f"{number}.png")
        return root

    return write


@pytest.fixture(scope="session")
def few_photos(photos, tmp_path_factory):
    """A task of two classes with nine images each to train on: nothing is to be learned."""
    return f"folder:{photos(tmp_path_factory.mktemp('photos') / 'photos', count=12)}"


@pytest.fixture
def refused(call):
    """Arguments -> the one message on stderr of a command that is refused with exit code `code`."""

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
