"""Our JSON files with any field exchanged: refused by an error of ours, or what follows works.

A hash that a file is vouched for by is made right again, so that its content alone is odd.
PASS_TRANSFER_MUTANTS=N draws N of each file, and follows up all that are read.
"""

import collections
import copy
import hashlib
import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import pass_transfer as pt
from pass_transfer.errors import PassTransferError
from pass_transfer.files import read_json, write_json
from pass_transfer.networks import builders, register_network
from pass_transfer.recipes.inspect import inspect
from pass_transfer.report import summary
from pass_transfer.runs.backbone import read_trained
from pass_transfer.runs.files import check_resumable, modern_config, read_result
from pass_transfer.training import RunFolder
from pass_transfer.training.run_folder import read_metrics
from pass_transfer.zoo.verify import write_manifest

ASKED = os.environ.get("PASS_TRANSFER_MUTANTS")
DRAWN = int(ASKED or 150)
FEW = 2  # pages, exports and whole commands where not all are asked for
SECONDS = 20  # of a processor, for one mutant
LARGE = 256  # pixels: larger images are not run through

RAW = {f"@raw{n}@": text for n, text in enumerate(["1e400", "-1e400", "NaN", "-Infinity"])}
RAW |= {"@deep@": "[" * 5000 + "]" * 5000, "@wide@": "9" * 5000, "@half@": '"\\ud800"'}
ODD = [
    None, True, False, 0, 1, 2, -1, 0.5, 1.0, 1e-320, 1e308, -1e308, 7, 1000, 10**9, 10**12,
    10**30, 10**400, "", "x", "1", "cpu", "..", "resnet18", "vgg16", "a/b\\c", "\x00\x1b[31m\n",
    "é" * 3, "y" * 100_000, [], {}, [[]], [None], {"": None}, {"a": {"b": [1, {}]}}, [1, 2, 3],
    ["x"] * 3, [0.5] * 3, *RAW,
]  # fmt: skip
FILES = [b"", b"[]", b"{}", b"null", b"5", b'"x"', b"\xff\xfe{}", b"{", b"[[1]]", b"\xef\xbb\xbf{}"]


def places(node, path=()):
    """Paths of all nodes of a JSON value."""
    yield path
    inside = node.items() if isinstance(node, dict) else ()
    inside = enumerate(node) if isinstance(node, list) else inside
    for key, value in inside:
        yield from places(value, (*path, key))


def mutated(value, draw):
    """A JSON text of the value with one to three changes."""
    if draw.random() < 0.02:
        return draw.choice(FILES)
    value, twice = copy.deepcopy(value), {}
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        every = [path for path in places(value) if path]
        if every:
            # Long lists of channels would be drawn alone otherwise.
            short = [path for path in every if not (isinstance(path[-1], int) and path[-1] > 3)]
            change(value, draw.choice(short), draw, twice)
    text = json.dumps(value)
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    for name, other in twice.items():
        text = text.replace(f'"{name}": ', f'"{name}": {other}, "{name}": ', 1)
    return text.encode()


def change(value, path, draw, twice):
    """Change a JSON value at a path, in place."""
    *above, last = path
    parent = value
    for key in above:
        parent = parent[key]
    old, how = parent[last], draw.randrange(12)
    if how == 0:
        del parent[last]
    elif how == 1 and isinstance(parent, dict):
        parent[draw.choice(["seed", "new", "", "size", "method", "x" * 99])] = draw.choice(ODD)
    elif how == 2 and isinstance(parent, dict):
        twice[last] = json.dumps(draw.choice([1, "x", None, old]))
    elif how in (3, 4) and isinstance(old, (list, dict)) and old:
        parent[last] = reordered(old, draw)
    elif how in (3, 4, 5) and type(old) in (int, float):
        factor = draw.choice([0, -1, 0.1, 2, 10, 100, 10**6, 1e30])
        parent[last] = draw.choice([old * factor, int(old * factor), old + 1, old - 1, bool(old)])
    elif how in (3, 4) and isinstance(old, str):
        changes = [old + "\n", old.upper(), f"../{old}", old * 1000, old[:-1], old.encode().hex()]
        parent[last] = draw.choice(changes)
    elif how in (6, 7):
        other = draw.choice([path for path in places(value)])
        found = value
        for key in other:
            found = found[key]
        parent[last] = copy.deepcopy(found)
    else:
        parent[last] = draw.choice(ODD)


def reordered(old, draw):
    """A list or object with the same parts in another order, fewer, or more of them."""
    parts = list(old.items()) if isinstance(old, dict) else list(old)
    how = draw.randrange(4)
    if how == 0:
        parts.reverse()
    elif how == 1:
        parts.pop(draw.randrange(len(parts)))
    elif how == 2 and isinstance(old, list):
        parts.append(copy.deepcopy(draw.choice(parts)))
    else:
        draw.shuffle(parts)
    return dict(parts) if isinstance(old, dict) else parts


class Tiny(torch.nn.Sequential):
    """A network of two convolutions, whose second one has as many outputs as it has classes."""

    def __init__(self, classes):
        super().__init__(
            torch.nn.Conv2d(3, 8, 3, 2, 1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 16, 3, 2, 1),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(16, classes),
        )


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """The network has a name while these tests run."""
    register_network("tiny", Tiny)
    yield
    del builders._SOURCES["tiny"]


@pytest.fixture(scope="module")
def zoo(tiny, entries):
    """A tiny entry's folder."""
    return entries(architecture="tiny", hidden=8, pooled=8, encoder=(2, 4))


@pytest.fixture(scope="module")
def run(zoo, tmp_path_factory):
    """A finished run of it, with a backbone.json as finetune leaves it."""
    out = tmp_path_factory.mktemp("mutants") / "run"
    pt.adapt(
        zoo, "digits", out=out, epochs=1, device="cpu", precision="no", with_dense=True,
        settings={"steps": 1, "deploy_prompt": True}, round_to=1,
    )  # fmt: skip
    pt.write_report(out)
    entry = read_json(zoo / "config.json")
    names = entry["source"]["class_names"]
    note = {"spec": entry["backbone"], "classes": names, "task": "digits", "config": {"lr": 0.1}}
    write_json(out.parent / "backbone.json", note | {"top1": 91.5, "top5": 99.5, "seconds": 12.5})
    return out


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (40, 30), (200, 30, 60)).save(path)
    return path


def survey(name, original, follow, put, capsys):
    """Draw mutants of a JSON file, follow up each, and count the outcomes."""
    draw, counts = random.Random(f"{name} 1"), collections.Counter()
    few = Few()
    put(json.dumps(original).encode())
    follow(few)
    for number in range(DRAWN):
        text = mutated(original, draw)
        put(text)
        started = time.process_time()
        try:
            follow(few)
            outcome = "works"
        except PassTransferError as refusal:
            message = str(refusal)
            assert 0 < len(message) < 2000, f"{name} {number}: {message[:3000]}"
            outcome = f"refused, {type(refusal).__name__}"
        except BaseException as error:
            error.add_note(f"{name} {number}: {text[:3000]!r}")
            raise
        took = time.process_time() - started
        assert took < SECONDS, f"{name} {number} took {took:.0f} s: {text[:3000]!r}"
        counts[outcome] += 1
    with capsys.disabled():
        if ASKED:
            print(f"\n{name}: {dict(counts)}")
    assert counts["works"] >= 3 and sum(counts.values()) - counts["works"] >= DRAWN / 4, counts


class Few:
    """True as often as what takes long is to be followed up."""

    def __init__(self):
        self.left = FEW

    def __bool__(self):
        self.left -= 1
        return bool(ASKED) or self.left >= 0


def test_an_entrys_configuration(zoo, tmp_path, capsys):
    folder = Path(shutil.copytree(zoo, tmp_path / "entry"))

    def put(text):
        (folder / "config.json").write_bytes(text)
        write_manifest(folder)

    def follow(_):
        entry = pt.load_hypernet(folder)
        masks = entry.generate_masks(entry.prompt(), macs=0.5, round_to=1)
        network, size = entry.network(masks, entry.prompt(), 3), entry.spec.image_size
        assert network(torch.rand(1, 3, size, size)).isfinite().all() and repr(entry)
        inspect(entry, macs=0.5, round_to=1, latency=False)
        entry.with_backbone(entry.backbone()).fingerprint()
        assert read_trained(folder)[1] == entry.spec

    survey("an entry's config.json", read_json(zoo / "config.json"), follow, put, capsys)


def rightly_hashed(text):
    """A description that names its own hash, where it has a place for that."""
    try:
        note = json.loads(text)
        note["sha256"].pop("model.json", None)
        digest = hashlib.sha256(json.dumps(note, sort_keys=True).encode()).hexdigest()
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return text
    return text.replace(b"@digest@", digest.encode())


@pytest.mark.parametrize("prompted", [True, False])
def test_a_models_description(run, image, prompted, tmp_path, capsys):
    folder, whole = tmp_path / "model", pt.load_pruned(run)
    if not prompted:
        whole.network.prompt = None
    whole.save(folder)

    def follow(few):
        model = pt.load_pruned(folder)
        size = model.spec.image_size
        if size <= LARGE:
            images = torch.rand(2, 3, size, size)
            assert model(images).shape == (2, len(model.class_names))
            assert model(images).isfinite().all()
            model.predict([image], top=1)
            if few:
                model.export(tmp_path / "small.pt2")
        model.save(tmp_path / "again")
        assert pt.load_pruned(tmp_path / "again").spec == model.spec

    original = read_json(folder / "model.json")
    original["sha256"]["model.json"] = "@digest@"
    path = folder / "model.json"
    name = "model.json" if prompted else "model.json of a network without a prompt"
    survey(name, original, follow, lambda text: path.write_bytes(rightly_hashed(text)), capsys)


OLD_RUN = Path(__file__).parent / "golden/0.1.0/run"


@pytest.mark.parametrize("old", [False, True])
def test_a_runs_configuration(zoo, run, old, tmp_path, capsys, call):
    folder, entry = tmp_path / "run", pt.load_hypernet(zoo)
    shutil.copytree(OLD_RUN if old else run, folder)
    original = read_json(folder / "config.json")
    original |= {"fingerprint": entry.fingerprint(), "backbone": None}
    if old:
        shutil.copy(run / "scores.safetensors", folder)
        shutil.copy(run / "prompt.safetensors", folder)
    identity = modern_config(original)

    def follow(few):
        errors = []
        for step in (previewed, resumed, reported):
            try:
                step(few)
            except PassTransferError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def previewed(_):
        inspect(entry, run=folder, macs=0.5, round_to=1, latency=False)

    def resumed(few):
        check_resumable(folder)
        again = RunFolder(folder, identity, resume=True, upgrade=modern_config)
        again.drop_checkpoints()
        if not old and few:
            code, _, err = call(
                "adapt", "--hypernet", zoo, "--task", "digits", "--epochs", "1", "--device", "cpu",
                "--precision", "no", "--set", "steps=1", "--set", "deploy_prompt=true",
                "--round-to", "1", "--out", folder, "--resume", "--no-report",
            )  # fmt: skip
            assert code == 0 or (code in (1, 2) and "error: " in err), err

    def reported(few):
        if few:
            pt.write_report(folder)

    name = "config.json of version 0.1" if old else "a run's config.json"
    survey(name, original, follow, (folder / "config.json").write_bytes, capsys)


def test_a_result(run, tmp_path, capsys):
    folder = Path(shutil.copytree(run, tmp_path / "run"))

    def follow(few):
        assert summary(read_result(folder))
        if few:
            pt.write_report(folder)

    original = read_json(folder / "result.json")
    survey("result.json", original, follow, (folder / "result.json").write_bytes, capsys)


def test_metrics(run, tmp_path, capsys):
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]

    def put(text):
        try:
            lines = json.loads(text)
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        except (ValueError, TypeError, RecursionError):
            path.write_bytes(text)

    def follow(few):
        read_metrics(folder)
        if few:
            pt.write_report(folder)

    survey("metrics.jsonl", rows, follow, put, capsys)


def test_a_trained_backbones_note(zoo, run, tmp_path, capsys):
    folder = tmp_path / "backbone"
    folder.mkdir()
    shutil.copy(zoo / "backbone.safetensors", folder)

    def follow(_):
        note, spec, stored = read_trained(folder)
        assert len(note["classes"]) == spec.classes == len(stored["6.weight"])

    original = read_json(run.parent / "backbone.json")
    survey("backbone.json", original, follow, (folder / "backbone.json").write_bytes, capsys)
