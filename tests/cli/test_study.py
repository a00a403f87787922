"""The study as a user runs it: made, stopped, shared, resumed, reported."""

import csv
import json
import random
import signal
import time

import pytest
import torch

from pass_transfer.backbones import CostTable, count_macs, find_groups
from pass_transfer.masks import ChannelMasks
from pass_transfer.study import load_study, read_cells, rows
from pass_transfer.study.cell import packed, unpacked
from pass_transfer.study.methods import METHODS
from pass_transfer.zoo.entry import load_hypernet

TINY = {"transfer_prompt": {"steps": 1}, "pass_from_scratch": {"steps": 1, "images": 64}, "learned_score": {"steps": 1, "start": "l1"}, "vpns": {"steps": 1, "start": "none"},
        "taylor": {"images": 64}, "uniform_taylor": {"images": 64}, "taylor_l1": {"images": 64}, "abc": {"sources": 2, "cycles": 1},
        **{name: {"steps": 1} for name in ("slim", "group_l1_sparse", "growreg", "depgraph")}}


@pytest.fixture
def study(entry, tmp_path):
    """Fields -> path of a study file on a few digits with the small entry."""

    def write(methods=("random", "group_l1"), budgets=(0.5, 0.3), seeds=(0,), **more):
        fields = {"hypernet": str(entry), "tasks": ["digits"], "methods": {name: TINY.get(name, {}) for name in methods}, "budgets": list(budgets), "seeds": list(seeds),
                  "batch_size": 32, "train_images": 64, "reconstruct": False, "out": str(tmp_path / "cells")} | more
        path = tmp_path / "study.yaml"
        path.write_text(json.dumps(fields))  # JSON is YAML
        return path

    return write


def cells_of(path):
    return {cell["method"] + str(cell["budget"]): cell for cell in read_cells(load_study(path).out)}


def test_every_method_gives_a_network_of_equal_macs(study, call, entry):
    path = study(list(METHODS), budgets=[0.4])
    code, out, err = call("study", "run", path, "--json", "--device", "cpu")
    assert code == 0 and json.loads(out) == {"done": len(METHODS), "failed": 0, "elsewhere": 0}, err
    hypernet = load_hypernet(entry)
    for name, cell in cells_of(path).items():
        masks = unpacked(cell["masks"], cell["channels"])
        assert masks.kept == cell["kept"] and count_macs(hypernet.network(masks, classes=10), 32) == cell["macs"]
        assert 0.39 < cell["macs_share"] <= 0.4, name
        assert {"top1", "search_seconds", "seconds", "config", "commit", "versions", "machine"} <= set(cell)
    unlike = ("random", "group_l1", "group_l2", "uniform_l1", "taylor", "taylor_l1", "slim", "depgraph", "abc")
    assert len({json.dumps(cells_of(path)[f"{name}0.4"]["masks"]) for name in unlike}) == len(unlike)


def test_ablations_are_variants_under_names_of_their_own(study, call, tmp_path):
    own = {"method": "pass_from_scratch", "steps": 2, "images": 64}
    variants = {"whole": own, "deaf": own | {"hears_prompt": False, "image_share": 0.0}, "blind": own | {"reads_weights": False}, "mlp": own | {"core": "mlp"},
                "wide": own | {"prompt": "expansive", "pad": 6}, "kept": own | {"gradient": "kept"}, "margin": own | {"gradient": "margin"}, "bare": own | {"prior": "none"},
                "l1": {"method": "group_l1"}, "even": {"method": "group_l1", "uniform": True}}
    path = study(methods=())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"methods": variants, "budgets": [0.4]}))
    code, out, err = call("study", "run", path, "--json", "--device", "cpu")
    assert code == 0 and json.loads(out)["done"] == len(variants), err
    cells = cells_of(path)
    shares = {round(kept / width, 1) for kept, width in zip(cells["even0.4"]["kept"].values(), cells["even0.4"]["channels"].values())}
    assert len(shares) == 1
    masks = {name: json.dumps(cell["masks"]) for name, cell in cells.items()}
    assert len(set(masks.values())) == len(variants)
    assert call("study", "report", path)[0] == 0 and "deaf" in call("study", "report", path)[1]


def test_every_convolution_may_have_a_mask_of_its_own(study, call, entry):
    variants = {"apart": {"method": "pass_from_scratch", "steps": 1, "images": 64, "coupling": "independent"}, "together": {"method": "pass_from_scratch", "steps": 1, "images": 64},
                "taylor_apart": {"method": "taylor", "images": 64, "coupling": "independent"}, "l1_apart": {"method": "group_l1", "coupling": "independent"}}
    path = study(methods=())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"methods": variants, "budgets": [0.4], "reconstruct": True}))
    code, out, err = call("study", "run", path, "--json", "--device", "cpu")
    assert code == 0 and json.loads(out)["done"] == len(variants), err
    cells, backbone = cells_of(path), load_hypernet(entry).backbone()
    groups = find_groups(backbone, 32, "independent")
    for name in ("apart", "taylor_apart", "l1_apart"):
        cell = cells[f"{name}0.4"]
        assert cell["channels"] == {group: part.width for group, part in groups.items()}
        assert cell["macs"] == CostTable(backbone, groups, 32).with_classes(10).macs(cell["kept"]) and 0.39 < cell["macs_share"] <= 0.4
    assert call("study", "report", path)[0] == 0, "pictures show what can be compared"


def test_a_prompt_may_stay_in_the_image(study, call):
    search = {"method": "transfer_prompt", "steps": 1}
    path = study(methods=())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"methods": {"worn": search | {"deploy_prompt": True}, "shed": search}, "budgets": [0.5, 0.4]}))
    code, _, err = call("study", "run", path, "--device", "cpu")
    assert code == 0, err
    cells = cells_of(path)
    assert cells["worn0.5"]["masks"] == cells["shed0.5"]["masks"], "the same search"
    assert "top1_without_prompt" in cells["worn0.5"] and "top1_without_prompt" not in cells["shed0.5"]
    assert cells["worn0.4"]["search_seconds"] == cells["worn0.5"]["search_seconds"], "kept beside the cells, with its prompt"


def test_what_is_there_is_kept_and_one_ranking_serves_all_budgets(study, call, tmp_path):
    assert call("study", "run", study(["transfer_prompt"], budgets=[0.5]))[0] == 0
    first = (tmp_path / "cells" / "digits-0.5-transfer_prompt-0.json").read_bytes()
    path = study(["transfer_prompt"], budgets=[0.5, 0.3])
    code, _, err = call("study", "run", path)
    assert code == 0 and "1 of 2 cells to make" in err and "prompt 1/1" not in err
    assert (tmp_path / "cells" / "digits-0.5-transfer_prompt-0.json").read_bytes() == first
    half, less = cells_of(path)["transfer_prompt0.5"], cells_of(path)["transfer_prompt0.3"]
    assert half["search_seconds"] == less["search_seconds"]
    assert unpacked(less["masks"], less["channels"]).issubset(unpacked(half["masks"], half["channels"]))


def test_cells_of_other_settings_are_not_mixed_in(study, call, refused):
    assert call("study", "run", study(["random"], budgets=[0.5]))[0] == 0
    assert "made with other settings" in refused("study", "run", study(["random"], budgets=[0.5], epochs=2))


def test_a_cell_that_fails_is_in_the_table_and_can_be_tried_again(study, call, monkeypatch, tmp_path):
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
    assert code == 0 and "random failed, seed 0: RuntimeError: out of memory: tried to allocate 5 GiB" in text
    assert json.loads(call("study", "run", path, "--json", "--retry-failed")[1])["done"] == 2


def test_tables_and_pictures_are_those_of_the_cells(study, call, tmp_path):
    path = study(["random", "group_l1"], budgets=[0.5, 0.3], seeds=[0, 1])
    assert call("study", "run", path)[0] == 0
    code, text, _ = call("study", "report", path, "--out", tmp_path / "out")
    assert code == 0 and (tmp_path / "out" / "table.md").read_text().strip() == text.strip()
    cells = read_cells(tmp_path / "cells")
    for row in csv.DictReader((tmp_path / "out" / "table.csv").open()):
        mine = torch.tensor([c["top1"] for c in cells if (c["method"], c["budget"]) == (row["method"], float(row["budget"]))], dtype=torch.float64)
        assert len(mine) == 2 and abs(float(row["top1"]) - mine.mean().item()) < 1e-9 and abs(float(row["top1_deviation"]) - mine.std().item()) < 1e-9
        assert f"| {row['method']} | {mine.mean():.2f} ± {mine.std():.2f} |" in text
    pictures = {p.name for p in (tmp_path / "out").glob("*.png")}
    assert pictures == {"digits-accuracy.png", "digits-search.png", *(f"digits-{b}-{k}.png" for b in ("0.5", "0.3") for k in ("channels", "shared"))}


def test_a_dry_run_trains_nothing_and_says_how_long(study, call, tmp_path):
    path = study(["random", "transfer_prompt"], budgets=[0.5, 0.3])
    code, out, _ = call("study", "run", path, "--dry-run", "--json")
    found = json.loads(out)
    assert code == 0 and (found["cells"], found["missing"]) == (4, 4) and found["seconds"] > 0 and not (tmp_path / "cells").exists()
    assert "4 of 4 cells are missing" in call("study", "run", path, "--dry-run")[1]


def test_a_report_without_cells_is_refused(study, refused):
    assert "holds no cells" in refused("study", "report", study())


def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_table(study, call, shell, tmp_path):
    path = study(["random", "transfer_prompt"], budgets=[0.5, 0.3], seeds=[0])
    assert call("study", "run", path)[0] == 0
    whole = {name: (cell["top1"], cell["masks"]) for name, cell in cells_of(path).items()}
    for cell in (tmp_path / "cells").glob("*.json"):
        cell.unlink()
    for search in (tmp_path / "cells" / "searches").iterdir():
        search.unlink()
    draw = random.Random(5)
    for _ in range(5):
        process = shell("study", "run", path)
        time.sleep(draw.uniform(2, 14))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert shell("study", "run", path).wait() == 0
    assert {name: (cell["top1"], cell["masks"]) for name, cell in cells_of(path).items()} == whole


def test_processes_share_the_work(study, shell, tmp_path):
    path = study(["random", "group_l1", "group_l2"], budgets=[0.5])
    both = [shell("study", "run", path), shell("study", "run", path)]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    made = [line.split(":")[0] for text in said for line in text.splitlines() if "top-1" in line and line.startswith("digits-")]
    assert sorted(made) == ["digits-0.5-group_l1-0", "digits-0.5-group_l2-0", "digits-0.5-random-0"]
    assert len(rows(read_cells(tmp_path / "cells"))) == 3


def test_masks_survive_packing(random_masks, groups):
    for number in range(10):
        masks = random_masks(groups, number, 0.3)
        assert unpacked(packed(masks), masks.widths) == masks
    one = ChannelMasks({"a": torch.tensor([False, False, True, False, True])})
    assert packed(one) == {"a": "05"}
