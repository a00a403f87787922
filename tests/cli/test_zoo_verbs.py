"""Entries that are damaged, incomplete, or put together from others are refused at once."""

import json
import shutil

import pytest
import torch

from pass_transfer.files import read_json, read_tensors, write_json, write_tensors
from pass_transfer.zoo.verify import FILES, write_manifest

TENSORS = [name for name in FILES if name.endswith(".safetensors")]


@pytest.fixture
def refuses(refused, adapting, copied, tmp_path):
    """Hint -> verify and adapt refuse the entry in tmp_path/entry with it, and make no run."""

    def check(hint, adapt=True):
        message = refused("zoo", "verify", copied)
        assert hint in message, message
        if adapt:
            assert hint in refused(*adapting("--hypernet", copied))
        assert not (tmp_path / "run").exists()

    return check


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_verify_and_show_accept_a_whole_entry(call, entry):
    code, out, err = call("zoo", "verify", entry, "--json")
    assert code == 0, err
    assert json.loads(out)["files"].keys() == set(FILES)
    assert call("zoo", "show", entry)[:2] == (0, "# for tests\n")
    assert json.loads(call("zoo", "show", entry, "--json")[1])["source"]["task"] == "digits"


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit(refuses, copied, name):
    flip_bit(copied / name)
    refuses(
        f"{name} was altered or is damaged", adapt=name in ("config.json", "hypernet.safetensors")
    )


@pytest.mark.parametrize("name", [*TENSORS, "manifest.json"])
def test_a_truncated_file(refuses, copied, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 2])
    refuses(name, adapt=False)


@pytest.mark.parametrize("name", TENSORS)
def test_a_truncated_file_that_the_manifest_knows(refuses, copied, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 2])
    write_manifest(copied)
    refuses("not a whole safetensors file", adapt=False)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file(refuses, copied, name):
    (copied / name).unlink()
    refuses("config.json" if name == "config.json" else name, adapt=False)


@pytest.mark.parametrize("name", ["backbone.pth", "extra.safetensors", "hypernet.pkl"])
def test_a_file_too_many(refuses, copied, name):
    (copied / name).write_bytes(b"")
    refuses(f"{name} does not belong", adapt=False)


@pytest.mark.parametrize(
    "name", [name for name in FILES if name not in ("config.json", "README.md")]
)
def test_a_file_of_another_entry(refuses, copied, entries, name):
    shutil.copy(entries(seed=1) / name, copied / name)
    refuses(name, adapt=False)


@pytest.mark.parametrize(
    "name, hint, adapt",
    [
        ("backbone.safetensors", "not the backbone this hypernetwork was trained for", True),
        ("hypernet.safetensors", "masks.safetensors", False),
        ("prompt.safetensors", "masks.safetensors", False),
        ("masks.safetensors", "masks.safetensors", False),
        ("config.json", "not the backbone", True),
    ],
)
def test_a_file_of_another_entry_that_the_manifest_knows(
    refuses, copied, entries, name, hint, adapt
):
    shutil.copy(entries(seed=1) / name, copied / name)
    write_manifest(copied)
    refuses(hint, adapt)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_for_another_architecture_or_shape_that_the_manifest_knows(
    refuses, copied, entries, name
):
    shutil.copy(entries(architecture="resnet34", hidden=32) / name, copied / name)
    if name == "prompt.safetensors":
        write_tensors(copied / name, {"values": torch.zeros(3, 8, 8)})
    write_manifest(copied)
    refuses(name, adapt=name in ("backbone.safetensors", "hypernet.safetensors"))


@pytest.mark.parametrize(
    "name, change",
    [
        ("hypernet.safetensors", "nan"),
        ("prompt.safetensors", "inf"),
        ("hypernet.safetensors", "extra"),
        ("hypernet.safetensors", "missing"),
        ("prompt.safetensors", "integer"),
    ],
)
def test_tensors_that_no_training_gives(refuses, copied, name, change):
    tensors = read_tensors(copied / name)
    key = sorted(tensors)[0]
    if change in ("nan", "inf"):
        tensors[key].view(-1)[0] = float(change)
    elif change == "extra":
        tensors["odd"] = torch.zeros(1)
    elif change == "missing":
        del tensors[key]
    else:
        tensors[key] = tensors[key].to(torch.int32)
    write_tensors(copied / name, tensors)
    write_manifest(copied)
    refuses(
        {
            "nan": "NaN",
            "inf": "NaN or infinite",
            "extra": "odd is unknown",
            "missing": f"{key} is missing",
            "integer": "int32",
        }[change]
    )


@pytest.mark.parametrize(
    "change, hint",
    [
        ({"schema": 99}, "schema 99"),
        ({"backbone": None}, "config.json"),
        ({"hypernet": {"hidden": -1}}, "config.json"),
        ({"hypernet": {"correction": "2.0"}}, "correction is '2.0'; it is a positive number"),
        ({"hypernet": {"hidden": 60_000}}, "hypernet.safetensors: "),  # 14 billion weights
        ({"groups": {}}, "channel groups"),
        ({"prompt": {"kind": "cake", "size": 32, "pad": 3}}, "cake"),
        ({"fingerprint": None}, "fingerprint"),
    ],
)
def test_a_configuration_that_does_not_fit_though_the_manifest_knows_it(
    refuses, copied, change, hint
):
    write_json(copied / "config.json", read_json(copied / "config.json") | change)
    write_manifest(copied)
    refuses(hint, adapt=False)


def test_installed_entries_are_listed_and_found_by_name_from_any_folder(
    call, copied, tmp_path, monkeypatch
):
    from pass_transfer.zoo import catalogue

    monkeypatch.setattr(catalogue.resources, "files", lambda _: tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    rows = json.loads(call("zoo", "ls", "--json")[1])
    assert [(r["name"], r["architecture"], r["image_size"], r["source"]) for r in rows] == [
        ("entry", "resnet18", 32, "digits")
    ]
    assert "resnet18" in call("zoo", "ls")[1]
    for name in ("entry", "zoo/entry", copied):
        assert call("zoo", "show", name)[0] == 0
    code, _, err = call("zoo", "show", "entri")
    assert code == 1 and "Did you mean entry?" in err
    write_json(copied / "config.json", {"schema": 1})
    assert call("zoo", "ls")[0] == 1


def test_add_copies_an_entry_with_its_card_and_refuses_to_replace_one(
    call, refused, entry, tmp_path
):
    card, target = tmp_path / "card.md", tmp_path / "mine"
    card.write_text("# mine\n")
    code, _, err = call("zoo", "add", entry, "--to", target, "--card", card)
    assert code == 0, err
    assert call("zoo", "verify", target)[0] == 0
    assert call("zoo", "show", target)[1].strip() == "# mine"
    assert "exists already" in refused("zoo", "add", entry, "--to", target, "--card", card)
    assert "cannot read" in refused(
        "zoo", "add", entry, "--to", tmp_path / "other", "--card", tmp_path / "no.md"
    )
    assert not (tmp_path / "other").exists()
