"""adapt by every method: the same files, the same figures, a report."""

import json

import pytest

from pass_transfer.files import read_tensors
from pass_transfer.scoring.registry import METHODS

ONE_STEP = ["steps=1"]
FEW_IMAGES = ["images=16"]
TINY = {
    "prompt": ONE_STEP,
    "pass_from_scratch": [*ONE_STEP, *FEW_IMAGES],
    "learned_score": [*ONE_STEP, "start=l1"],
    "vpns": [*ONE_STEP, "start=none"],
    "abc": ["sources=2", "cycles=1"],
    "nearest_tasks": [*FEW_IMAGES, "tasks=2", "nearest=1"],
}
TINY |= {name: ONE_STEP for name in ("slim", "group_l1_sparse", "growreg", "depgraph")}
MEASURED = ("taylor", "uniform_taylor", "taylor_l1", "selection", "source_selection")
MEASURED += ("chip", "variance", "fused")
TINY |= {name: FEW_IMAGES for name in MEASURED}
WITH_PROMPT = {"prompt", "mask", "vpns", "pass_from_scratch"}


@pytest.mark.parametrize("method", METHODS)
def test_adapt_runs_by_every_method_and_leaves_its_report(
    call, adapting, few_photos, tmp_path, method
):
    run, given = tmp_path / "run", []
    for setting in TINY.get(method, ()):
        given += ["--set", setting]
    asked = adapting("--task", few_photos, "--method", method, "--batch-size", "8", *given)
    code, out, err = call(*asked, "--report", "--json")
    assert code == 0, err
    result = json.loads((run / "result.json").read_text())
    assert json.loads(out) == result and result["method"] == method
    assert 0.4 * result["dense_macs"] < result["macs"] <= 0.5 * result["dense_macs"]
    scores = read_tensors(run / "scores.safetensors")
    widths = {name: len(part) for name, part in scores.items()}
    assert widths == result["channels"]
    assert (run / "prompt.safetensors").exists() == (method in WITH_PROMPT)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"--method {method}" in page
    for setting in TINY.get(method, ()):
        assert setting in page
    config = json.loads((run / "config.json").read_text())
    assert config["method"] == method
    chosen = {name: str(value) for name, value in config["settings"].items()}
    for setting in TINY.get(method, ()):
        name, value = setting.split("=")
        assert chosen[name] == value
