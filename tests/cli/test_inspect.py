"""The dry run: what it foresees is what removal leaves."""

import json
import shutil

import pytest
import torch

from pass_transfer.budgets import latency as latency_budget
from pass_transfer.networks import count_macs, count_parameters
from pass_transfer.recipes.inspect import inspect, speed_up, warnings
from pass_transfer.zoo.entry import load_hypernet

CUTS = [
    {"macs": 0.5, "round_to": 1},
    {"params": "3M"},
    {"density": 0.4},
    {"macs": "20M", "round_to": 8, "keep_layers": ("layer1.*",)},
]


def kept_in(found):
    """Channels of every group, as inspect foresees them."""
    return {group["name"]: group["kept"] for group in found["groups"]}


def result_of(run):
    return json.loads((run / "result.json").read_text())


@pytest.mark.parametrize("cut", CUTS)
def test_totals_and_layers_are_those_of_the_removed_network(entry, cut):
    hypernet = load_hypernet(entry)
    found, dense = inspect(hypernet, latency=False, **cut), hypernet.backbone()
    small = hypernet.generate_masks(hypernet.prompt(), **cut).apply(hypernet.backbone())
    assert (found["macs"], found["dense_macs"]) == (count_macs(small, 32), count_macs(dense, 32))
    sizes = (count_parameters(small), count_parameters(dense))
    assert (found["parameters"], found["dense_parameters"]) == sizes
    assert sum(layer["macs"] for layer in found["layers"]) == found["macs"]
    for layer in found["layers"]:
        module = small.get_submodule(layer["name"])
        assert (layer["outputs"], layer["inputs"]) == tuple(module.weight.shape[:2])


def test_channels_come_in_eights_unless_one_asks_otherwise(call, entry):
    for more, step in (([], 8), (["--round-to", "1"], 1), (["--round-to", "16"], 16)):
        asked = ["inspect", "--hypernet", entry, "--no-latency", "--json", *more]
        found = json.loads(call(*asked)[1])
        assert found["cut"]["round_to"] == step
        odd = [g for g in found["groups"] if g["kept"] % step and g["kept"] < g["width"]]
        assert odd == []
        assert any(group["kept"] % 8 for group in found["groups"]) == (step == 1)


def test_the_verb_prints_tables_or_json_and_draws(call, entry, tmp_path, monkeypatch):
    monkeypatch.setattr("pass_transfer.latency.waiting", lambda: 0.0)  # a busy machine is named
    asked = ["inspect", "--hypernet", entry, "--macs", "0.4"]
    code, out, err = call(*asked, "--plot", tmp_path / "cut.png")
    assert code == 0 and "layer4.1.conv1" in out and "x as fast" in out
    assert err == "measuring both networks at batch 1, 32\n"
    assert (tmp_path / "cut.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = call(*asked, "--no-latency", "--json", "--classes", "7")
    found = json.loads(out)
    assert found["macs"] <= 0.4 * found["dense_macs"] and found["latency_ms"] is None
    assert found["layers"][-1]["outputs"] == 7
    of_group = {"name", "kept", "width", "unit", "channels", "layers"}
    assert set(found["groups"][0]) == of_group and found["groups"][0]["unit"] == "channel"


@pytest.mark.parametrize("round_to", ["8", "1"])
def test_the_scores_of_a_run_are_taken(call, entry, adapting, few_photos, tmp_path, round_to):
    run = tmp_path / "run"
    assert call(*adapting("--task", few_photos, "--round-to", round_to))[0] == 0
    asked = ["inspect", "--hypernet", entry, "--run", run, "--round-to", round_to, "--no-latency"]
    found, result = json.loads(call(*asked, "--json")[1]), result_of(run)
    assert kept_in(found) == result["channels_kept"] and found["macs"] == result["macs"]


def test_what_keeps_a_cut_from_being_faster_is_said():
    layers = [
        {
            "name": "deep",
            "positions": 4,
            "inputs": 64,
            "outputs": 64,
            "macs": 600,
            "parameters": 10,
        },
        {
            "name": "wide",
            "positions": 100,
            "inputs": 9,
            "outputs": 9,
            "macs": 400,
            "parameters": 81,
        },
    ]
    found = {
        "groups": [
            {"name": "a", "kept": 13, "width": 64, "channels": 1},
            {"name": "b", "kept": 16, "width": 64, "channels": 1},
            {"name": "heads of 64 channels", "kept": 3, "width": 12, "channels": 64},
        ],
        "layers": layers,
        "macs": 1000,
        "dense_macs": 4000,
        "latency_ms": {"1": 2.0, "32": 1.0},
        "dense_latency_ms": {"1": 3.0, "32": 4.0},
    }
    said = warnings(found)
    assert len(said) == 4
    assert said[0].startswith("1 of 3 groups") and said[1].startswith("60% of the MACs")
    assert "wide" in said[2]
    assert said[3].startswith("at batch 1 it runs 1.50 times as fast")


@pytest.mark.parametrize(
    "arguments, word, code",
    [
        (["--macs", "2"], "--macs is 2", 2),
        (["--params", "1K"], "lowest budget", 1),
        (["--macs", "0.5", "--density", "0.5"], "exactly one", 2),
        (["--round-to", "0"], "--round-to is 0", 2),
        (["--keep-layers", "layer9"], "layer9", 2),
        (["--plot", "cut.txt", "--no-latency"], "no picture", 2),
        (["--plot", "/nonexistent/cut.png", "--no-latency"], "cannot write", 1),
        (["--run", "/nonexistent"], "give a run folder of adapt", 1),
    ],
)
def test_bad_input_is_refused_with_one_message(refused, entry, arguments, word, code):
    assert word in refused("inspect", "--hypernet", entry, *arguments, code=code)


def test_another_networks_prompt_is_refused(refused, entry, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.copy(entry / "masks.safetensors", run / "prompt.safetensors")
    assert "is not a prompt" in refused("inspect", "--hypernet", entry, "--run", run)


def test_a_latency_budget_is_measured_here(call, entry):
    asked = ["inspect", "--hypernet", entry, "--device", "cpu"]
    code, out, err = call(*asked, "--latency-ms", "100000", "--batch", "2", "--json")
    found = json.loads(out)
    assert code == 0 and found["macs"] == found["dense_macs"]
    assert "of 100000; it is the whole network" in err
    assert set(found["latency_ms"]) == {"1", "2", "32"}
    code, _, err = call(*asked, "--latency-ms", "0.0001")
    assert code == 1 and "which is the lowest budget" in err
    code, _, err = call(*asked, "--latency-ms", "5", "--macs", "0.5")
    assert code == 2 and "exactly one budget" in err


def test_a_run_keeps_the_masks_that_it_measured(call, adapting, few_photos, tmp_path, monkeypatch):
    arguments, run = ["--latency-ms", "100000", "--batch", "3"], tmp_path / "run"
    assert call(*adapting("--task", few_photos, *arguments))[0] == 0
    result = result_of(run)
    assert result["macs"] == result["dense_macs"] and set(result["latency_ms"]) == {"1", "3", "32"}
    (run / "result.json").unlink()
    monkeypatch.setattr(latency_budget, "measure_latency", lambda *_: pytest.fail("measured again"))
    assert call(*adapting("--task", few_photos, *arguments, "--resume"))[0] == 0
    assert result_of(run)["channels_kept"] == result["channels_kept"]


def test_the_networks_that_a_latency_budget_measures_are_laid_out_as_adapts_are(entry, monkeypatch):
    seen = []

    def clock(networks, *_):
        seen.extend(networks.values())
        return {name: {1: 1.0} for name in networks}

    monkeypatch.setattr(latency_budget, "measure_latency", clock)
    hypernet = load_hypernet(entry)
    hypernet.generate_masks(hypernet.prompt(), latency_ms=2.0)
    assert seen and all(
        network.backbone.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
        for network in seen
    )


def test_a_layer_is_as_slow_as_its_arithmetic_or_what_it_moves():
    wide = {"positions": 100, "inputs": 64, "outputs": 64, "macs": 3_686_400, "parameters": 36_864}
    dense = {f"dense_{name}": value for name, value in wide.items()}
    assert speed_up([wide | dense]) == 1
    half = wide | dense | {"outputs": 32, "macs": 1_843_200, "parameters": 18_432}
    assert speed_up([half]) == pytest.approx(2)
    odd = wide | dense | {"outputs": 33, "macs": 1_900_800, "parameters": 19_008}
    assert speed_up([odd]) == pytest.approx(64 / 40), "33 channels cost what 40 do"
    thin = {"positions": 100, "inputs": 64, "outputs": 64, "macs": 57_600, "parameters": 576}
    before = {f"dense_{name}": value for name, value in thin.items()}
    assert speed_up([thin | before | {"macs": 28_800}]) == 1, "bound by what it moves"


def test_a_run_of_another_entry_is_refused(refused, entry, finished, tmp_path):
    other = shutil.copytree(finished, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    changed = config | {"fingerprint": "0" * 64, "entry": "zoo/another"}
    (other / "config.json").write_text(json.dumps(changed))
    said = refused("inspect", "--hypernet", entry, "--run", other)
    assert "was adapted from another zoo entry (zoo/another)" in said


def test_a_batch_that_is_none_is_refused_before_anything_is_trained(
    refused, adapting, entry, tmp_path
):
    for verb in (["inspect", "--hypernet", entry], adapting()):
        assert "--batch is -1" in refused(*verb, "--batch", "-1", code=2)
    assert not (tmp_path / "run").exists()
