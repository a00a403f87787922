import copy
import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

from pass_transfer import load_pruned
from pass_transfer.errors import PassTransferError, RunError, StorageError, TaskError, UsageError
from pass_transfer.networks import BackboneSpec
from pass_transfer.networks.network import Network
from pass_transfer.networks.removal import remove_channels
from pass_transfer.prompts import Prompt
from pass_transfer.pruned import PrunedModel

NAMES = [f"class {n}" for n in range(10)]


def make(
    networks,
    random_masks,
    architecture: str = "resnet18",
    prompt: Prompt | None = None,
    number: int = 1,
) -> PrunedModel:
    network, groups = networks(architecture)
    masks = random_masks(groups, number, 0.3)
    spec = BackboneSpec(architecture, 10, 32)
    kept = {n: m.nonzero().flatten().tolist() for n, m in masks.items()}
    return PrunedModel(
        Network(remove_channels(network, masks, groups), spec.mean, spec.std, prompt),
        spec,
        NAMES,
        kept,
    ).eval()


@pytest.fixture(scope="module")
def saved(networks, random_masks, tmp_path_factory):
    """(model, its folder); tests that damage files copy the folder first."""
    model = make(networks, random_masks, prompt=Prompt(size=32, pad=3, seed=4))
    folder = tmp_path_factory.mktemp("pruned")
    model.save(folder)
    return model, folder


@pytest.fixture
def own(saved, tmp_path):
    """A copy of the saved folder."""
    for path in saved[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "resnext50_32x4d"])
@pytest.mark.parametrize("prompt", [None, Prompt("expansive", 32, 3)])
def test_a_saved_model_comes_back_with_the_same_logits(
    networks, random_masks, tmp_path, architecture, prompt
):
    model = make(networks, random_masks, architecture, prompt)
    model.save(tmp_path)
    back, images = load_pruned(tmp_path), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(back(images), model(images))
    assert back.class_names == tuple(NAMES) and back.spec == model.spec and back.kept == model.kept
    assert not any(m.training for m in back.modules())


def test_another_process_computes_the_same_logits_without_pickle_or_the_training_libraries(
    saved, tmp_path
):
    model, folder = saved
    images = torch.rand(2, 3, 32, 32)
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, json, torch, torchvision.models, safetensors.torch; torch.set_num_threads(1)\n"
        "for name in ('torch_pruning', 'accelerate', 'datasets', 'huggingface_hub', 'sklearn',"
        "             'matplotlib', 'typer', 'rich', 'onnx', 'onnxruntime'):\n"
        "    sys.modules[name] = None  # an import of it fails\n"
        "from pass_transfer import load_pruned\n"
        "images = torch.load(sys.argv[2])\n"
        "import pickle; pickle.Unpickler = pickle.load = pickle.loads = None\n"
        "print(json.dumps(load_pruned(sys.argv[1])(images).tolist()))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "images.pt")],
        check=True,
        capture_output=True,
        text=True,
    )
    with torch.no_grad():
        torch.testing.assert_close(
            torch.tensor(json.loads(out.stdout)), model(images), rtol=1e-6, atol=1e-6
        )


def test_a_model_saved_again_is_the_same_byte_for_byte(saved, tmp_path):
    load_pruned(saved[1]).save(tmp_path / "again")
    for path in saved[1].iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_a_model_in_another_memory_format_is_saved_to_the_same_bytes(saved, tmp_path):
    copy.deepcopy(saved[0]).to(memory_format=torch.channels_last).save(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (
        saved[1] / "model.safetensors"
    ).read_bytes()


def test_the_saved_file_is_really_smaller(saved, networks):
    dense = sum(t.numel() * t.element_size() for t in networks("resnet18")[0].state_dict().values())
    assert (saved[1] / "model.safetensors").stat().st_size < 0.2 * dense


def test_a_folder_without_a_finished_model_is_refused_with_the_way_on(tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    for name, way in (
        ("begun", "--resume"),
        (".", "is no run of adapt"),
        ("nothing", "nothing is no folder"),
    ):
        folder = tmp_path / name
        with pytest.raises(RunError, match=way):
            load_pruned(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-1],
        lambda b: b"",
        lambda b: b[:5000] + bytes([b[5000] ^ 1]) + b[5001:],
        lambda b: b + b"\0",
    ],
)
def test_damaged_weights_are_refused(own, damage):
    path = own / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StorageError, match="sha-256"):
        load_pruned(own)


def test_missing_weights_and_those_of_another_model_are_refused(
    own, networks, random_masks, tmp_path
):
    make(networks, random_masks, number=2).save(tmp_path / "other")
    (own / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(StorageError, match="sha-256"):
        load_pruned(own)
    (own / "model.safetensors").unlink()
    with pytest.raises(StorageError, match="missing"):
        load_pruned(own)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "5", '"model"', "{}"])
def test_a_description_that_is_none_is_refused(own, text):
    (own / "model.json").write_text(text)
    with pytest.raises(StorageError, match="model.json"):
        load_pruned(own)


FIELDS = [
    ("format",),
    ("library",),
    ("backbone",),
    ("class_names",),
    ("prompt",),
    ("kept",),
    ("widths",),
    ("sha256",),
    ("backbone", "architecture"),
    ("backbone", "classes"),
    ("backbone", "image_size"),
    ("backbone", "mean"),
    ("backbone", "std"),
    ("prompt", "kind"),
    ("prompt", "size"),
    ("prompt", "pad"),
]

DEFAULTED = [("backbone", "mean"), ("backbone", "std"), ("prompt", "kind"), ("prompt", "pad")]


@pytest.mark.parametrize("field", FIELDS)
def test_a_description_with_a_nonsense_field_is_refused(own, field):
    whole = (own / "model.json").read_text()
    for value in (
        "nonsense",
        -3,
        2.5,
        ["a", "b", "c"],
        {"x": 1},
        [],
        *(["absent"] if field not in DEFAULTED else []),
    ):
        note = json.loads(whole)
        inner = note if len(field) == 1 else note[field[0]]
        if value == "absent":
            del inner[field[-1]]
        else:
            inner[field[-1]] = value
        (own / "model.json").write_text(json.dumps(note))
        with pytest.raises(PassTransferError):
            load_pruned(own)
            pytest.fail(f"{'.'.join(field)} = {value!r} was accepted")


@pytest.mark.parametrize(
    "change, cause",
    [
        (lambda kept: kept + [64], "channel 64, out of range for 64"),
        (lambda kept: [-1] + kept, "channel -1, out of range"),
        (lambda kept: kept[:1] + kept, "twice or is not sorted"),
        (lambda kept: kept[::-1], "twice or is not sorted"),
        (lambda kept: kept[1:], "the weights"),
        (lambda kept: [float(k) for k in kept], "no list of channels"),
        (lambda kept: [], "no list of channels"),
    ],
)
@pytest.mark.parametrize("group", ["conv1", "layer1.0.conv1"])
def test_channels_that_cannot_be_are_refused_by_group(own, group, change, cause):
    note = json.loads((own / "model.json").read_text())
    note["kept"][group] = change(note["kept"][group])
    (own / "model.json").write_text(json.dumps(note))
    with pytest.raises(StorageError, match=f"kept of {group} .*{cause}"):
        load_pruned(own)


def test_a_description_changed_in_any_place_is_refused(own):
    whole = json.loads((own / "model.json").read_text())
    changes = {
        "class_names": NAMES[::-1],
        "library": "9.9",
        "kept": whole["kept"]
        | {
            "conv1": sorted({*range(64)} - {*whole["kept"]["conv1"]})[: len(whole["kept"]["conv1"])]
        },
    }
    assert len(changes["kept"]["conv1"]) == len(whole["kept"]["conv1"])
    for field, value in changes.items():
        (own / "model.json").write_text(json.dumps(whole | {field: value}))
        with pytest.raises(StorageError, match="altered"):
            load_pruned(own)


@pytest.mark.parametrize("field", ["kept", "widths"])
def test_a_group_that_one_list_lacks_is_refused(own, field):
    note = json.loads((own / "model.json").read_text())
    del note[field]["conv1"]
    (own / "model.json").write_text(json.dumps(note))
    with pytest.raises(StorageError, match="different channel groups"):
        load_pruned(own)


@pytest.mark.parametrize("name", ["dense.safetensors", "model.pth", "pytorch_model.bin"])
def test_weights_that_nobody_vouches_for_are_refused(own, name):
    (own / name).write_bytes(b"weights")
    with pytest.raises(StorageError, match=f"{name} does not belong"):
        load_pruned(own)


def test_other_files_beside_the_model_do_not_matter(saved, own):
    (own / "small.onnx").write_bytes(b"exported")
    (own / "README.md").write_text("about it")
    assert load_pruned(own).kept == saved[0].kept


def test_saving_where_nothing_can_be_written_is_refused(saved, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        saved[0].save(tmp_path / "file" / "model")


def test_prediction_is_that_of_the_logits_with_class_names(saved, tmp_path):
    model, pixels = saved[0], torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    paths = [tmp_path / f"{n}.png" for n in range(5)]
    for path, image in zip(paths, pixels):
        Image.fromarray(image.numpy()).save(path)
    with torch.no_grad():
        expected = model(pixels.permute(0, 3, 1, 2).float() / 255).softmax(1)
    found = model.predict(paths, top=3, batch_size=2)
    assert [[name for name, _ in row] for row in found] == [
        [NAMES[c] for c in row.topk(3).indices] for row in expected
    ]
    torch.testing.assert_close(torch.tensor([row[0][1] for row in found]), expected.max(1).values)
    assert model.predict([]) == []


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 32, 32), (2, 1, 32, 32)])
def test_images_of_another_shape_are_refused(saved, shape):
    with pytest.raises(UsageError, match=r"this model takes \(batch, 3, 32, 32\)"):
        saved[0](torch.zeros(shape))


def test_what_is_no_image_is_refused_by_name(saved, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    for path in (tmp_path / "bad.png", tmp_path / "missing.png"):
        with pytest.raises(TaskError, match=path.name):
            saved[0].predict([path])
    with pytest.raises(UsageError, match="top is 11"):
        saved[0].predict([], top=11)


@pytest.mark.parametrize("prompt", [None, Prompt(size=32, pad=3, seed=4)])
def test_bytes_are_scaled_and_other_whole_numbers_refused(networks, random_masks, prompt):
    model = make(networks, random_masks, prompt=prompt)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = model(images.float() / 255)
        assert torch.equal(model(images), expected)
        half = copy.deepcopy(model).bfloat16()
        assert torch.equal(half(images), half(images.bfloat16() / 255))
    for kind in (torch.int8, torch.int16, torch.int32, torch.int64, torch.bool):
        with pytest.raises(UsageError, match=f"{kind}.*uint8 in 0 to 255"):
            model(images.to(kind))
