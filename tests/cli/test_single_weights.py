"""adapt with single weights as units: every method, what is saved, what is refused, resume."""

import json

import onnxruntime
import pytest
import torch

import pass_transfer as pt
from pass_transfer.errors import MaskError
from pass_transfer.files import read_tensors
from pass_transfer.pruned.sparse import unpack
from pass_transfer.scoring.methods import WEIGHT_METHODS
from pass_transfer.weight_masks import WeightMasks

TINY = {
    "hydra": ["steps=2"],
    "vpns": ["steps=2"],
    "bip": ["steps=2"],
    "imp": ["steps=2", "rounds=2"],
    "snip": ["images=16"],
    "grasp": ["images=16"],
    "synflow": ["rounds=3"],
}
UNIT = ["--unit", "weight"]
NINE_TENTHS = [*UNIT, "--sparsity", "0.9"]


def settings(method):
    return [part for setting in TINY.get(method, ()) for part in ("--set", setting)]


@pytest.fixture(scope="module")
def magnitude(entry, tmp_path_factory):
    """A finished run by magnitude; not to be changed."""
    out = tmp_path_factory.mktemp("magnitude") / "run"
    pt.adapt(entry, "digits", out=out, unit="weight", sparsity=0.9, epochs=1, device="cpu")
    return out


@pytest.mark.parametrize("method", sorted(WEIGHT_METHODS))
def test_adapt_runs_by_every_method_and_zeros_stay(
    call, adapting, few_photos, tmp_path, magnitude, method
):
    given = settings(method)
    if method == "mask":
        given = ["--set", f"masks={magnitude / 'masks.safetensors'}"]
    asked = adapting("--task", few_photos, *NINE_TENTHS, "--method", method, "--batch-size", "8")
    code, _, err = call(*asked, *given, "--report")
    assert code == 0, err
    run = tmp_path / "run"
    result = json.loads((run / "result.json").read_text())
    assert result["method"] == method and result["unit"] == "weight"
    assert result["macs"] == result["dense_macs"]
    model, masks = pt.load_pruned(run), WeightMasks.load(run / "masks.safetensors")
    assert model.masks == masks and masks.kept == result["weights_kept"]
    count = sum(result["weights"].values())
    assert sum(masks.kept.values()) == round((1 - 0.9) * count)
    found = dict(model.network.backbone.named_parameters())
    assert all((found[name][~mask] == 0).all() for name, mask in masks.items())
    assert result["dense_parameters"] - result["parameters"] == masks.dropped
    if method == "mask":
        assert masks == WeightMasks.load(magnitude / "masks.safetensors")


def test_the_file_is_small_and_its_export_has_the_same_zeros(magnitude, tmp_path):
    result = json.loads((magnitude / "result.json").read_text())
    assert result["bytes"] <= 0.16 * result["dense_bytes"]
    model, path = pt.load_pruned(magnitude), tmp_path / "sparse.onnx"
    model.export(path)
    images = torch.rand(2, 3, model.spec.image_size, model.spec.image_size)
    session = onnxruntime.InferenceSession(str(path))
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(logits), model(images), atol=1e-3)
    model.save(tmp_path / "again")
    again = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert again == (magnitude / "model.safetensors").read_bytes()


def test_a_pattern_goes_through_to_the_file(call, adapting, few_photos, tmp_path):
    asked = [*UNIT, "--pattern", "2:4", "--keep-layers", "conv1", "--method", "magnitude"]
    code, _, err = call(*adapting("--task", few_photos, *asked, "--batch-size", "8"))
    assert code == 0, err
    masks = pt.load_pruned(tmp_path / "run").masks
    assert "conv1.weight" not in masks
    for mask in masks.values():
        fours = mask.movedim(1, -1).reshape(-1, 4)
        assert (fours.sum(1) == 2).all()


@pytest.mark.parametrize("method", ["vpns", "imp"])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    call, adapting, few_photos, tmp_path, monkeypatch, method
):
    given = [*NINE_TENTHS, "--method", method, *settings(method), "--batch-size", "8"]
    asked = adapting("--task", few_photos, *given)
    assert call(*asked)[0] == 0
    whole = _files(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("pass_transfer.recipes.pipeline.measure", _killed)
        with pytest.raises(_Killed):
            call(*asked, "--force")
    assert call(*asked, "--resume")[0] == 0
    assert _files(tmp_path / "run") == whole


class _Killed(BaseException):
    pass


def _killed(*_):
    raise _Killed


def _files(run):
    names = ("scores", "masks", "model")
    return [(run / f"{name}.safetensors").read_bytes() for name in names]


@pytest.mark.parametrize(
    "given, code, said",
    [
        ([*UNIT, "--sparsity", "1.5"], 2, "--sparsity is 1.5"),
        ([*UNIT], 2, "give sparsity or pattern"),
        ([*UNIT, "--pattern", "4:2"], 2, "--pattern is '4:2'"),
        ([*UNIT, "--sparsity", "0.9", "--macs", "0.5"], 2, "--macs is a budget of channels"),
        ([*NINE_TENTHS, "--method", "taylor"], 2, "scores the unit channel, not the unit weight"),
        (["--method", "hydra"], 2, "scores the unit weight, not the unit channel"),
        (["--sparsity", "0.9"], 2, "--unit weight"),
        (["--unit", "head"], 2, "--unit is 'head'"),
        ([*UNIT, "--pattern", "2:4"], 1, "does not divide the 3 inputs of conv1"),
        ([*NINE_TENTHS, "--keep-layers", "nope"], 2, "called nope"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(refused, adapting, given, code, said):
    asked = adapting("--method", "magnitude")[:-2]  # the method is that of the unit
    assert said in refused(*asked, *given, code=code)


def test_a_value_that_was_altered_is_refused(magnitude, tmp_path):
    tensors = read_tensors(magnitude / "model.safetensors")
    name = next(name for name in tensors if name.endswith(".values"))
    note = json.loads((magnitude / "model.json").read_text())
    with pytest.raises(MaskError, match="not one for each bit"):
        unpack(tensors | {name: tensors[name][1:]}, note["sparse"])
