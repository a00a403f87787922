"""Files for other runtimes compute what torch computes, and a failure leaves nothing behind."""

import json

import pytest
import torch

from pass_transfer.errors import StorageError
from pass_transfer.networks import build_backbone, count_parameters
from pass_transfer.networks.network import Network
from pass_transfer.pruned import PrunedModel, export_model, load_pruned

onnx = pytest.importorskip("onnx")


@pytest.mark.parametrize("batch", [1, 4, 32])
def test_onnx_gives_torchs_logits_at_every_batch_size(finished, tmp_path, batch):
    import onnxruntime

    model = load_pruned(finished)
    found = model.export(tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "small.onnx"))
    images = torch.rand(batch, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
    logits = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max() and found[
        "difference"
    ] <= 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]


def test_onnx_says_how_to_feed_it_and_is_smaller_as_the_network_is(finished, tmp_path):
    model = load_pruned(finished)
    small = model.export(tmp_path / "small.onnx")
    note = json.loads(
        {p.key: p.value for p in onnx.load(tmp_path / "small.onnx").metadata_props}["pass_transfer"]
    )
    assert (
        note["class_names"] == list(model.class_names)
        and note["image_size"] == 32
        and note["architecture"] == "resnet18"
    )
    spec = model.spec
    dense = PrunedModel(
        Network(build_backbone(spec), spec.mean, spec.std, model.network.prompt),
        spec,
        model.class_names,
        {},
    ).export(tmp_path / "dense.onnx")
    ratio = count_parameters(model.network.backbone) / count_parameters(build_backbone(spec))
    assert small["bytes"] / dense["bytes"] == pytest.approx(ratio, rel=0.05) and "resize" in note


def test_what_computes_nothing_is_not_exported(finished, tmp_path):
    model = load_pruned(finished)
    with torch.no_grad():
        model.network.backbone.fc.bias[0] = torch.nan
    for ending in ("onnx", "pt2"):
        with pytest.raises(StorageError, match="differs from torch"):
            model.export(tmp_path / f"small.{ending}")
    assert list(tmp_path.iterdir()) == []


def test_the_model_may_be_in_any_dtype_and_mode_and_stays_as_it_was(finished, tmp_path):
    model = load_pruned(finished).half().train()
    model.network.backbone.bn1.eval()
    assert model.export(tmp_path / "small.pt2")["difference"] <= 1e-4
    assert (
        next(model.parameters()).dtype == torch.float16
        and model.training
        and not model.network.backbone.bn1.training
    )


def test_pt2_is_loaded_by_torch_alone_with_its_metadata(finished, tmp_path):
    model = load_pruned(finished)
    assert model.export(tmp_path / "small.pt2")["format"] == "pt2"
    extra = {"pass_transfer": ""}
    program = torch.export.load(tmp_path / "small.pt2", extra_files=extra)
    images = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model(images))
    assert json.loads(extra["pass_transfer"])["class_names"] == list(model.class_names)


def test_the_verb_says_what_it_wrote(call, finished, tmp_path):
    code, out, _ = call("export", finished, "--out", tmp_path / "a.bin", "--format", "onnx")
    assert code == 0 and "MB of onnx" in out and out.count("\n") == 1
    code, out, _ = call("export", finished, "--out", tmp_path / "b.pt2", "--json")
    assert code == 0 and json.loads(out)["format"] == "pt2"


@pytest.mark.parametrize(
    "out, word, code",
    [
        ("small.xyz", "small.xyz ends with .xyz, which names no format", 2),
        ("", "is a folder", 1),
        ("/proc/nothing/small.onnx", "cannot", 1),
    ],
)
def test_what_cannot_be_written_is_refused(refused, finished, tmp_path, out, word, code):
    more = ["--format", "onnx"] if not out else []
    assert word in refused(
        "export",
        finished,
        "--out",
        tmp_path / out if not out.startswith("/") else out,
        *more,
        code=code,
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_not_kept(finished, tmp_path, monkeypatch):
    from pass_transfer.errors import StorageError

    monkeypatch.setattr("pass_transfer.pruned.export.TOLERANCE", -1.0)
    with pytest.raises(StorageError, match="differs from torch"):
        export_model(load_pruned(finished), tmp_path / "small.onnx")
    assert list(tmp_path.iterdir()) == []
