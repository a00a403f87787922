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

from pass_transfer.budgets.ranking import select
from pass_transfer.files import read_tensors
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import CostTable, count_macs, find_groups
from pass_transfer.scoring.registry import METHODS, Context, method_of
from pass_transfer.study import load_study, read_cells, rows
from pass_transfer.study.cell import packed, unpacked
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime
from pass_transfer.zoo.entry import load_hypernet

TINY = {
    "transfer_prompt": {"steps": 1},
    "pass_from_scratch": {"steps": 1, "images": 64},
    "learned_score": {"steps": 1, "start": "l1"},
    "vpns": {"steps": 1, "start": "none"},
    "taylor": {"images": 64},
    "uniform_taylor": {"images": 64},
    "taylor_l1": {"images": 64},
    "source_selection": {"images": 64},
    "forward_selection": {"images": 64},
    "abc": {"sources": 2, "cycles": 1},
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


def test_every_method_gives_a_network_of_equal_macs(study, call, entry):
    path = study(list(METHODS), budgets=[0.4])
    code, out, err = call("study", "run", path, "--json", "--device", "cpu")
    assert code == 0 and json.loads(out) == {"done": len(METHODS), "failed": 0, "elsewhere": 0}, err
    hypernet = load_hypernet(entry)
    for name, cell in cells_of(path).items():
        masks = unpacked(cell["masks"], cell["channels"])
        assert (
            masks.kept == cell["kept"]
            and count_macs(hypernet.network(masks, classes=10), 32) == cell["macs"]
        )
        assert 0.4 * 0.99 <= cell["macs_share"] <= 0.4, name
        assert {
            "top1",
            "search_seconds",
            "seconds",
            "config",
            "commit",
            "versions",
            "machine",
        } <= set(cell)
    unlike = (
        "random",
        "group_l1",
        "group_l2",
        "uniform_l1",
        "taylor",
        "taylor_l1",
        "slim",
        "depgraph",
        "abc",
    )
    assert len({json.dumps(cells_of(path)[f"{name}0.4"]["masks"]) for name in unlike}) == len(
        unlike
    )


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
    hypernet, task, runtime = (
        load_hypernet(entry),
        load_task("digits", 32).with_train(64),
        choose_runtime("cpu", "no"),
    )
    apart = []
    for more in (off, on):
        method, settings = method_of(name, {"steps": 12, "lr": 0.05, **more})
        scores = method.scores(
            Context(hypernet, task, runtime, 0, 16, 0.5, settings, hypernet.groups)
        )
        apart.append(
            torch.stack([values.min() / values.mean() for values in scores.values()]).mean()
        )
    assert apart[1] < 0.9 * apart[0]


def test_ablations_are_variants_under_names_of_their_own(study, call, tmp_path):
    own = {"method": "pass_from_scratch", "steps": 2, "images": 64}
    variants = {
        "whole": own,
        "deaf": own | {"hears_prompt": False, "image_share": 0.0},
        "blind": own | {"reads_weights": False},
        "mlp": own | {"core": "mlp"},
        "wide": own | {"prompt": "expansive", "pad": 6},
        "kept": own | {"gradient": "kept"},
        "margin": own | {"gradient": "margin"},
        "bare": own | {"prior": "none"},
        "l1": {"method": "group_l1"},
        "even": {"method": "group_l1", "uniform": True},
    }
    path = study(methods=())
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"methods": variants, "budgets": [0.4]})
    )
    code, out, err = call("study", "run", path, "--json", "--device", "cpu")
    assert code == 0 and json.loads(out)["done"] == len(variants), err
    cells = cells_of(path)
    shares = {
        round(kept / width, 1)
        for kept, width in zip(
            cells["even0.4"]["kept"].values(), cells["even0.4"]["channels"].values()
        )
    }
    assert len(shares) == 1
    masks = {name: json.dumps(cell["masks"]) for name, cell in cells.items()}
    assert len(set(masks.values())) == len(variants)
    assert call("study", "report", path)[0] == 0 and "deaf" in call("study", "report", path)[1]


def test_every_convolution_may_have_a_mask_of_its_own(study, call, entry):
    variants = {
        "apart": {
            "method": "pass_from_scratch",
            "steps": 1,
            "images": 64,
            "coupling": "independent",
        },
        "together": {"method": "pass_from_scratch", "steps": 1, "images": 64},
        "taylor_apart": {"method": "taylor", "images": 64, "coupling": "independent"},
        "l1_apart": {"method": "group_l1", "coupling": "independent"},
    }
    path = study(methods=())
    path.write_text(
        json.dumps(
            json.loads(path.read_text())
            | {"methods": variants, "budgets": [0.4], "reconstruct": True}
        )
    )
    code, out, err = call("study", "run", path, "--json", "--device", "cpu")
    assert code == 0 and json.loads(out)["done"] == len(variants), err
    cells, backbone = cells_of(path), load_hypernet(entry).backbone()
    groups = find_groups(backbone, 32, "independent")
    for name in ("apart", "taylor_apart", "l1_apart"):
        cell = cells[f"{name}0.4"]
        assert cell["channels"] == {group: part.width for group, part in groups.items()}
        assert (
            cell["macs"] == CostTable(backbone, groups, 32).with_classes(10).macs(cell["kept"])
            and 0.4 * 0.99 <= cell["macs_share"] <= 0.4
        )
    assert call("study", "report", path)[0] == 0, "pictures show what can be compared"


def test_a_prompt_may_stay_in_the_image(study, call):
    search = {"method": "transfer_prompt", "steps": 1}
    path = study(methods=())
    path.write_text(
        json.dumps(
            json.loads(path.read_text())
            | {
                "methods": {"worn": search | {"deploy_prompt": True}, "shed": search},
                "budgets": [0.5, 0.4],
            }
        )
    )
    code, _, err = call("study", "run", path, "--device", "cpu")
    assert code == 0, err
    cells = cells_of(path)
    assert cells["worn0.5"]["masks"] == cells["shed0.5"]["masks"], "the same search"
    assert (
        "top1_without_prompt" in cells["worn0.5"] and "top1_without_prompt" not in cells["shed0.5"]
    )
    assert cells["worn0.4"]["search_seconds"] == cells["worn0.5"]["search_seconds"], (
        "kept beside the cells, with its prompt"
    )


def test_a_prompt_may_correct_what_is_measured_on_the_task(study, call, refused):
    own = {"method": "transfer_prompt", "steps": 0}
    path = study(methods=("transfer_mask",))
    fields = json.loads(path.read_text())
    path.write_text(
        json.dumps(
            fields
            | {
                "methods": {"transfer_mask": {}, "source": own, "task": own | {"prior": "task"}},
                "budgets": [0.4],
            }
        )
    )
    code, _, err = call("study", "run", path, "--device", "cpu")
    assert code == 0, err
    cells = cells_of(path)
    assert (
        cells["source0.4"]["masks"]
        == cells["transfer_mask0.4"]["masks"]
        != cells["task0.4"]["masks"]
    )
    path.write_text(json.dumps(fields | {"methods": {"task": own | {"prior": "both"}}}))
    assert "prior is 'both'" in refused("study", "run", path, code=2)
    path.write_text(json.dumps(fields | {"methods": {"task": own | {"low": 0.9, "high": 0.5}}}))
    assert "low and high" in refused("study", "run", path, code=2)


def test_what_is_there_is_kept_and_one_ranking_serves_all_budgets(study, call, tmp_path):
    assert call("study", "run", study(["transfer_prompt"], budgets=[0.5]))[0] == 0
    first = (tmp_path / "cells" / "digits-0.5-transfer_prompt-0.json").read_bytes()
    path = study(["transfer_prompt"], budgets=[0.5, 0.3])
    code, _, err = call("study", "run", path)
    assert code == 0 and "1 of 2 cells to make" in err and "prompt 1/1" not in err
    assert (tmp_path / "cells" / "digits-0.5-transfer_prompt-0.json").read_bytes() == first
    half, less = cells_of(path)["transfer_prompt0.5"], cells_of(path)["transfer_prompt0.3"]
    assert half["search_seconds"] == less["search_seconds"]
    scores, entry = (
        read_tensors(tmp_path / "cells" / "searches" / "digits-0-transfer_prompt-0.safetensors"),
        load_hypernet(load_study(path).hypernet),
    )
    cuts = [
        select(scores, entry.groups, macs=cell["budget"], table=entry.table.with_classes(10))
        for cell in (half, less)
    ]
    assert cuts[1].issubset(cuts[0]) and all(
        cut.issubset(unpacked(cell["masks"], cell["channels"]))
        for cut, cell in zip(cuts, (half, less))
    ), "one ranking, filled up"


def test_cells_of_other_settings_are_not_mixed_in(study, call, refused):
    assert call("study", "run", study(["random"], budgets=[0.5]))[0] == 0
    for changed in (
        study(["random"], budgets=[0.5], epochs=2),
        study(["random"], budgets=[0.5], seeds=[0, 1], epochs=2),
    ):
        for verb in ("run", "report"):
            assert "made with other settings than this study's (epochs was 1, now 2)" in refused(
                "study", verb, changed
            )


def test_cells_of_another_entry_or_precision_are_not_mixed_in(study, call, refused, tmp_path):
    path = study(["random"], budgets=[0.5])
    assert call("study", "run", path, "--device", "cpu", "--precision", "no")[0] == 0
    assert "made with another precision (no, now bf16)" in refused(
        "study", "run", path, "--device", "cpu", "--precision", "bf16"
    )
    file = tmp_path / "cells" / "digits-0.5-random-0.json"
    file.write_text(
        json.dumps(
            json.loads(file.read_text())
            | {"made_with": {"entry": "0", "device": "cpu", "precision": "no"}}
        )
    )
    assert "made with another entry" in refused(
        "study", "run", path, "--device", "cpu", "--precision", "no"
    )


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
    assert f"{file} " in said and why in said and "--cells" in said


def test_a_study_can_be_made_again_in_another_folder(study, call, tmp_path):
    path = study(["random"], budgets=[0.5])
    assert call("study", "run", path)[0] == 0
    assert call("study", "run", path, "--precision", "bf16", "--cells", tmp_path / "again")[0] == 0
    assert call("study", "report", path, "--cells", tmp_path / "again")[0] == 0
    assert (tmp_path / "again" / "report" / "report.html").exists() and len(
        list((tmp_path / "again").glob("*.json"))
    ) == 1


def test_a_report_shows_what_the_study_asks_for_alone(study, call):
    assert call("study", "run", study(["random", "group_l1"], budgets=[0.5, 0.4]))[0] == 0
    code, text, _ = call("study", "report", study(["group_l1"], budgets=[0.4]))
    assert code == 0 and "random" not in text and "50%" not in text and "group_l1" in text


def test_a_budget_below_every_mask_is_refused_before_any_search(study, refused, tmp_path):
    assert "cannot be met" in refused("study", "run", study(["random"], budgets=[0.5, 0.001]))
    assert not list((tmp_path / "cells").glob("*.json"))


def test_ctrl_c_says_how_to_continue(study, call, monkeypatch):
    from pass_transfer.study import cell as module

    def stopped(*_):
        raise KeyboardInterrupt("interrupted in finetune, epoch 1")

    monkeypatch.setattr(module, "finetune", stopped)
    code, _, err = call("study", "run", study(["random"]))
    assert (
        code == 130
        and "interrupted in finetune, epoch 1; finished cells are kept" in err
        and "continue with the same command" in err
    )


def test_a_cell_that_fails_is_in_the_table_and_can_be_tried_again(
    study, call, monkeypatch, tmp_path
):
    from pass_transfer.study import cell as module

    def broken(*_):
        raise RuntimeError("out of memory: tried to allocate 5 GiB\nand more")

    path = study(["random", "group_l1"], budgets=[0.5])
    with monkeypatch.context() as patch:
        patch.setattr(module, "finetune", broken)
        code, out, err = call("study", "run", path, "--json")
    assert code == 0 and json.loads(out) == {"done": 0, "failed": 2, "elsewhere": 0}
    assert call("study", "run", path, "--json")[1] == out
    code, text, _ = call("study", "report", path)
    assert (
        code == 0
        and "random failed, seed 0: RuntimeError: out of memory: tried to allocate 5 GiB" in text
    )
    assert json.loads(call("study", "run", path, "--json", "--retry-failed")[1])["done"] == 2


@pytest.mark.parametrize(
    "error",
    [ValueError("Expected more than 1 value per channel"), OSError("gone"), KeyError("layer")],
)
def test_whatever_fails_the_other_cells_are_made(study, call, monkeypatch, error):
    from pass_transfer.study import cell as module

    real, calls = module.finetune, []

    def once(*arguments):
        calls.append(0)
        if len(calls) == 1:
            raise error
        return real(*arguments)

    monkeypatch.setattr(module, "finetune", once)
    assert json.loads(
        call("study", "run", study(["random", "group_l1"], budgets=[0.5]), "--json")[1]
    ) == {"done": 1, "failed": 1, "elsewhere": 0}


def test_a_search_without_numbers_fails_and_is_made_anew(study, call, monkeypatch, tmp_path):
    path = study(["group_l1"], budgets=[0.5])
    with monkeypatch.context() as patch:
        patch.setitem(
            METHODS,
            "group_l1",
            dataclasses.replace(
                METHODS["group_l1"],
                scores=lambda context: {
                    name: torch.full((g.width,), torch.nan) for name, g in context.groups.items()
                },
            ),
        )
        assert json.loads(call("study", "run", path, "--json")[1])["failed"] == 1
    assert (
        "not finite"
        in json.loads((tmp_path / "cells" / "digits-0.5-group_l1-0.json").read_text())["failed"]
    )
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
        mine = torch.tensor(
            [
                c["top1"]
                for c in cells
                if (c["method"], c["budget"]) == (row["method"], float(row["budget"]))
            ],
            dtype=torch.float64,
        )
        assert (
            len(mine) == 2
            and abs(float(row["top1"]) - mine.mean().item()) < 1e-9
            and abs(float(row["top1_deviation"]) - mine.std().item()) < 1e-9
        )
        assert f"| {row['method']} | {mine.mean():.2f} ± {mine.std():.2f} |" in text
    pictures = {p.name for p in (tmp_path / "out").glob("*.png")}
    assert pictures == {
        "digits-accuracy.png",
        "digits-search.png",
        *(f"digits-{b}-{k}.png" for b in ("0.5", "0.3") for k in ("channels", "shared")),
    }


def test_a_method_is_compared_with_the_others_seed_by_seed(study, call, refused):
    path = study(["random", "group_l1"], budgets=[0.5], seeds=[0, 1])
    assert call("study", "run", path)[0] == 0
    code, text, _ = call("study", "report", path, "--against", "group_l1")
    top1 = {(cell["method"], cell["seed"]): cell["top1"] for cell in read_cells(load_study(path))}
    apart = [top1["group_l1", seed] - top1["random", seed] for seed in (0, 1)]
    assert code == 0 and "| group_l1 above it by |" in text
    assert f"| {statistics.mean(apart):+.2f} ± {statistics.stdev(apart):.2f} |" in next(
        line for line in text.splitlines() if line.startswith("| random")
    )
    assert next(line for line in text.splitlines() if line.startswith("| group_l1")).endswith(
        "|  |"
    )
    assert "no method 'slim'; it has random, group_l1" in refused(
        "study", "report", path, "--against", "slim", code=2
    )


def test_a_dry_run_trains_nothing_and_says_how_long(study, call, tmp_path):
    path = study(["random", "transfer_prompt"], budgets=[0.5, 0.3])
    code, out, _ = call("study", "run", path, "--dry-run", "--json")
    found = json.loads(out)
    assert (
        code == 0
        and (found["cells"], found["missing"]) == (4, 4)
        and found["seconds"] > 0
        and not (tmp_path / "cells").exists()
    )
    assert "4 of 4 cells are missing" in call("study", "run", path, "--dry-run")[1]


def test_a_report_without_cells_is_refused(study, refused):
    assert "holds no cells" in refused("study", "report", study())


def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_table(
    study, call, shell, tmp_path
):
    path = study(["random", "transfer_prompt"], budgets=[0.5, 0.3], seeds=[0])
    assert call("study", "run", path)[0] == 0
    whole = (
        table_of(call("study", "report", path)[1]),
        {name: cell["masks"] for name, cell in cells_of(path).items()},
    )
    shutil.rmtree(tmp_path / "cells")
    draw, struck = random.Random(5), 0
    while struck < 5:
        process = shell("study", "run", path)
        watched(process, draw.choice(("cells to make", "prompt 1/1", "finetune 1/1", "top-1")))
        time.sleep(draw.uniform(0, 0.5))
        struck += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (
            len(list((tmp_path / "cells").glob("*.json"))) == 4
        ):  # the last one was quick: the same again
            next((tmp_path / "cells").glob("*.json")).unlink()
    assert shell("study", "run", path).wait() == 0
    assert (
        table_of(call("study", "report", path)[1]),
        {name: cell["masks"] for name, cell in cells_of(path).items()},
    ) == whole


def table_of(text):
    """A report's table without what the clock decides."""
    return [
        [value for n, value in enumerate(line.split("|")) if n not in (6, 7)]
        for line in text.splitlines()
    ]


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
    made = [
        line.split(":")[0]
        for text in said
        for line in text.splitlines()
        if "top-1" in line and line.startswith("digits-")
    ]
    assert sorted(made) == ["digits-0.5-group_l1-0", "digits-0.5-group_l2-0", "digits-0.5-random-0"]
    assert len(rows(read_cells(load_study(path)))) == 3


def test_masks_survive_packing(random_masks, groups):
    for number in range(10):
        masks = random_masks(groups, number, 0.3)
        assert unpacked(packed(masks), masks.widths) == masks
    one = ChannelMasks({"a": torch.tensor([False, False, True, False, True])})
    assert packed(one) == {"a": "05"}
