"""The study as a user runs it: made, stopped, shared, resumed, reported."""

import csv
import dataclasses
import json
import random
import shutil
import signal
import statistics
import time

import pytest
import torch

from pass_transfer.budgets import Budget
from pass_transfer.errors import RunError
from pass_transfer.files import read_tensors
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import CostTable, count_macs, find_groups
from pass_transfer.recipes import pipeline
from pass_transfer.scoring.method import Context
from pass_transfer.scoring.registry import METHODS, choose_method
from pass_transfer.study import load_study, read_cells, rows, run_study
from pass_transfer.study.packing import packed, unpacked
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime
from pass_transfer.zoo.entry import load_hypernet

TINY = {
    "prompt": {"steps": 1},
    "pass_from_scratch": {"steps": 1, "images": 64},
    "learned_score": {"steps": 1, "start": "l1"},
    "vpns": {"steps": 1, "start": "none"},
    "taylor": {"images": 64},
    "uniform_taylor": {"images": 64},
    "taylor_l1": {"images": 64},
    "source_selection": {"images": 64},
    "selection": {"images": 64},
    "abc": {"sources": 2, "cycles": 1},
    "chip": {"images": 8},
    "variance": {"images": 64},
    "fused": {"images": 64},
    "nearest_tasks": {"images": 40, "tasks": 2, "nearest": 1},
    **{name: {"steps": 1} for name in ("slim", "group_l1_sparse", "growreg", "depgraph")},
}


@pytest.fixture
def study(entry, tmp_path):
    """Fields -> path of a study file on a few digits with the small entry."""

    def write(methods=("random", "group_l1"), budgets=(0.5, 0.3), seeds=(0,), **more):
        fields = {
            "hypernet": str(entry),
            "tasks": ["digits"],
            "methods": {name: TINY.get(name, {}) for name in methods},
            "budgets": list(budgets),
            "seeds": list(seeds),
            "batch_size": 32,
            "train_images": 64,
            "reconstruct": False,
            "out": str(tmp_path / "cells"),
        } | more
        path = tmp_path / "study.yaml"
        path.write_text(json.dumps(fields))  # JSON is YAML
        return path

    return write


def cells_of(path):
    return {cell["method"] + str(cell["budget"]): cell for cell in read_cells(load_study(path))}


def with_fields(path, **fields):
    """The study file with other fields."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return path


def made(outcome):
    """The counts that a study run with --json prints."""
    code, out, err = outcome
    assert code == 0, err
    return json.loads(out)


def test_every_method_gives_a_network_of_equal_macs(study, call, entry):
    path = study(list(METHODS), budgets=[0.4])
    found = made(call("study", "run", path, "--json", "--device", "cpu"))
    assert found == {"done": len(METHODS), "failed": 0, "elsewhere": 0}
    hypernet, cells = load_hypernet(entry), cells_of(path)
    for name, cell in cells.items():
        masks = unpacked(cell["masks"], cell["channels"])
        assert masks.kept == cell["kept"]
        assert count_macs(hypernet.network(masks, classes=10), 32) == cell["macs"]
        assert 0.4 * 0.99 <= cell["macs_share"] <= 0.4, name
        assert {"top1", "search_seconds", "seconds"} <= set(cell)
        assert {"config", "commit", "versions", "machine"} <= set(cell)
    unlike = ["random", "group_l1", "group_l2", "uniform_l1", "taylor", "taylor_l1"]
    unlike += ["slim", "depgraph", "abc"]
    assert len({json.dumps(cells[f"{name}0.4"]["masks"]) for name in unlike}) == len(unlike)


@pytest.mark.parametrize(
    "name, off, on",
    [
        ("slim", {"reg": 0.0}, {"reg": 0.5}),
        ("group_l1_sparse", {"reg": 0.0}, {"reg": 0.5}),
        ("depgraph", {"reg": 0.0}, {"reg": 0.5}),
        ("growreg", {"reg": 0.0, "growth": 0.0}, {"reg": 0.0, "growth": 0.5, "every": 2}),
    ],
)
def test_sparse_training_sets_the_least_channels_apart(study, entry, name, off, on):
    dense, runtime = load_hypernet(entry).dense, choose_runtime("cpu", "no")
    context = Context(
        dense, dense.groups, load_task("digits", 32).with_train(64), runtime, batch_size=16
    )

    def apart(more):
        chosen = choose_method(name, {"steps": 12, "lr": 0.05, **more})
        scores = chosen.score(dataclasses.replace(context, settings=chosen.settings)).scores
        return torch.stack([values.min() / values.mean() for values in scores.values()]).mean()

    assert apart(on) < 0.9 * apart(off)


def test_ablations_are_variants_under_names_of_their_own(study, call, tmp_path):
    own = {"method": "pass_from_scratch", "steps": 2, "images": 64}
    variants = {
        "whole": own,
        "deaf": own | {"uses_prompt": False, "image_share": 0.0},
        "blind": own | {"reads_weights": False},
        "mlp": own | {"core": "mlp"},
        "wide": own | {"prompt": "expansive", "pad": 6},
        "kept": own | {"gradient": "kept"},
        "margin": own | {"gradient": "margin"},
        "bare": own | {"prior": "none"},
        "l1": {"method": "group_l1"},
        "even": {"method": "group_l1", "uniform": True},
    }
    path = with_fields(study(methods=()), methods=variants, budgets=[0.4])
    assert made(call("study", "run", path, "--json", "--device", "cpu"))["done"] == len(variants)
    cells = cells_of(path)
    even = cells["even0.4"]
    pairs = zip(even["kept"].values(), even["channels"].values())
    assert len({round(kept / width, 1) for kept, width in pairs}) == 1
    masks = {name: json.dumps(cell["masks"]) for name, cell in cells.items()}
    assert len(set(masks.values())) == len(variants)
    code, text, _ = call("study", "report", path)
    assert code == 0 and "deaf" in text


def test_every_convolution_may_have_a_mask_of_its_own(study, call, entry):
    own = {"method": "pass_from_scratch", "steps": 1, "images": 64}
    variants = {
        "apart": own | {"coupling": "independent"},
        "together": own,
        "taylor_apart": {"method": "taylor", "images": 64, "coupling": "independent"},
        "l1_apart": {"method": "group_l1", "coupling": "independent"},
    }
    path = study(methods=(), reconstruct=True)
    with_fields(path, methods=variants, budgets=[0.4])
    assert made(call("study", "run", path, "--json", "--device", "cpu"))["done"] == len(variants)
    cells, backbone = cells_of(path), load_hypernet(entry).backbone()
    groups = find_groups(backbone, 32, "independent")
    table = CostTable(backbone, groups, 32).with_classes(10)
    for name in ("apart", "taylor_apart", "l1_apart"):
        cell = cells[f"{name}0.4"]
        assert cell["channels"] == {group: part.width for group, part in groups.items()}
        assert cell["macs"] == table.macs(cell["kept"])
        assert 0.4 * 0.99 <= cell["macs_share"] <= 0.4
    assert call("study", "report", path)[0] == 0, "pictures show what can be compared"


def test_a_prompt_may_stay_in_the_image(study, call):
    search = {"method": "prompt", "steps": 1, "prior": "source"}
    variants = {"worn": search, "shed": search | {"deploy_prompt": False}}
    path = with_fields(study(methods=()), methods=variants, budgets=[0.5, 0.4])
    code, _, err = call("study", "run", path, "--device", "cpu")
    assert code == 0, err
    cells = cells_of(path)
    worn, shed = cells["worn0.5"], cells["shed0.5"]
    assert worn["masks"] == shed["masks"], "the same search"
    assert "top1_without_prompt" in worn and "top1_without_prompt" not in shed
    seconds = cells["worn0.4"]["search_seconds"]
    assert seconds == worn["search_seconds"], "kept beside the cells, with its prompt"


def test_a_prompt_may_correct_what_is_measured_on_the_task(study, call, refused):
    own = {"method": "prompt", "steps": 0}
    variants = {"mask": {}, "source": own | {"prior": "source"}, "task": own}
    path = with_fields(study(methods=()), methods=variants, budgets=[0.4])
    code, _, err = call("study", "run", path, "--device", "cpu")
    assert code == 0, err
    masks = {name: cell["masks"] for name, cell in cells_of(path).items()}
    assert masks["source0.4"] == masks["mask0.4"] != masks["task0.4"]
    with_fields(path, methods={"task": own | {"prior": "both"}})
    assert "prior is 'both'" in refused("study", "run", path, code=2)
    with_fields(path, methods={"task": own | {"low": 0.9, "high": 0.5}})
    assert "low and high" in refused("study", "run", path, code=2)


def test_methods_under_their_old_names_make_the_cells_that_they_made(study, call):
    old = {"transfer_prompt": {"steps": 1}, "transfer_mask": {}}
    old |= {"forward_selection": {"images": 64}}
    bare = {"deploy_prompt": False}
    new = {"a_prompt": {"method": "prompt", "steps": 1, "prior": "source"} | bare}
    new |= {"a_mask": {"method": "mask"} | bare, "selection": {"images": 64}}
    path = with_fields(study(methods=()), methods=old | new, budgets=[0.4])
    assert made(call("study", "run", path, "--json", "--device", "cpu"))["done"] == 6
    cells = cells_of(path)
    for before, now in zip(old, new):
        one, other = cells[f"{before}0.4"], cells[f"{now}0.4"]
        assert one["config"]["settings"] == other["config"]["settings"]
        assert (one["masks"], one["top1"]) == (other["masks"], other["top1"])
    assert cells["transfer_prompt0.4"]["config"]["settings"]["method"] == "prompt"


def test_what_is_there_is_kept_and_one_ranking_serves_all_budgets(study, call, tmp_path):
    assert call("study", "run", study(["prompt"], budgets=[0.5]))[0] == 0
    file = tmp_path / "cells" / "digits-0.5-prompt-0.json"
    first = file.read_bytes()
    path = study(["prompt"], budgets=[0.5, 0.3])
    code, _, err = call("study", "run", path)
    assert code == 0 and "1 of 2 cells to make" in err and "prompt 1/1" not in err
    assert file.read_bytes() == first
    half, less = cells_of(path)["prompt0.5"], cells_of(path)["prompt0.3"]
    assert half["search_seconds"] == less["search_seconds"]
    scores = read_tensors(tmp_path / "cells" / "searches" / "digits-0-prompt-0.safetensors")
    scores.pop("prompt.values")  # which is deployed
    entry = load_hypernet(load_study(path).hypernet)
    cuts = []
    for cell in (half, less):
        network = entry.cut_network(None, 10, "cpu")
        cuts.append(Budget(macs=cell["budget"], round_to=1).cut(scores, network))
        filled = unpacked(cell["masks"], cell["channels"])
        assert cuts[-1].issubset(filled), "one ranking, filled up"
    assert cuts[1].issubset(cuts[0])


def test_cells_of_other_settings_are_not_mixed_in(study, call, refused):
    assert call("study", "run", study(["random"], budgets=[0.5]))[0] == 0
    why = "made with other settings than this study's"
    for seeds in ([0], [0, 1]):
        changed = study(["random"], budgets=[0.5], seeds=seeds, epochs=2)
        for verb in ("run", "report"):
            assert f"{why} (epochs was 1, now 2)" in refused("study", verb, changed)
    rounded = study(["random"], budgets=[0.5], round_to=8)
    assert f"{why} (round_to was 1, now 8)" in refused("study", "run", rounded)


def test_cells_of_another_entry_or_precision_are_not_mixed_in(study, call, refused, tmp_path):
    path = study(["random"], budgets=[0.5])
    run = ("study", "run", path, "--device", "cpu", "--precision")
    assert call(*run, "no")[0] == 0
    assert "made with another precision (no, now bf16)" in refused(*run, "bf16")
    file = tmp_path / "cells" / "digits-0.5-random-0.json"
    made_with = json.loads(file.read_text())["made_with"]
    with_fields(file, made_with=made_with | {"entry": "0"})
    assert "made with another entry" in refused(*run, "no")


def test_cells_of_another_number_of_threads_are_not_mixed_in(study, monkeypatch):
    path = load_study(study(["random"], budgets=[0.5]))
    run_study(path, device="cpu", precision="no")
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    with pytest.raises(RunError, match=f"made with another threads .*now {threads + 1}"):
        run_study(path, device="cpu", precision="no")


def test_cells_of_other_images_are_not_mixed_in(study, call, refused, photos, tmp_path):
    task = f"folder:{photos(tmp_path / 'photos', count=40)}"
    path = study(["random"], budgets=[0.5], tasks=[task])
    assert call("study", "run", path)[0] == 0
    assert call("study", "run", path)[0] == 0
    picture = tmp_path / "photos" / "cat" / "3.png"
    picture.write_bytes((tmp_path / "photos" / "dog" / "3.png").read_bytes())
    wider = study(["random", "group_l1"], budgets=[0.5], tasks=[task])
    assert "made with another set of images" in refused("study", "run", wider)


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda note: note["config"].pop("train_images"), "train_images was not given, now 64"),
        (lambda note: note.update(config=5), "is no cell of a study"),
        (lambda note: note.pop("top1"), "is no cell of a study"),
        (
            lambda note: note["made_with"].update(colour="red"),
            "made with another colour (red, now not given)",
        ),
    ],
)
def test_cells_that_were_altered_are_refused_by_name(study, call, refused, tmp_path, change, why):
    path, file = study(["random"], budgets=[0.5]), tmp_path / "cells" / "digits-0.5-random-0.json"
    assert call("study", "run", path)[0] == 0
    note = json.loads(file.read_text())
    change(note)
    file.write_text(json.dumps(note))
    said = refused("study", "run", path)
    assert f"{file} " in said and why in said
    assert "another folder for the cells (the study's `out`), or remove that file" in said


def test_a_study_can_be_made_again_in_another_folder(study, call, tmp_path):
    path = study(["random"], budgets=[0.5])
    assert call("study", "run", path)[0] == 0
    assert call("study", "run", path, "--precision", "bf16", "--cells", tmp_path / "again")[0] == 0
    assert call("study", "report", path, "--cells", tmp_path / "again")[0] == 0
    assert (tmp_path / "again" / "report" / "report.html").exists()
    assert len(list((tmp_path / "again").glob("*.json"))) == 1


def test_a_report_shows_what_the_study_asks_for_alone(study, call):
    assert call("study", "run", study(["random", "group_l1"], budgets=[0.5, 0.4]))[0] == 0
    code, text, _ = call("study", "report", study(["group_l1"], budgets=[0.4]))
    assert code == 0 and "random" not in text and "50%" not in text and "group_l1" in text


def test_a_budget_below_every_mask_is_refused_before_any_search(study, refused, tmp_path):
    assert "cannot be met" in refused("study", "run", study(["random"], budgets=[0.5, 0.001]))
    assert not list((tmp_path / "cells").glob("*.json"))


def test_ctrl_c_says_how_to_continue(study, call, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt("interrupted in finetune, epoch 1")

    monkeypatch.setattr(pipeline, "train", stopped)
    code, _, err = call("study", "run", study(["random"]))
    assert code == 130
    assert "interrupted in finetune, epoch 1; finished cells are kept" in err
    assert "continue with the same command" in err


def test_a_cell_that_fails_is_in_the_table_and_can_be_tried_again(
    study, call, monkeypatch, tmp_path
):
    def broken(*_):
        raise RuntimeError("out of memory: tried to allocate 5 GiB\nand more")

    path = study(["random", "group_l1"], budgets=[0.5])
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "train", broken)
        code, out, err = call("study", "run", path, "--json")
    assert code == 0 and json.loads(out) == {"done": 0, "failed": 2, "elsewhere": 0}, err
    assert call("study", "run", path, "--json")[1] == out
    code, text, _ = call("study", "report", path)
    why = "RuntimeError: out of memory: tried to allocate 5 GiB"
    assert code == 0 and f"random failed, seed 0: {why}" in text
    assert json.loads(call("study", "run", path, "--json", "--retry-failed")[1])["done"] == 2


@pytest.mark.parametrize(
    "error",
    [ValueError("Expected more than 1 value per channel"), OSError("gone"), KeyError("layer")],
)
def test_whatever_fails_the_other_cells_are_made(study, call, monkeypatch, error):
    real, calls = pipeline.train, []

    def once(*arguments):
        calls.append(0)
        if len(calls) == 1:
            raise error
        return real(*arguments)

    monkeypatch.setattr(pipeline, "train", once)
    found = made(call("study", "run", study(["random", "group_l1"], budgets=[0.5]), "--json"))
    assert found == {"done": 1, "failed": 1, "elsewhere": 0}


def test_a_search_without_numbers_fails_and_is_made_anew(study, call, monkeypatch, tmp_path):
    def no_numbers(context):
        return {name: torch.full((g.width,), torch.nan) for name, g in context.groups.items()}

    path = study(["group_l1"], budgets=[0.5])
    with monkeypatch.context() as patch:
        broken = dataclasses.replace(METHODS["group_l1"], scores=no_numbers)
        patch.setitem(METHODS, "group_l1", broken)
        assert json.loads(call("study", "run", path, "--json")[1])["failed"] == 1
    note = json.loads((tmp_path / "cells" / "digits-0.5-group_l1-0.json").read_text())
    assert "not finite" in note["failed"]
    assert json.loads(call("study", "run", path, "--json", "--retry-failed")[1])["done"] == 1


def test_a_search_that_was_altered_is_made_anew(study, call, tmp_path):
    path = study(["random"], budgets=[0.5])
    assert call("study", "run", path)[0] == 0
    masks = cells_of(path)["random0.5"]["masks"]
    tensors = tmp_path / "cells" / "searches" / "digits-0-random-0.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"!")
    (tmp_path / "cells" / "digits-0.5-random-0.json").unlink()
    assert call("study", "run", path)[0] == 0 and cells_of(path)["random0.5"]["masks"] == masks


def test_tables_and_pictures_are_those_of_the_cells(study, call, tmp_path):
    path = study(["random", "group_l1"], budgets=[0.5, 0.3], seeds=[0, 1])
    assert call("study", "run", path)[0] == 0
    code, text, _ = call("study", "report", path, "--out", tmp_path / "out")
    assert code == 0 and (tmp_path / "out" / "table.md").read_text().strip() == text.strip()
    cells = read_cells(load_study(path))
    page = (tmp_path / "out" / "report.html").read_text()
    assert text.splitlines()[0] in page and "<script" not in page and page.count("<picture>") == 6
    for row in csv.DictReader((tmp_path / "out" / "table.csv").open()):
        of_row = (row["method"], float(row["budget"]))
        mine = [c["top1"] for c in cells if (c["method"], c["budget"]) == of_row]
        mean, deviation = statistics.mean(mine), statistics.stdev(mine)
        assert len(mine) == 2
        assert float(row["top1"]) == pytest.approx(mean, abs=1e-9)
        assert float(row["top1_deviation"]) == pytest.approx(deviation, abs=1e-9)
        assert f"| {row['method']} | {mean:.2f} ± {deviation:.2f} |" in text
    pictures = {p.name for p in (tmp_path / "out").glob("*.png")}
    kinds = ("accuracy", "search", "0.5-channels", "0.5-shared", "0.3-channels", "0.3-shared")
    assert pictures == {f"digits-{kind}.png" for kind in kinds}


def test_a_method_is_compared_with_the_others_seed_by_seed(study, call, refused):
    path = study(["random", "group_l1"], budgets=[0.5], seeds=[0, 1])
    assert call("study", "run", path)[0] == 0
    code, text, _ = call("study", "report", path, "--against", "group_l1")
    top1 = {(cell["method"], cell["seed"]): cell["top1"] for cell in read_cells(load_study(path))}
    apart = [top1["group_l1", seed] - top1["random", seed] for seed in (0, 1)]
    assert code == 0 and "| group_l1 above it by |" in text

    def line_of(method):
        return next(line for line in text.splitlines() if line.startswith(f"| {method}"))

    assert f"| {statistics.mean(apart):+.2f} ± {statistics.stdev(apart):.2f} |" in line_of("random")
    assert line_of("group_l1").endswith("|  |")
    said = refused("study", "report", path, "--against", "slim", code=2)
    assert "no method 'slim'; it has random, group_l1" in said


def test_a_dry_run_trains_nothing_and_says_how_long(study, call, tmp_path):
    path = study(["random", "prompt"], budgets=[0.5, 0.3])
    found = made(call("study", "run", path, "--dry-run", "--json"))
    assert (found["cells"], found["missing"]) == (4, 4)
    assert found["seconds"] > 0 and not (tmp_path / "cells").exists()
    assert "4 of 4 cells are missing" in call("study", "run", path, "--dry-run")[1]


def test_a_report_without_cells_is_refused(study, refused):
    assert "holds no cells" in refused("study", "report", study())


def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_table(
    study, call, shell, tmp_path
):
    path = study(["random", "prompt"], budgets=[0.5, 0.3], seeds=[0])

    def results():
        masks = {name: cell["masks"] for name, cell in cells_of(path).items()}
        return table_of(call("study", "report", path)[1]), masks

    assert call("study", "run", path)[0] == 0
    whole = results()
    shutil.rmtree(tmp_path / "cells")
    draw, struck = random.Random(5), 0
    while struck < 5:
        process = shell("study", "run", path)
        watched(process, draw.choice(("cells to make", "prompt 1/1", "finetune 1/1", "top-1")))
        time.sleep(draw.uniform(0, 0.5))
        struck += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        cells = list((tmp_path / "cells").glob("*.json"))
        if len(cells) == 4:  # the last one was quick: the same again
            cells[0].unlink()
    assert shell("study", "run", path).wait() == 0
    assert results() == whole


def table_of(text):
    """A report's table without what the clock decides."""
    table = []
    for line in text.splitlines():
        values = line.split("|")
        table.append([*values[:6], *values[8:]])
    return table


def watched(process, words):
    """Waits until a process says something, or ends."""
    for line in process.stderr:
        if words in line:
            return


def test_processes_share_the_work(study, shell, tmp_path):
    path = study(["random", "group_l1", "group_l2"], budgets=[0.5])
    both = [shell("study", "run", path), shell("study", "run", path)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    lines = [line for line in "\n".join(said).splitlines() if line.startswith("digits-")]
    names = [line.split(":")[0] for line in lines if "top-1" in line]
    expected = [f"digits-0.5-{method}-0" for method in ("group_l1", "group_l2", "random")]
    assert sorted(names) == expected
    assert len(rows(read_cells(load_study(path)))) == 3


def test_masks_survive_packing(random_masks, groups):
    for number in range(10):
        masks = random_masks(groups, number, 0.3)
        assert unpacked(packed(masks), masks.widths) == masks
    one = ChannelMasks({"a": torch.tensor([False, False, True, False, True])})
    assert packed(one) == {"a": "05"}
