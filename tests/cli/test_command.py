"""The command as a process: help, imports, streams, full disks."""

import json
import resource
import subprocess
import sys
import time

import pytest
import torch

from pass_transfer.training import choose_runtime

VERBS = [
    "",
    "adapt",
    "study run",
    "study report",
    "search",
    "finetune",
    "eval",
    "inspect",
    "bench",
    "export",
    "report",
    "env",
    "methods",
    "zoo",
    "zoo ls",
    "zoo show",
    "zoo verify",
]
NO_TORCH = """
import sys
from pass_transfer.cli.main import run
code = run(sys.argv[1:])
heavy = {"torch", "numpy", "datasets", "sklearn", "matplotlib", "accelerate"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(call, verb):
    code, out, err = call(*verb.split(), "--help")
    assert (code, err) == (0, "")
    assert "Example" in out and "pass-transfer " + " ".join(verb.split()[:1]) in " ".join(
        out.split()
    )


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["adapt", "--help"], ["zoo", "ls"], ["zoo", "show", "nothing"]],
    ids=" ".join,
)
def test_help_and_the_zoo_import_nothing_heavy(arguments):
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, *arguments], capture_output=True, text=True
    )
    assert "imported" not in done.stderr
    assert done.returncode == (1 if "nothing" in arguments else 0)


def test_help_is_there_in_half_a_second():
    command = [sys.executable, "-m", "pass_transfer.cli.main", "--help"]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5


def test_without_a_verb_the_help_is_wrong_usage(call):
    for arguments in ([], ["zoo"]):
        code, out, err = call(*arguments)
        assert (code, out) == (2, "") and "Commands" in err


def test_an_unknown_verb_is_wrong_usage_with_what_may_be_meant(call):
    code, out, err = call("evaluate")
    assert (code, out) == (2, "") and "Did you mean 'eval'? See pass-transfer --help" in err


def test_env_tells_versions_and_device(call):
    facts = json.loads(call("env", "--json")[1])
    assert {
        "pass_transfer",
        "python",
        "torch",
        "torchvision",
        "runtime",
        "kernels",
    } <= facts.keys() and facts["kernels"]
    assert f"torch: {facts['torch']}" in call("env")[1]


def test_eval_gives_the_accuracy_of_the_run_again(call, finished):
    result = json.loads((finished / "result.json").read_text())
    code, out, _ = call("eval", finished, "--task", "digits", "--device", "cpu", "--json")
    measured = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert (measured["top1"], measured["top5"], measured["images"]) == (
        result["top1"],
        result["top5"],
        result["images"],
    )
    assert (
        f"top-1 {result['top1']:.2f} %"
        in call("eval", finished, "--task", "digits", "--device", "cpu")[1]
    )


def test_result_has_the_promised_fields(finished):
    result = json.loads((finished / "result.json").read_text())
    assert {
        "task",
        "hypernet",
        "method",
        "seed",
        "device",
        "top1",
        "top5",
        "top1_without_prompt",
        "dense_top1",
        "macs",
        "dense_macs",
        "parameters",
        "dense_parameters",
        "latency_ms",
        "dense_latency_ms",
        "channels_kept",
        "search_seconds",
        "seconds",
        "run",
    } <= result.keys()
    assert result["dense_top1"] is None and result["macs"] <= 0.5 * result["dense_macs"]
    assert result["latency_ms"].keys() == result["dense_latency_ms"].keys() == {"1", "32"}


def test_the_summary_shows_the_small_network_beside_the_dense_one(call, adapting, finished):
    out = call(*adapting("--out", finished), "--resume")[1]
    for word in ("top-1", "MACs", "parameters", "latency, batch 32", "not trained", str(finished)):
        assert word in out


def test_a_disk_that_is_full_from_the_start_leaves_nothing(shell, adapting, tmp_path):
    def hardly_anything_fits():
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (64, 64)
        )  # some libraries try a few bytes in /tmp

    process = shell(*adapting("--out", tmp_path / "new" / "run"), preexec_fn=hardly_anything_fits)
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "") and "Traceback" not in err
    assert "cannot write" in err.splitlines()[-1] and err.count("error:") == 1
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_is_told_and_the_run_goes_on_when_there_is_space(
    shell, call, adapting, tmp_path
):
    def a_megabyte_fits():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    process = shell(*adapting(), preexec_fn=a_megabyte_fits)
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "") and "Traceback" not in err
    assert "cannot write" in err.splitlines()[-1] and err.count("error:") == 1
    assert not list((tmp_path / "run").rglob("*.part"))
    code, _, err = call(*adapting("--resume", "--precision", "auto"))
    assert code == 0, err


def test_another_precision_later_in_one_process_changes_no_earlier_choice():
    first = choose_runtime("cpu", "no")
    second = choose_runtime("cpu", "bf16")
    product = [torch.ones(2, 2) @ torch.ones(2, 2)]
    for runtime in (first, second):
        with runtime.autocast():
            product.append(torch.ones(2, 2) @ torch.ones(2, 2))
    assert [p.dtype for p in product] == [torch.float32, torch.float32, torch.bfloat16]


def test_methods_are_listed_with_their_settings_and_defaults(call):
    code, out, err = call("methods")
    assert (code, err) == (0, "") and "\nmask: " in out and len(out.splitlines()) >= 16
    code, out, _ = call("methods", "prompt")
    assert code == 0 and "  --set steps=150\n" in out and "how a prompt" not in out
    assert "prior: what the frozen hypernetwork corrects" in out
    assert json.loads(call("methods", "taylor", "--json")[1])["settings"]["images"] == 2048
    code, _, err = call("methods", "nothing")
    assert code == 2 and err.startswith("error: unknown method 'nothing'; choose one of abc")
