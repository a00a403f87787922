import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pass_transfer.errors import RunError, StorageError
from pass_transfer.training import RunFolder

CONFIG = {"recipe": "test", "lr": 0.1, "sizes": (1, 2)}


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run", CONFIG)


# opening


def test_a_run_writes_its_settings_and_needs_no_parent_folder(tmp_path):
    RunFolder(tmp_path / "a" / "b" / "run", CONFIG)
    assert json.loads((tmp_path / "a" / "b" / "run" / "config.json").read_text()) == {
        "recipe": "test",
        "lr": 0.1,
        "sizes": [1, 2],
    }


def test_an_empty_folder_may_be_used(tmp_path):
    assert not RunFolder(tmp_path, CONFIG).resumed


def test_a_folder_that_holds_a_run_is_refused_with_both_ways_out(run):
    with pytest.raises(RunError, match="resume.*force"):
        RunFolder(run.path, CONFIG)


@pytest.mark.parametrize("way", ["resume", "force"])
def test_a_run_that_another_process_works_on_is_refused_until_that_dies(tmp_path, way):
    code = (
        "import sys, time; from pass_transfer.training import RunFolder; "
        "run = RunFolder(sys.argv[1], {'recipe': 'test'}); "
        "print('open', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout.readline() == "open\n"
            before = sorted(p.name for p in (tmp_path / "run").iterdir())
            with pytest.raises(RunError, match="another process works on"):
                RunFolder(tmp_path / "run", {"recipe": "test"}, **{way: True})
            assert sorted(p.name for p in (tmp_path / "run").iterdir()) == before
        finally:
            other.kill()
    RunFolder(tmp_path / "run", {"recipe": "test"}, **{way: True})


def test_resuming_keeps_what_is_there_and_force_deletes_it(run):
    run.log({"stage": "s", "epoch": 1})
    again = RunFolder(run.path, CONFIG, resume=True)
    assert again.resumed and again.metrics() == [{"stage": "s", "epoch": 1}]
    fresh = RunFolder(run.path, CONFIG | {"lr": 0.2}, force=True)
    assert not fresh.resumed and fresh.metrics() == []


def test_resuming_where_nothing_is_starts_a_run(tmp_path):
    assert not RunFolder(tmp_path / "run", CONFIG, resume=True).resumed


def test_resuming_with_other_settings_is_refused_and_names_them(run):
    with pytest.raises(RunError, match="lr was 0.1, now 0.2"):
        RunFolder(run.path, CONFIG | {"lr": 0.2}, resume=True)
    with pytest.raises(RunError, match="extra was not given, now 1"):
        RunFolder(run.path, CONFIG | {"extra": 1}, resume=True)
    assert RunFolder(run.path, CONFIG | {"versions": {"torch": "9"}}, resume=True).resumed


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"force": True}])
@pytest.mark.parametrize("content", ["photo.jpg", "config.json"])
def test_a_folder_that_is_no_run_is_never_touched(tmp_path, options, content):
    (tmp_path / content).write_text('{"schema": 1, "recipe": {}}')
    with pytest.raises(RunError, match="not a run folder"):
        RunFolder(tmp_path, CONFIG, **options)
    assert [p.name for p in tmp_path.iterdir()] == [content]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="run"):
        RunFolder(tmp_path / "run", CONFIG, force=True)
    with pytest.raises(StorageError):
        RunFolder(tmp_path / "run" / "below", CONFIG)


# metrics


def test_metrics_come_back_in_order(run):
    rows = [{"stage": "s", "epoch": n, "loss": n / 3} for n in range(5)]
    for row in rows:
        run.log(row)
    assert run.metrics() == rows


def test_a_line_cut_by_a_kill_is_left_out_and_spoils_no_other(run):
    run.log({"stage": "s", "epoch": 1})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "s", "epo')
    again = RunFolder(run.path, CONFIG, resume=True)
    assert again.metrics() == [{"stage": "s", "epoch": 1}]
    again.log({"stage": "s", "epoch": 2})
    assert again.metrics() == [{"stage": "s", "epoch": 1}, {"stage": "s", "epoch": 2}]


# checkpoints


def same(one, two) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return (
            isinstance(two, dict)
            and list(one) == list(two)
            and all(same(one[k], two[k]) for k in one)
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two and type(one) is type(two)


tensors = st.sampled_from(
    [
        torch.tensor(3),
        torch.randn(2, 3),
        torch.tensor([True, False]),
        torch.randn(3).bfloat16(),
        torch.arange(4),
        torch.empty(0),
    ]
)
values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | tensors
)
states = st.dictionaries(
    st.text(max_size=3),
    st.recursive(
        values,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text("a/0", max_size=3) | st.integers(0, 3), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=4,
)


@given(states)
def test_any_nesting_of_tensors_and_numbers_comes_back(tmp_path_factory, state):
    run = RunFolder(tmp_path_factory.mktemp("run"), CONFIG)
    run.save_checkpoint("stage", state)
    assert same(state, run.load_checkpoint("stage"))


def test_tensors_whose_keys_look_alike_stay_apart(run):
    state = {
        0: torch.tensor(1),
        "0": torch.tensor(2),
        "a/b": torch.tensor(3),
        "a": {"b": torch.tensor(4)},
        "": [torch.tensor(5)],
    }
    run.save_checkpoint("stage", state)
    assert same(state, run.load_checkpoint("stage"))


def test_an_optimizers_state_comes_back_and_trains_on_as_before(run):
    def trained(steps: int, optimizer_state=None, weights=None):
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(layer.parameters(), 0.1)
        if weights is not None:
            layer.load_state_dict(weights)
            optimizer.load_state_dict(optimizer_state)
        for _ in range(steps):
            optimizer.zero_grad()
            layer(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
        return layer, optimizer

    whole, _ = trained(5)
    layer, optimizer = trained(2)
    run.save_checkpoint(
        "stage", {"optimizer": optimizer.state_dict(), "weights": layer.state_dict()}
    )
    state = run.load_checkpoint("stage")
    rest, _ = trained(3, state["optimizer"], state["weights"])
    assert torch.equal(rest.weight, whole.weight) and torch.equal(rest.bias, whole.bias)


def test_the_newest_checkpoint_counts_and_only_two_are_kept(run):
    for n in range(5):
        run.save_checkpoint("stage", {"x": torch.tensor(n)})
    assert run.load_checkpoint("stage")["x"] == 4
    assert len(list((run.path / "checkpoint").glob("*.safetensors"))) <= 2


def test_stages_have_checkpoints_of_their_own(run):
    run.save_checkpoint("one", {"n": 1})
    run.save_checkpoint("two", {"n": 2})
    assert run.load_checkpoint("one") == {"n": 1} and run.load_checkpoint("two") == {"n": 2}


def test_without_a_checkpoint_there_is_none(run):
    assert run.load_checkpoint("stage") is None


def test_a_damaged_checkpoint_is_refused(run):
    run.save_checkpoint("stage", {"x": torch.randn(100)})
    path = next((run.path / "checkpoint").glob("stage*.safetensors"))
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:-5] + b"?" + whole[-4:], b""):
        path.write_bytes(content)
        with pytest.raises(StorageError, match="stage"):
            run.load_checkpoint("stage")
    path.unlink()
    with pytest.raises(StorageError, match="stage"):
        run.load_checkpoint("stage")


def test_a_full_disk_leaves_the_checkpoint_before(run, monkeypatch):
    import os

    run.save_checkpoint("stage", {"x": torch.tensor(1)})
    monkeypatch.setattr(
        os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(StorageError, match="No space left"):
        run.save_checkpoint("stage", {"x": torch.tensor(2)})
    monkeypatch.undo()
    assert run.load_checkpoint("stage")["x"] == 1
