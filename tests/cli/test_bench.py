"""Both networks measured side by side."""

import json

import pytest
import torch

from pass_transfer.latency import interleave


def test_every_round_makes_each_call_once_in_turn():
    made = []
    times = interleave(
        {"a": lambda: made.append("a"), "b": lambda: made.append("b")}, rounds=4, warm_up=2
    )
    assert made == ["a", "b"] * 6 and {name: len(values) for name, values in times.items()} == {
        "a": 4,
        "b": 4,
    }
    assert all(value >= 0 for values in times.values() for value in values)


def test_the_verb_measures_both_networks_on_each_engine(call, finished):
    code, out, _ = call(
        "bench",
        finished,
        "--batch",
        "1",
        "--batch",
        "3",
        "--engine",
        "eager",
        "--engine",
        "eager channels_last",
        "--engine",
        "onnxruntime",
        "--rounds",
        "2",
        "--device",
        "cpu",
        "--json",
    )
    found = json.loads(out)
    assert code == 0 and found["threads"] >= 1 and found["image_size"] == 32
    assert {(r["network"], r["engine"], r["batch"]) for r in found["rows"]} == {
        (n, e, b)
        for n in ("small", "dense")
        for e in ("eager", "eager channels_last", "onnxruntime (CPU)")
        for b in (1, 3)
    }
    for row in found["rows"]:
        assert 0 < row["q1_ms"] <= row["median_ms"] <= row["q3_ms"]
        assert row["images_per_second"] == pytest.approx(
            1000 * row["batch"] / row["median_ms"], rel=0.01
        )


def test_the_table_names_threads_and_engines(call, finished):
    code, out, _ = call(
        "bench", finished, "--batch", "2", "--engine", "eager", "--rounds", "1", "--device", "cpu"
    )
    assert code == 0 and "threads" in out and "times as fast" in out and "eager" in out


def test_compiled_networks_are_measured_too_or_left_out_with_a_reason(call, finished, monkeypatch):
    arguments = [
        "bench",
        finished,
        "--batch",
        "2",
        "--engine",
        "eager",
        "--engine",
        "compile",
        "--rounds",
        "1",
        "--device",
        "cpu",
        "--json",
    ]
    code, out, err = call(*arguments)
    engines = {row["engine"] for row in json.loads(out)["rows"]}
    assert code == 0 and (
        engines == {"eager", "compile"}
        or (engines == {"eager"} and "torch.compile cannot run here" in err)
    )

    def no_compiler(network):
        def run(images):
            raise RuntimeError("InvalidCxxCompiler: no working C++ compiler found\nand more")

        return run

    monkeypatch.setattr(torch, "compile", no_compiler)
    code, out, err = call(*arguments)
    assert code == 0 and {row["engine"] for row in json.loads(out)["rows"]} == {"eager"}
    said = "torch.compile cannot run here, so it is left out: InvalidCxxCompiler: no working C++ "
    assert f"{said}compiler found\n" in err


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--engine", "magic"], "unknown engine"),
        (["--batch", "0"], "--batch"),
        (["--rounds", "0"], "rounds"),
    ],
)
def test_bad_values_are_refused(refused, finished, arguments, word):
    assert word in refused("bench", finished, *arguments, code=2)


def test_a_folder_without_a_model_is_refused(refused, tmp_path):
    assert "model.json" in refused("bench", tmp_path)
