"""adapt and a study's cell go one way: the same masks, and the same accuracy."""

import pytest

import pass_transfer as pt
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import count_macs
from pass_transfer.recipes import adapter
from pass_transfer.study import Study, read_cells, run_study
from pass_transfer.study.packing import unpacked
from pass_transfer.study.tasks import StudyTask

METHODS = {
    "random": {},
    "group_l1": {},
    "taylor": {"images": 16},
    "selection": {"images": 16},
    "prompt": {"steps": 1},
    "mask": {},
    "learned_score": {"steps": 1, "start": "l1"},
}
ROUNDED = ("group_l1", "selection", "prompt")
CASES = [(name, 1) for name in METHODS] + [(name, 8) for name in ROUNDED]
HERE = {"device": "cpu", "precision": "no"}
RECIPE = {"epochs": 1, "batch_size": 16}
SEED = 3


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    """Milliseconds are not what is compared, and take longest to measure."""

    def measured(networks, size, batches):
        return {name: dict.fromkeys(batches, 1.0) for name in networks}

    monkeypatch.setattr(adapter, "measure_latency", measured)


@pytest.fixture(scope="module")
def task(photos, tmp_path_factory):
    """Noise photographs of three classes."""
    folder = tmp_path_factory.mktemp("task") / "photos"
    return f"folder:{photos(folder, classes=('cat', 'dog', 'emu'), count=16)}"


@pytest.fixture(scope="module")
def cells(entry, task, tmp_path_factory):
    """round_to, reconstruct and methods -> the cells of a study by method; each is made once."""
    made = {}

    def get(round_to, reconstruct=False, methods=METHODS):
        key = round_to, reconstruct, *methods
        if key not in made:
            out = tmp_path_factory.mktemp("study") / "cells"
            study = Study(
                str(entry),
                {task: StudyTask(task)},
                methods,
                (0.4,),
                (SEED,),
                **RECIPE,
                reconstruct=reconstruct,
                round_to=round_to,
                out=out,
            )
            run_study(study, **HERE)
            made[key] = {cell["method"]: cell for cell in read_cells(study)}
        return made[key]

    return get


def check_equal(cell, result, run, round_to):
    """A cell and a finished run of adapt have the same masks and figures."""
    masks = ChannelMasks.load(run / "masks.safetensors")
    assert unpacked(cell["masks"], cell["channels"]) == masks
    kept = {name: count for name, count in masks.kept.items() if count < masks.widths[name]}
    assert kept and all(count % round_to == 0 for count in kept.values())
    for figure in ("top1", "macs", "parameters"):
        assert result[figure] == cell[figure], figure
    assert result["macs"] <= 0.4 * result["dense_macs"]
    assert count_macs(pt.load_pruned(run).network, 32) == result["macs"]


@pytest.mark.parametrize("method, round_to", CASES)
def test_a_run_and_a_cell_of_a_method_are_the_same_network(
    entry, task, cells, tmp_path, method, round_to
):
    methods = METHODS if round_to == 1 else {name: METHODS[name] for name in ROUNDED}
    cell, run = cells(round_to, methods=methods)[method], tmp_path / "run"
    result = pt.adapt(
        entry,
        task,
        out=run,
        method=method,
        settings=METHODS[method],
        macs=0.4,
        round_to=round_to,
        reconstruct=False,
        seed=SEED,
        **RECIPE,
        **HERE,
    )
    check_equal(cell, result, run, round_to)


def test_they_are_the_same_with_reconstruction_and_a_uniform_share_too(
    entry, task, cells, tmp_path
):
    even, run = {"uniform": True}, tmp_path / "run"
    cell = cells(1, True, {"even": {"method": "group_l1", **even}})["even"]
    result = pt.adapt(
        entry,
        task,
        out=run,
        method="group_l1",
        settings=even,
        budget=pt.Budget(macs=0.4, round_to=1),
        seed=SEED,
        **RECIPE,
        **HERE,
    )
    check_equal(cell, result, run, 1)
