"""adapt on several processes, as torchrun starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

COMMAND = Path(sys.executable).with_name("pass-transfer")
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENTRY = Path(__file__).parents[2] / "zoo" / "r18_tinyimnet"


def adapt(out, *more):
    asked = ["--hypernet", str(ENTRY), "--task", "digits", "--macs", "0.3", "--epochs", "1"]
    chosen = ["--method", "selection", "--set", "images=256", "--json"]
    return [str(COMMAND), "adapt", *asked, *chosen, "--out", str(out), *more]


def together(command):
    return subprocess.run([*TWO, *command], capture_output=True, text=True)


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    out = tmp_path_factory.mktemp("two") / "run"
    return out, together(adapt(out))


def test_two_processes_find_the_masks_of_one_and_say_so_once(of_two, tmp_path):
    out, done = of_two
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["run"] == str(out) and done.stderr.count("forward selection of the") == 1
    subprocess.run(adapt(tmp_path / "one"), check=True, capture_output=True)
    own = load_file(tmp_path / "one" / "masks.safetensors")
    found = load_file(out / "masks.safetensors")
    assert all(found[name].equal(mask) for name, mask in own.items())
    alone = json.loads((tmp_path / "one" / "result.json").read_text())
    assert abs(result["top1"] - alone["top1"]) <= 5  # of 359 images, after one epoch


def test_what_is_refused_is_said_once_and_leaves_the_run_as_it_is(of_two):
    out, _ = of_two
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = together(adapt(out))
    assert again.returncode != 0 and again.stderr.count("already holds a run") == 1
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_killed_process_takes_the_other_with_it_and_one_alone_goes_on(tmp_path):
    """The one that is killed is that which writes."""
    out = tmp_path / "run"
    job = subprocess.Popen([*TWO, *adapt(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    workers = {}
    while len(workers) < 2 or not (out / "masks.safetensors").exists():
        assert job.poll() is None, job.stdout.read().decode()
        for child in psutil.Process(job.pid).children(recursive=True):
            number = child.environ().get("RANK")
            if number is not None:
                workers[number] = child
        time.sleep(0.2)
    os.kill(workers["0"].pid, signal.SIGKILL)
    job.wait(timeout=60)
    gone, alive = psutil.wait_procs(workers.values(), timeout=30)
    assert not alive and job.returncode != 0
    assert not (out / "result.json").exists()
    done = subprocess.run(adapt(out, "--resume"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["top1"] > 50
