"""adapt leaves a report; the verb writes it again."""

import json
import os
import shutil

from pass_transfer.files import read_tensors


def test_adapt_leaves_a_report_that_the_dense_reference_renews(call, adapting, tmp_path):
    run = tmp_path / "run"
    assert call(*adapting("--report"))[0] == 0
    first, result = (run / "report.html").read_text(), json.loads((run / "result.json").read_text())
    assert (
        "dense: not trained" in first
        and f"{result['top1']:.2f} %" in first
        and (run / "report" / "accuracy.png").is_file()
    )
    counts = read_tensors(run / "evaluation.safetensors")["confusion"]
    assert counts.shape == (10, 10) and counts.sum() == result["images"]
    assert abs(100 * int(counts.diag().sum()) / result["images"] - result["top1"]) < 1e-9
    assert call(*adapting("--report", "--resume", "--with-dense"))[0] == 0
    second, result = (
        (run / "report.html").read_text(),
        json.loads((run / "result.json").read_text()),
    )
    assert "dense: not trained" not in second and f"dense {result['dense_top1']:.2f} %" in second


def test_the_verb_writes_the_same_report_again_and_names_the_files(call, finished, tmp_path):
    run = shutil.copytree(
        finished, tmp_path / "moved", ignore=shutil.ignore_patterns("report", "report.html")
    )
    code, out, _ = call("report", run, "--json")
    found = json.loads(out)
    assert (
        code == 0
        and out.count("\n") == 1
        and found["run"] == str(run)
        and found["report"] == str(run / "report.html")
    )
    assert {
        name: (finished / "report" / name).read_bytes()
        for name in map(os.path.basename, found["pictures"])
    } == {p.name: p.read_bytes() for p in (run / "report").iterdir()}
    assert (run / "report.html").read_bytes() == (finished / "report.html").read_bytes()
    code, out, _ = call("report", run)
    assert code == 0 and str(run / "report.html") in out


def test_what_is_no_finished_run_is_refused(refused, tmp_path, copied):
    for folder in (tmp_path, tmp_path / "nothing", copied):
        assert "no run folder" in refused("report", folder)
