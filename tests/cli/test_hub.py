"""To the hub and from it, by its own client, against a stub of the hub on loopback.

In processes of their own: the client reads its address when it is imported. One process takes
several commands, since starting it takes longer than they do.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from pass_transfer import load_hypernet, load_pruned
from pass_transfer.zoo.verify import verify_files, write_manifest
from tests.cli.hub_stub import CUT, TOKEN, WRONG, Stub, sha256

MODEL_FILES = {"model.json", "model.safetensors", "README.md"}
COMMANDS = """
import contextlib, io, json, sys, time
time.sleep = lambda seconds: None  # what the client does between its tries
from pass_transfer.cli.main import run
for command in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(command)
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


@pytest.fixture(scope="module")
def stub(entry, finished):
    """A hub that holds an entry and a finished run."""
    made = Stub()
    made.add("someone/entry", entry)
    made.add("someone/small", finished)
    yield made
    made.server.shutdown()


@pytest.fixture(scope="module")
def small(entry, tmp_path_factory):
    """An entry as far as its files go, with tensors of a few bytes."""
    folder = tmp_path_factory.mktemp("small") / "entry"
    shutil.copytree(entry, folder)
    for path in folder.glob("*.safetensors"):
        path.write_bytes(path.name.encode() * 100)
    write_manifest(folder)
    return folder


@pytest.fixture
def python(stub, tmp_path):
    """(code, argument, variables) -> stdout of a process that asks the stub, with a token."""

    def run(code, argument="", **variables):
        kept = {name: v for name, v in os.environ.items() if not name.lower().endswith("_proxy")}
        own = {
            "HF_ENDPOINT": stub.address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
        }
        command = [sys.executable, "-c", code, argument]
        environment = kept | own | variables
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        assert not files_with(TOKEN, tmp_path)
        return done.stdout

    return run


def files_with(text, folder):
    """Files below a folder that hold a text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text.encode() in path.read_bytes()]


@pytest.fixture
def commands(python):
    """(command lines, variables) -> (exit code, stdout, stderr) of each."""

    def run(*lines, **variables):
        given = json.dumps([[str(part) for part in line] for line in lines])
        return [json.loads(line) for line in python(COMMANDS, given, **variables).splitlines()]

    return run


def refusal(outcome, code=1):
    """The one line that a refused command says."""
    got, out, err = outcome
    assert (got, out) == (code, ""), outcome
    assert err.startswith("error: ") and len(err.splitlines()) == 1, err
    return err.removeprefix("error: ").rstrip("\n")


def metadata(card):
    return yaml.safe_load(card.decode().split("---\n")[1])


def test_an_entry_is_loaded_from_the_hub(python, entry):
    code = (
        "import pass_transfer as pt\nprint(pt.load_hypernet('hf-hub:someone/entry').fingerprint())"
    )
    assert python(code).strip() == load_hypernet(entry).fingerprint()


def test_a_model_is_loaded_from_the_hub_with_only_its_own_two_files(stub, python, finished):
    stub.asked.clear()
    code = (
        "import pass_transfer as pt, torch\n"
        "model = pt.load_pruned('hf-hub:someone/small')\n"
        "print(model(torch.full((1, 3, 32, 32), 0.5)).flatten().tolist())"
    )
    found = json.loads(python(code))
    assert {parts["file"] for kind, parts in stub.asked if kind == "resolve"} == {
        "model.json",
        "model.safetensors",
    }
    expected = load_pruned(finished)(torch.full((1, 3, 32, 32), 0.5)).flatten()
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("address", ["the stub", "http://127.0.0.1:9"])
def test_what_the_hub_does_not_give_is_one_error(stub, python, address):
    code = (
        "import pass_transfer as pt\n"
        "for load in (pt.load_pruned, pt.load_hypernet):\n"
        "    try:\n        load('hf-hub:nobody/nothing')\n"
        "    except pt.PassTransferError as e:\n        print(type(e).__name__, e)"
    )
    lines = python(
        code, HF_ENDPOINT=stub.address if address == "the stub" else address
    ).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("RunError cannot get hf-hub:nobody/nothing: ")
    assert lines[1].startswith("ZooError cannot get hf-hub:nobody/nothing: ")


def test_an_entry_is_pushed_and_pulled_and_used_without_the_hub(stub, commands, entry, tmp_path):
    pushed, _, copied, shown = commands(
        ["zoo", "push", entry, "me/entry", "--license", "mit", "--json"],
        ["zoo", "pull", "me/entry"],
        ["zoo", "pull", "me/entry", "--to", tmp_path / "copy"],
        ["zoo", "show", "hf-hub:me/entry"],
    )
    assert (pushed[0], copied[0]) == (0, 0), (pushed, copied)
    there = stub.repositories["me/entry"]
    assert not there.private
    assert json.loads(pushed[1])["commit"] == there.head
    digests = {name: sha256(content) for name, content in there.files.items()}
    assert json.loads(pushed[1])["files"] == digests
    for name in ("hypernet.safetensors", "backbone.safetensors", "config.json"):
        assert there.files[name] == (entry / name).read_bytes()
    card = metadata(there.files["README.md"])
    assert card["library_name"] == "pass-transfer" and card["license"] == "mit"
    assert card["pipeline_tag"] == "image-classification" and "resnet18" in card["tags"]
    assert shown[1].strip() == (entry / "README.md").read_text().strip()
    verify_files(tmp_path / "copy")
    assert load_hypernet(tmp_path / "copy").fingerprint() == load_hypernet(entry).fingerprint()
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    (used,) = commands(["zoo", "verify", "hf-hub:me/entry"], **offline)
    assert used[0] == 0, used


def test_a_card_tells_what_was_measured_on_which_dataset(stub, commands):
    (pushed,) = commands(["zoo", "push", "zoo/r18_tinyimnet", "me/zoo"])
    assert pushed[0] == 0, pushed
    card = metadata(stub.repositories["me/zoo"].files["README.md"])
    assert card["datasets"] == ["zh-plus/tiny-imagenet"] and card["metrics"] == ["accuracy"]
    (results,) = card["model-index"][0]["results"]
    assert results["dataset"]["type"] == "zh-plus/tiny-imagenet"
    values = {metric["name"]: metric["value"] for metric in results["metrics"]}
    config = json.loads((Path("zoo") / "r18_tinyimnet" / "config.json").read_text())
    assert values["top-1 accuracy (%)"] == config["source"]["top1"]
    assert card["license"] == "unknown"


def test_a_run_is_pushed_private_and_loaded_at_its_commit(stub, commands, python, finished):
    first, again, public = commands(
        ["push", finished, "me/small", "--private", "--json"],
        ["push", finished, "me/small", "--private", "--json"],
        ["push", finished, "someone/small", "--private"],
    )
    assert (first[0], again[0]) == (0, 0), (first, again)
    there = stub.repositories["me/small"]
    assert there.private and set(there.files) == MODEL_FILES
    for name in ("model.json", "model.safetensors"):
        assert there.files[name] == (finished / name).read_bytes()
    assert "someone/small is there already and public" in refusal(public)
    result = json.loads((finished / "result.json").read_text())
    (results,) = metadata(there.files["README.md"])["model-index"][0]["results"]
    values = {metric["name"]: metric["value"] for metric in results["metrics"]}
    assert values["top-1 accuracy (%)"] == result["top1"] and values["MACs"] == result["macs"]
    assert str(finished) not in there.files["README.md"].decode()
    commit = json.loads(first[1])["commit"]
    code = (
        "import pass_transfer as pt, sys\n"
        "one = pt.load_pruned('hf-hub:me/small', revision=sys.argv[1])\n"
        "two = pt.load_pruned('hf-hub:me/small@' + sys.argv[1])\n"
        "print(one.kept == two.kept, list(one.class_names))\n"
        "for arguments in (('hf-hub:me/small', 'nothing'), ('folder', 'main')):\n"
        "    try:\n        pt.load_pruned(*arguments)\n"
        "    except pt.PassTransferError as error:\n        print(error)"
    )
    lines = python(code, commit).splitlines()
    assert lines[0] == f"True {list(load_pruned(finished).class_names)}"
    assert "cannot get hf-hub:me/small@nothing: it is not there" in lines[1]
    assert lines[2].startswith("revision is 'main'; only hf-hub:owner/name has revisions")


def test_a_model_in_memory_is_pushed(stub, python, finished):
    code = (
        "import pass_transfer as pt, sys\n"
        "done = pt.load_pruned(sys.argv[1]).push_to_hub('me/memory', license='mit')\n"
        "print(done['url'])"
    )
    assert python(code, str(finished)).strip() == f"{stub.address}/me/memory"
    there = stub.repositories["me/memory"]
    assert set(there.files) == MODEL_FILES
    assert there.files["model.safetensors"] == (finished / "model.safetensors").read_bytes()
    assert "model-index" not in metadata(there.files["README.md"])


PUSH_FAULTS = {
    "me/401": ("create", 401, "log in with hf auth login, or set HF_TOKEN"),
    "me/403": ("create", 403, "your token may not do this"),
    "me/404": ("preupload", 404, "it is not there, or your token may not see it"),
    "me/409": ("commit", 409, "something else was changing it"),
    "me/412": ("commit", 412, "something else changed it meanwhile"),
    "me/429": ("create", 429, "too many requests"),
    "me/429-later": ("preupload", 429, "too many requests"),
    "me/500": ("batch", 500, "Server Error"),
    "me/cut": ("batch", CUT, "RemoteProtocolError"),
    "me/cut-upload": ("large", CUT, "RemoteProtocolError"),
}


def test_a_push_that_fails_is_one_line_and_leaves_no_file_there(stub, commands, small):
    stub.faults = {name: fault[:2] for name, fault in PUSH_FAULTS.items()}
    outcomes = commands(*(["zoo", "push", small, name] for name in PUSH_FAULTS))
    for (name, (_, _, why)), outcome in zip(PUSH_FAULTS.items(), outcomes):
        said = refusal(outcome)
        assert said.startswith(f"cannot push to {name}: ") and why in said
        assert name not in stub.repositories or not stub.repositories[name].files


def test_what_did_not_arrive_as_it_was_sent_is_said(stub, commands, small):
    stub.faults = {"me/other": ("resolve", WRONG), "me/unread": ("resolve", 404)}
    other, unread = commands(*(["zoo", "push", small, name] for name in stub.faults))
    assert "has another sha-256 at me/other after the push; do not use it" in refusal(other)
    assert refusal(unread).startswith("cannot read back what was pushed to me/unread: ")


def test_other_files_and_names_are_left_alone(stub, commands, small, finished, tmp_path):
    before = dict(stub.repositories["someone/small"].files)
    damaged = shutil.copytree(small, tmp_path / "damaged")
    (damaged / "prompt.safetensors").write_bytes(b"")
    stub.asked.clear()
    kept, wrong, none, bad, nobody = commands(
        ["zoo", "push", small, "someone/small"],
        ["zoo", "push", small, "no-owner"],
        ["push", tmp_path / "nothing", "me/x"],
        ["zoo", "push", damaged, "me/x"],
        ["zoo", "push", small, "me/nobody"],
    )
    assert "which is none of the files to push" in refusal(kept)
    assert stub.repositories["someone/small"].files == before
    assert "repository is 'no-owner'; give owner/name" in refusal(wrong, code=2)
    assert "is no folder, so it is not a finished run" in refusal(none)
    assert "was altered or is damaged" in refusal(bad)
    assert "me/x" not in stub.repositories and nobody[0] == 0
    (without,) = commands(["zoo", "push", small, "me/stranger"], HF_TOKEN="")
    assert "log in with hf auth login" in refusal(without)


PULL_FAULTS = {
    "pull/401": ("info", 401, "log in with hf auth login"),
    "pull/404": ("info", 404, "it is not there"),
    "pull/429": ("resolve", 429, "too many requests"),
    "pull/cut": ("resolve", CUT, ""),
    "pull/wrong": ("resolve", WRONG, ""),
}


def test_a_pull_that_fails_is_one_line_leaves_nothing_and_works_later(
    stub, commands, small, tmp_path
):
    to = tmp_path / "zoo"
    for name in PULL_FAULTS:
        stub.add(name, small)
    lines = [["zoo", "pull", name, "--to", to / name] for name in PULL_FAULTS]
    stub.faults = {name: fault[:2] for name, fault in PULL_FAULTS.items()}
    for (name, (_, _, why)), outcome in zip(PULL_FAULTS.items(), commands(*lines)):
        assert why in refusal(outcome), name
    assert not to.exists()
    stub.faults = {}
    assert [outcome[0] for outcome in commands(*lines)] == [0] * len(lines)
    (again,) = commands(lines[0])
    assert "exists already; remove it first" in refusal(again)
    assert sorted(path.name for path in (to / "pull").iterdir()) == sorted(
        name.split("/")[1] for name in PULL_FAULTS
    )


def test_a_model_that_came_damaged_is_fetched_again(stub, commands, finished, photos, tmp_path):
    photos(tmp_path / "photos", count=1)
    stub.add("pull/small", finished)
    stub.faults = {"pull/small": ("resolve", WRONG)}
    line = ["predict", "hf-hub:pull/small", tmp_path / "photos", "--device", "cpu"]
    (damaged,) = commands(line)
    refusal(damaged)
    stub.faults = {}
    (whole,) = commands(line)
    assert whole[0] == 0 and len(whole[1].splitlines()) == 2
