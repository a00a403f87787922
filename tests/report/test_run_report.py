"""The report says what the run's files say, whatever that is, and refuses what is not a run's."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import pass_transfer as pt
from pass_transfer.errors import RunError, StorageError
from pass_transfer.files import read_tensors, write_tensors

NAMES = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "$\\frac{1}$ & co",
    "a\udcffb",
    "狐",
    "x" * 90,
    "line\nbreak",
    "</table>",
    "&amp;",
    "'",
]


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def written(original, tmp_path_factory):
    """The original run with its report, not to be changed, and what write_report returned."""
    folder = shutil.copytree(original, tmp_path_factory.mktemp("written") / "run")
    return folder, pt.write_report(folder)


def number(cell):
    return float(re.sub(r"[^0-9.+-]", "", cell)) if re.search(r"\d", cell) else None


def test_the_comparison_has_the_numbers_of_the_result(written, read):
    folder, _ = written
    result, page = json.loads((folder / "result.json").read_text()), read(folder)
    table = page.table("", "small", "dense", "small / dense")
    rows = {name: list(map(number, cells)) for name, *cells in table}
    assert rows["top-1 (%)"] == [pytest.approx(result["top1"], abs=0.005), None, None]
    assert "not trained" in page.text
    assert rows["top-5 (%)"][0] == result["top5"]
    assert rows["top-1 without prompt (%)"][0] == result["top1_without_prompt"]
    for name, key in (("MACs (M)", "macs"), ("parameters (M)", "parameters")):
        small, dense = result[key], result[f"dense_{key}"]
        assert rows[name] == [
            pytest.approx(small / 1e6, abs=0.005),
            pytest.approx(dense / 1e6, abs=0.005),
            pytest.approx(100 * small / dense, abs=0.05),
        ]
    for batch, small in result["latency_ms"].items():
        dense = result["dense_latency_ms"][batch]
        assert rows[f"latency, batch {batch} (ms)"] == [
            pytest.approx(small, abs=0.005),
            pytest.approx(dense, abs=0.005),
            pytest.approx(dense / small, abs=0.005),
        ]
    assert len(rows) == 7


def test_the_summary_names_task_entry_and_the_main_numbers(written, read):
    page = read(written[0])
    lead = page.text[: page.text.index("Small beside dense")]
    result = json.loads((written[0] / "result.json").read_text())
    for said in (
        "photos",
        "by the method prompt",
        f"{result['top1']:.2f} %",
        "18.23 M",
        "4.26 M",
        "48.8 %",
        "38.0 %",
        "5.55 ms",
        "dense 9.86 ms",
        "55.36 ms",
        "1.78 times as fast",
        "400 test images",
    ):
        assert said in lead
    assert page.all("title") and page.errors == [] and "zoo/small" in page.text


def test_channels_are_those_of_the_result(written, read):
    result = json.loads((written[0] / "result.json").read_text())
    table = read(written[0]).table("group", "kept", "of")
    kept = {name: int(count) for name, count, _ in table}
    widths = {name: int(width) for name, _, width in table}
    assert kept == result["channels_kept"] and widths == result["channels"]


def test_curves_have_the_numbers_of_the_metrics(written, read):
    rows = [json.loads(line) for line in (written[0] / "metrics.jsonl").read_text().splitlines()]
    page = read(written[0])
    held_out = {
        "held-out loss": "held_out_loss",
        "held-out top1": "held_out_top1",
        "held-out top5": "held_out_top5",
    }
    for stage, more in (("finetune", held_out), ("prompt", {})):
        train = {"epoch": "epoch", "train loss": "train_loss", "train top1": "train_top1"}
        columns = train | more | {"seconds": "seconds"}
        cells, keys = page.table(*columns), columns.values()
        expected = [[row[key] for key in keys] for row in rows if row["stage"] == stage]
        assert len(cells) == len(expected)
        for got, row in zip(cells, expected):
            assert [float(value) for value in got] == pytest.approx(row, abs=0.005)


def test_errors_are_those_of_the_confusion_matrix(written, read):
    counts = read_tensors(written[0] / "evaluation.safetensors")["confusion"].tolist()
    page = read(written[0])
    accuracy = {f"class {c}": 100 * row[c] / sum(row) for c, row in enumerate(counts)}
    lowest = page.table("class", "top-1 (%)", "images", "most often taken for")
    assert [float(row[1]) for row in lowest] == pytest.approx(
        sorted(accuracy.values())[: len(lowest)], abs=0.005
    )
    for name, top1, images, other in lowest:
        row = counts[int(name.split()[1])]
        assert float(top1) == pytest.approx(accuracy[name], abs=0.005) and int(images) == sum(row)
        taken, count = re.fullmatch(r"class (\d) \((\d+) images\)", other).groups()
        most = max(n for c, n in enumerate(row) if f"class {c}" != name)
        assert int(count) == row[int(taken)] == most
    pairs = page.table("true", "taken for", "images")
    wrong = torch.tensor(counts)[~torch.eye(len(counts), dtype=torch.bool)]
    wrong = sorted(wrong.tolist(), reverse=True)
    assert [int(said.split(" of ")[0]) for _, _, said in pairs] == wrong[: len(pairs)]
    for true, other, said in pairs:
        row = counts[int(true.split()[1])]
        assert said == f"{row[int(other.split()[1])]} of {sum(row)}"


def test_samples_have_their_classes(written, read):
    page = read(written[0])
    alts = [image["alt"] for image in page.all("img") if image["alt"].startswith("A test image")]
    assert alts == [
        f"A test image of class {n}, {said}"
        for n, said in enumerate(["recognised", "recognised", "taken for class 7", "recognised"])
    ]
    model = pt.load_pruned(written[0])
    saved = read_tensors(written[0] / "evaluation.safetensors")["samples"]
    for number, pixels in enumerate(saved, 1):
        with Image.open(written[0] / "report" / f"sample_{number:02}.png") as image:
            shown = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        seen = (pixels / 255 + model.network.prompt.frame().detach()).clamp(0, 1)
        assert (shown / 255 - seen).abs().max() < 0.51 / 255


def test_all_that_is_needed_to_get_it_again_is_there(written, read):
    folder, page = written[0], read(written[0])
    config = json.loads((folder / "config.json").read_text())
    hashes = page.facts("model.safetensors")
    assert hashes == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.suffix in (".json", ".jsonl", ".safetensors")
    }
    assert page.facts("torch") == config["versions"] and config["fingerprint"] in page.text
    settings = page.facts("recipe")
    assert settings == {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in config.items()
        if name != "versions"
    }
    assert "pass-transfer adapt --hypernet zoo/small" in page.text
    assert "pass-transfer eval 'runs/my photos'" in page.text


def test_the_page_needs_nothing_else(written, read):
    html, page = (written[0] / "report.html").read_text(), read(written[0])
    assert not re.search(r"https?://", html) and not page.all("script")
    for attributes in (attributes for _, attributes in page.elements):
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    images = page.all("img")
    assert len(images) == 7 + 4 and all(image["alt"] for image in images)
    media = [source["media"] for source in page.all("source")]
    assert media == 7 * ["(prefers-color-scheme: dark)"]
    assert "viewport" in {meta.get("name") for meta in page.all("meta")}


def test_the_same_pictures_lie_beside_it(written):
    folder, found = written
    assert found["run"] == str(folder) and found["report"] == str(folder / "report.html")
    named = {
        "accuracy",
        "channels",
        "latency",
        "finetuning",
        "prompt_tuning",
        "prompt",
        "confusion",
        *(f"sample_{n:02}" for n in range(1, 5)),
    }
    files = list((folder / "report").iterdir())
    assert {path.stem for path in files} == named
    assert sorted(found["pictures"]) == sorted(map(str, files))
    for path in found["pictures"]:
        with Image.open(path) as image:
            image.verify()
            assert image.format == "PNG" and min(image.size) >= 32


def test_written_again_it_is_the_same(written):
    before = content(written[0])
    pt.write_report(written[0])
    assert content(written[0]) == before


def test_names_cannot_break_the_page(finished, read):
    model = pt.load_pruned(finished)
    model.class_names = tuple(NAMES)
    model.save(finished)
    edit(finished / "result.json", task="<b>photos</b>", run="runs/<i>")
    pt.write_report(finished)
    page = read(finished)
    assert page.errors == [] and not page.all("script") and not page.all("b") and not page.all("i")
    assert all("onerror" not in image for image in page.all("img")) and len(page.all("img")) == 11
    rows = sum(page.tables, [])
    assert {NAMES[0], NAMES[1]} & set(sum(rows, []))
    assert "<b>photos</b>" in page.text and "'runs/<i>'" in page.text
    pairs = page.table("true", "taken for", "images")
    true_or_taken = {true for true, _, _ in pairs} | {taken for _, taken, _ in pairs}
    assert true_or_taken <= {name.encode("utf-8", "replace").decode() for name in NAMES}


def test_without_an_evaluation_the_rest_is_shown(finished, read):
    (finished / "evaluation.safetensors").unlink()
    found = pt.write_report(finished)
    page = read(finished)
    assert "saved no evaluation.safetensors, so there is no confusion" in page.text
    assert len(page.all("img")) == 6
    assert not any("confusion" in path or "sample" in path for path in found["pictures"])
    assert "evaluation.safetensors" not in page.facts("model.json")


def test_a_method_without_a_prompt_shows_none(finished, read):
    model = pt.load_pruned(finished)
    model.network.prompt = None
    model.save(finished)
    (finished / "prompt.safetensors").unlink()
    config = json.loads((finished / "config.json").read_text())
    settings = {"uniform": False, "coupling": "grouped", "images": 512}
    edit(finished / "config.json", **config | {"method": "taylor", "settings": settings})
    edit(finished / "result.json", method="taylor", top1_without_prompt=None)
    found, page = pt.write_report(finished), read(finished)
    assert "prompt.png" not in [path.rsplit("/", 1)[-1] for path in found["pictures"]]
    assert "--method taylor" in page.text and "--set images=512" in page.text
    assert "scores.safetensors" in page.facts("model.json")


def test_a_network_that_errs_never_has_no_confusion(finished, read):
    tensors = read_tensors(finished / "evaluation.safetensors")
    right = torch.diag(tensors["confusion"].sum(1))
    write_tensors(finished / "evaluation.safetensors", tensors | {"confusion": right})
    pt.write_report(finished)
    assert "Every test image was recognised" in read(finished).text
    assert not (finished / "report" / "confusion.png").exists()


def test_the_dense_network_is_shown_where_it_was_trained(finished, read):
    pt.write_report(finished)
    assert "was not fine-tuned" in read(finished).text
    edit(finished / "result.json", dense_top1=73.19, dense_seconds=100.0)
    with open(finished / "metrics.jsonl", "a") as file:
        row = {
            "train_loss": 1.5,
            "train_top1": 50.25,
            "held_out_top1": 71.75,
            "held_out_top5": 90.0,
            "held_out_loss": 1.25,
        }
        file.write(json.dumps({"stage": "dense", "epoch": 1} | row | {"seconds": 9.0}) + "\n")
    pt.write_report(finished)
    page = read(finished)
    top1 = json.loads((finished / "result.json").read_text())["top1"]
    assert page.table("", "small", "dense", "small / dense")[0] == [
        "top-1 (%)",
        f"{top1:.2f}",
        "73.19",
        f"{top1 - 73.19:+.2f}",
    ]
    alts = " ".join(image["alt"] for image in page.all("img"))
    assert "dense: 73.19 %" in alts and "71.75 % on held-out images" in alts
    assert "not trained" not in page.text and "was not fine-tuned" not in page.text
    assert "--with-dense" in page.text


def without(path, name):
    content = json.loads(path.read_text())
    del content[name]
    path.write_text(json.dumps(content))


DAMAGE = {
    "no folder": (lambda run: [path.unlink() for path in run.iterdir()], RunError, "no run folder"),
    "another recipe": (
        lambda run: edit(run / "config.json", recipe="search"),
        RunError,
        "no run folder",
    ),
    "not finished": (lambda run: (run / "result.json").unlink(), RunError, "resume=True"),
    "half a result": (
        lambda run: (run / "result.json").write_text((run / "result.json").read_text()[:200]),
        StorageError,
        "result.json is not valid JSON",
    ),
    "a result that is a list": (
        lambda run: (run / "result.json").write_text("[]"),
        StorageError,
        "holds no JSON object",
    ),
    "no top1": (lambda run: without(run / "result.json", "top1"), StorageError, "top1"),
    "a top1 in words": (
        lambda run: edit(run / "result.json", top1="high"),
        StorageError,
        "top1 is 'high'; it is a number from 0 to 100",
    ),
    "no MACs": (
        lambda run: edit(run / "result.json", dense_macs=0),
        StorageError,
        "dense_macs is 0",
    ),
    "an altered model": (
        lambda run: (run / "model.safetensors").write_bytes(
            b"?" + (run / "model.safetensors").read_bytes()[1:]
        ),
        StorageError,
        "model.safetensors",
    ),
    "another prompt": (
        lambda run: write_tensors(run / "prompt.safetensors", {"values": torch.zeros(3, 8, 8)}),
        StorageError,
        "prompt.safetensors",
    ),
    "half an evaluation": (
        lambda run: (run / "evaluation.safetensors").write_bytes(
            (run / "evaluation.safetensors").read_bytes()[:500]
        ),
        StorageError,
        "evaluation.safetensors",
    ),
    "other classes": (
        lambda run: write_tensors(
            run / "evaluation.safetensors", {"confusion": torch.zeros(3, 3, dtype=torch.int64)}
        ),
        StorageError,
        "evaluation.safetensors",
    ),
    "another run's evaluation": (
        lambda run: edit(run / "result.json", images=401),
        StorageError,
        "401",
    ),
    "metrics without a stage": (
        lambda run: (run / "metrics.jsonl").write_text('{"epoch": 1}\n'),
        StorageError,
        "line 1: the field stage is missing",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_no_finished_run_or_damaged_is_refused_and_nothing_is_written(finished, case):
    damage, kind, said = DAMAGE[case]
    damage(finished)
    before = content(finished)
    with pytest.raises(kind, match=re.escape(said)):
        pt.write_report(finished)
    assert content(finished) == before and not (finished / "report").exists()


@pytest.mark.parametrize("obstacle", ["report", "report.html"])
def test_what_cannot_be_written_is_told_and_leaves_no_part(finished, obstacle):
    if obstacle == "report":
        (finished / "report").write_text("mine")
    else:
        (finished / "report.html").mkdir()
    with pytest.raises(StorageError, match=f"cannot (create|write).*{re.escape(obstacle)}"):
        pt.write_report(finished)
    assert not [path for path in finished.rglob("*") if path.name.endswith(".part")]
