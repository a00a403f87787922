"""Kill and Ctrl-C: --resume ends with the bytes of an uninterrupted run."""

import json
import random
import signal
import time

import pytest

# Checkpoints within an epoch too, which is far shorter than a minute here.
# A job in the background of a shell ignores Ctrl-C; these tests may run in one.
OFTEN = """
import signal
import pass_transfer.training.loop as loop
from pass_transfer.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
loop.CHECKPOINT_SECONDS = 0.1
main()
"""
FILES = ["model.safetensors", "model.json", "masks.safetensors", "scores.safetensors"]
FILES += ["prompt.safetensors", "evaluation.safetensors"]
PATIENCE = 300  # seconds until a process that should have got somewhere is given up


@pytest.fixture(scope="module")
def arguments(entry, photos, tmp_path_factory):
    """(run folder, more) -> an adapt of a few seconds, five steps an epoch."""
    task = f"folder:{photos(tmp_path_factory.mktemp('task') / 'photos', count=100)}"

    quick = ["--epochs", "2", "--batch-size", "32", "--no-reconstruct", "--no-report"]
    quick += ["--set", "steps=5", "--device", "cpu"]

    def of(out, *more):
        return ["adapt", "--hypernet", entry, "--task", task, "--out", out, *quick, *more]

    return of


def result_of(run):
    return json.loads((run / "result.json").read_text())


def rows_of(run):
    """The rows of metrics.jsonl, without the seconds."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(arguments, shell, tmp_path_factory):
    """An uninterrupted run: its folder and its output."""
    out = tmp_path_factory.mktemp("whole") / "run"
    process = shell(*arguments(out, "--with-dense"), "--json")
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    return out, stdout, stderr


def same(one, other):
    """Which of the files that a run hands over differ."""
    return [name for name in FILES if (one / name).read_bytes() != (other / name).read_bytes()]


def until(process, condition):
    """Wait for a condition; returns whether the process was still running then."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < end, "it never got there"
        time.sleep(0.002)
    return process.poll() is None


def places(out):
    """Moments of a run, in order, by the files it has written."""
    work = out / "checkpoint"

    def step(name):
        path = work / f"{name}.json"
        return json.loads(path.read_text())["state"]["__dict__"] if path.exists() else None

    def reached(name, epoch, number):
        state = dict(map(tuple, step(name) or []))
        return (state.get("epoch", -1), state.get("step", -1)) >= (epoch, number)

    return {
        "prompt": lambda: reached("prompt", 2, 0),
        "fine-tuning, first epoch": lambda: reached("finetune", 0, 1),
        "fine-tuning, second epoch": lambda: reached("finetune", 1, 1),
        "model saved": lambda: (out / "model.safetensors").exists(),
        "dense": lambda: reached("dense", 0, 1),
    }


def test_killed_at_many_moments_and_resumed_it_ends_the_same(arguments, shell, whole, tmp_path):
    out, seed = tmp_path / "run", random.SystemRandom().randrange(1 << 30)
    draw, killed = random.Random(seed), []
    for place, condition in places(out).items():
        process = shell(*arguments(out, "--with-dense", "--resume"), code=OFTEN)
        if until(process, condition):
            time.sleep(draw.uniform(0, 0.1))
            process.kill()
            killed.append(place)
        process.communicate(timeout=PATIENCE)
    process = shell(*arguments(out, "--with-dense", "--resume", "--json"))
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    assert len(killed) >= 3
    assert same(out, whole[0]) == [], f"after kills at {killed}, delays of seed {seed}"
    assert json.loads(stdout) == result_of(out)
    assert rows_of(out) == rows_of(whole[0])
    assert not list(out.rglob("*.part")) and not (out / "checkpoint").exists()


@pytest.mark.parametrize("place", ["prompt", "fine-tuning, first epoch"])
def test_ctrl_c_says_how_to_continue_and_resume_finishes_with_the_time_of_both(
    arguments, shell, whole, tmp_path, place
):
    out = tmp_path / "run"
    process = shell(*arguments(out), code=OFTEN)
    assert until(process, places(out)[place])
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE)
    last = stderr.splitlines()[-1]
    assert (process.returncode, stdout) == (130, "")
    assert "interrupted" in last and "(--resume)" in last and "Traceback" not in stderr
    assert stderr.count("(--resume)") == 1
    spent = json.loads((out / "checkpoint" / "clock.json").read_text())["seconds"]
    start = time.monotonic()
    process = shell(*arguments(out, "--resume", "--json"))
    stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, stderr
    assert same(out, whole[0]) == []
    result = json.loads(stdout)
    assert spent < result["seconds"] < spent + time.monotonic() - start
    assert 0 < result["search_seconds"] < result["seconds"]


def test_stdout_has_the_result_alone_and_the_file_has_the_same(whole):
    out, stdout, stderr = whole
    result = json.loads(stdout)
    assert stdout.count("\n") == 1
    assert result == result_of(out)
    assert "running on cpu" in stderr and "finetune 2/2" in stderr
    assert result["seconds"] > result["search_seconds"] > 0
    assert result["dense_top1"] is not None and result["dense_seconds"] > 0


def test_the_dense_reference_is_added_to_a_finished_run(arguments, shell, whole, tmp_path):
    out = tmp_path / "run"
    one = json.loads(shell(*arguments(out, "--json")).communicate(timeout=PATIENCE)[0])
    assert one["dense_top1"] is one["dense_seconds"] is None
    process = shell(*arguments(out, "--resume", "--with-dense", "--json"))
    stdout, stderr = process.communicate(timeout=PATIENCE)
    two, in_one_go = json.loads(stdout), json.loads(whole[1])
    assert "already finished" in stderr and same(out, whole[0]) == []
    assert two["dense_top1"] == in_one_go["dense_top1"] and two["dense_seconds"] > 0
    added = {name: two[name] for name in ("dense_top1", "dense_seconds")}
    assert two == one | added
    assert not (out / "checkpoint").exists()


@pytest.mark.parametrize("first", [(), ("--dense-epochs", "1")])
def test_a_distilled_run_killed_in_either_training_ends_the_same(arguments, shell, tmp_path, first):
    short = ("--epochs", "1", "--distill", "0.5", *first)
    folders, moments = (tmp_path / "whole", tmp_path / "killed"), places(tmp_path / "killed")
    process = shell(*arguments(folders[0], *short))
    assert process.wait(PATIENCE) == 0, process.stderr.read()
    for place in ("dense", "fine-tuning, first epoch"):
        process = shell(*arguments(folders[1], *short, "--resume"), code=OFTEN)
        assert until(process, moments[place]), place
        process.kill()
        process.communicate(timeout=PATIENCE)
    finished = (folders[1] / "dense" / "model.json").exists()
    assert finished, "the teacher is finished before the small network begins"
    process = shell(*arguments(folders[1], *short, "--resume"))
    stderr = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0 and "dense 1/1" not in stderr, stderr
    assert same(folders[1], folders[0]) == []
    for name in ("model.json", "model.safetensors"):
        first, second = ((folder / "dense" / name).read_bytes() for folder in folders)
        assert first == second
    one, two = map(result_of, folders)
    assert (one["top1"], one["dense_top1"]) == (two["top1"], two["dense_top1"])


def stop(*_, **__):
    raise KeyboardInterrupt


def test_ctrl_c_between_the_stages_says_how_to_continue_too(
    call, adapting, few_photos, monkeypatch, tmp_path
):
    with monkeypatch.context() as patch:
        patch.setattr("pass_transfer.recipes.adapter.measure_latency", stop)
        code, out, err = call(*adapting("--task", few_photos))
    last = err.splitlines()[-1]
    assert (code, out) == (130, "") and last.endswith("continue with --resume")
    assert call(*adapting("--task", few_photos, "--resume"))[0] == 0


@pytest.mark.parametrize("method", ["prompt", "mask", "taylor"])
def test_a_run_that_has_its_scores_does_not_score_again(
    call, adapting, few_photos, monkeypatch, tmp_path, method
):
    arguments, run = adapting("--task", few_photos, "--method", method), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("pass_transfer.recipes.pipeline.cut", stop)
        assert call(*arguments)[0] == 130
    scores = (run / "scores.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("pass_transfer.recipes.pipeline.score", pytest.fail)
        code, _, err = call(*arguments, "--resume")
    assert code == 0, err
    assert (run / "scores.safetensors").read_bytes() == scores
    in_one_go = tmp_path / "one go"
    assert call(*arguments, "--out", in_one_go)[0] == 0
    for file in sorted(in_one_go.glob("*.safetensors")):
        assert (run / file.name).read_bytes() == file.read_bytes(), file.name
    assert (run / "prompt.safetensors").exists() == (method != "taylor")


def test_ctrl_c_before_anything_is_done_leaves_nothing(call, adapting, monkeypatch, tmp_path):
    monkeypatch.setattr("pass_transfer.recipes.adapt.load_task", stop)
    code, out, err = call(*adapting())
    assert (code, out, err.splitlines()[-1]) == (130, "", "interrupted")
    assert not (tmp_path / "run").exists()
