"""Nothing is asked of a network unless it is named: sockets are forbidden, and none is missed."""

import json
import os
import subprocess
import sys

FORBIDDEN = """
import json, socket, sys

asked = []


def watch(event, arguments):
    # every lookup of a name and every connection, also those that are tried and forgiven
    local = event == "socket.connect" and arguments[0].family == socket.AF_UNIX
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto") and not local:
        asked.append(event)
        raise RuntimeError("this test allows no network")


sys.addaudithook(watch)
from pass_transfer.cli.main import run

for command in json.loads(sys.argv[1]):
    asked.append(["code", command, run(command)])
import pass_transfer as pt

pt.load_hypernet(sys.argv[2])
pt.load_pruned(sys.argv[3])
try:
    socket.create_connection(("127.0.0.1", 9))
except RuntimeError:
    asked.append("the watch works")
print("\\n" + json.dumps(asked))
"""


def test_ordinary_verbs_ask_nothing_of_a_network(entry, photos, tmp_path):
    images, run = photos(tmp_path / "photos", count=1), tmp_path / "run"
    short = ["--epochs", "1", "--batch-size", "64", "--device", "cpu", "--set", "steps=1"]
    commands = [
        ["adapt", "--hypernet", entry, "--task", "digits", "--out", run, "--macs", "0.5", *short],
        ["inspect", "--task", "digits"],
        ["inspect", "--hypernet", entry, "--macs", "0.5"],
        ["eval", run, "--task", "digits"],
        ["predict", run, images],
        ["export", run, "--out", tmp_path / "small.onnx"],
        ["report", run],
        ["methods"],
        ["env"],
        ["zoo", "ls"],
        ["zoo", "show", "r18_tinyimnet"],
        ["zoo", "verify", entry],
    ]
    given = [[str(part) for part in command] for command in commands]
    allowed = {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, json.dumps(given), str(entry), str(run)],
        capture_output=True,
        text=True,
        env=os.environ | allowed | {"HF_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr
    asked = json.loads(done.stdout.splitlines()[-1])
    ended = [["code", command, 0] for command in given]
    assert asked == [*ended, "socket.getaddrinfo", "the watch works"], done.stderr
