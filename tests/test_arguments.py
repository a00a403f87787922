"""What is no argument for a call is refused in our own words, with the argument's name."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import pass_transfer as pt
from pass_transfer.errors import BackboneError, UsageError
from pass_transfer.prompts import Prompt
from pass_transfer.pruned import PrunedModel

NO_PATHS = [None, 3, b"x", ["x"], "a\0b", "a" * 5000]
FLAGS = ("resume", "force", "reconstruct", "with_dense")


@pytest.fixture(scope="module")
def hypernet(entry):
    return pt.load_hypernet(entry)


@pytest.fixture(scope="module")
def model(hypernet):
    names = [str(number) for number in range(10)]
    return PrunedModel(hypernet.network(), hypernet.spec, names, {}).eval()


@pytest.fixture(scope="module")
def masks(hypernet):
    return hypernet.generate_masks(hypernet.prompt(), macs=0.5)


@pytest.mark.parametrize("given", NO_PATHS, ids=lambda given: str(given)[:9])
def test_what_is_no_path_is_refused_wherever_one_is_asked_for(given, hypernet, model, masks):
    calls = {
        "folder": [lambda: pt.load_pruned(given), lambda: model.save(given)],
        "path": [lambda: model.export(given), lambda: masks.save(given), lambda: masks.load(given)],
        "hypernet": [lambda: pt.load_hypernet(given)],
        "out": [lambda: pt.adapt(hypernet, "digits", out=given)],
        "run": [lambda: pt.write_report(given)],
        "backbone": [lambda: pt.own_backbone(hypernet, given, "digits")],
    }
    if given is not None:
        calls["data_dir"] = [lambda: pt.load_task("dtd", 32, given)]
        calls["hypernet"].append(lambda: pt.adapt(given, "digits", out="x"))
    for argument, all_of_it in calls.items():
        for call in all_of_it:
            with pytest.raises(UsageError, match=f"^{argument} is ") as refused:
                call()
            assert refused.value.argument == argument and len(str(refused.value)) < 160
    assert not Path("x").exists()


@pytest.mark.parametrize("given", [None, 3, b"digits", ["digits"], pt])
def test_what_is_no_task_is_refused(given, hypernet, model):
    for call in (
        lambda: pt.load_task(given, 32),
        lambda: pt.tune_prompt(hypernet, given),
        lambda: pt.on_task(hypernet, given),
        lambda: model.evaluate(given),
    ):
        with pytest.raises(UsageError, match="^task is .*folder:PATH"):
            call()


@pytest.mark.parametrize("size", [None, 0, -1, 2.5, "32", True])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(UsageError, match="^size is "):
        pt.load_task("digits", size)


def test_a_task_of_another_size_is_refused_with_the_call_that_loads_the_right_one(hypernet):
    task = pt.load_task("digits", 16)
    for call in (pt.tune_prompt, pt.on_task):
        with pytest.raises(UsageError, match=r"at 16 pixels.* takes 32: load_task\('digits', 32\)"):
            call(hypernet, task)


def test_a_task_seen_in_another_way_is_refused_with_the_call_that_loads_the_right_one(hypernet):
    task = pt.load_task("digits", pt.Preprocessing(32, "squash"))
    with pytest.raises(UsageError, match=r"are squashed .* load_task\('digits', hypernet.spec"):
        pt.tune_prompt(hypernet, task)


@pytest.mark.parametrize("given", [None, 3, "zoo/r18_tinyimnet", nn.Linear(2, 2)])
def test_what_is_no_hypernet_is_refused_where_a_loaded_one_is_asked_for(given, tmp_path):
    for call in (
        lambda: pt.tune_prompt(given, "digits"),
        lambda: pt.on_task(given, "digits"),
        lambda: pt.own_backbone(given, tmp_path / "weights.safetensors", "digits"),
    ):
        with pytest.raises(UsageError, match="^hypernet is .*load_hypernet"):
            call()


def prompt_of(values):
    prompt = Prompt(size=32, pad=3)
    prompt.values = nn.Parameter(values)
    return prompt


@pytest.mark.parametrize(
    "prompt, message",
    [
        (None, "^prompt is None; it is a Prompt"),
        (torch.zeros(3, 32, 32), "^prompt is a Tensor; it is a Prompt"),
        (Prompt(size=64), "for images of 64 pixels; .* takes 32"),
        (prompt_of(torch.zeros(3, 8, 8)), r"\(3, 8, 8\); they are \(3, 32, 32\)"),
        (prompt_of(torch.zeros(3, 32, 32, device="meta")), "on no device"),
        (prompt_of(torch.full((3, 32, 32), torch.nan)), "NaN or infinity"),
        (prompt_of(torch.full((3, 32, 32), torch.inf)), "NaN or infinity"),
    ],
)
def test_what_is_no_prompt_of_this_backbone_is_refused(hypernet, prompt, message):
    with pytest.raises(UsageError, match=message):
        hypernet.generate_masks(prompt, macs=0.5)


@pytest.mark.parametrize(
    "argument, given",
    [("classes", "x"), ("classes", 0), ("classes", 2.5), ("device", "tpu9"), ("device", [1])],
)
def test_classes_and_device_are_refused_by_name(hypernet, argument, given):
    with pytest.raises(UsageError, match=f"^{argument} is "):
        hypernet.generate_masks(hypernet.prompt(), macs=0.5, **{argument: given})


@pytest.mark.parametrize("budget", [0.5, "half", None])
def test_a_budget_that_is_none_is_refused_when_it_is_checked(hypernet, budget):
    with pytest.raises(UsageError):
        hypernet.check_budget(budget)


@pytest.mark.parametrize("given", [None, "resnet18", {}, nn.ReLU])
def test_masks_are_applied_to_networks_alone(masks, hypernet, given):
    for call in (lambda: masks.apply(given), lambda: hypernet.with_backbone(given)):
        with pytest.raises(UsageError, match="^backbone is .*; it is a network"):
            call()


class Failing(nn.Linear):
    def forward(self, images):
        raise ZeroDivisionError("of the user's own")


@pytest.mark.parametrize(
    "network, why",
    [
        (nn.Linear(3, 3), "RuntimeError: "),
        (nn.Sequential(), "has no weights"),
        (nn.Embedding(2, 3), "does not take images"),
        (Failing(3, 3), "ZeroDivisionError: of the user's own"),
    ],
)
def test_a_network_that_takes_no_images_is_refused_with_its_own_reason(masks, network, why):
    with pytest.raises(BackboneError, match=f"{type(network).__name__} .*{why}"):
        masks.apply(network)


def test_a_prior_is_refused_that_is_none(hypernet):
    widths = {name: group.width for name, group in hypernet.groups.items()}
    wrong = [None, [1], {name: [0.0] * width for name, width in widths.items()}]
    for prior in wrong:
        with pytest.raises(UsageError, match="^prior is "):
            hypernet.with_prior(prior)
    with pytest.raises(BackboneError, match="NaN"):
        hypernet.with_prior({name: torch.full((w,), torch.nan) for name, w in widths.items()})


def test_masks_are_tensors_by_group_and_compared_with_masks(masks):
    for given in (None, [1], {"conv1": [True]}):
        with pytest.raises(UsageError):
            pt.ChannelMasks(given)
    for compare in (masks.difference, masks.issubset):
        with pytest.raises(UsageError, match="^other is None"):
            compare(None)


@pytest.mark.parametrize(
    "images, message",
    [
        (None, "^images is None; it is a tensor"),
        ([[0.5]], "^images is a list"),
        (torch.zeros(1, 3, 32, 32).numpy(), "^images is a ndarray"),
        (torch.zeros(1, 3, 16, 16), r"\(1, 3, 16, 16\); this model takes \(batch, 3, 32, 32\)"),
        (torch.zeros(1, 1, 32, 32), r"\(1, 1, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.float64), r"float64.* in torch.float32.* to\(dtype"),
        (torch.zeros(1, 3, 32, 32, device="meta"), "on meta, the model is on cpu"),
    ],
)
def test_a_model_says_what_images_it_takes(model, images, message):
    with pytest.raises(UsageError, match=message):
        model(images)


@pytest.mark.filterwarnings("ignore")
def test_a_model_can_be_traced_compiled_and_moved(model):
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(torch.jit.trace(model, images)(images), expected)
        assert torch.equal(torch.compile(model, backend="eager")(images), expected)
        torch.testing.assert_close(
            torch.func.vmap(lambda one: model(one[None])[0])(images), expected
        )
    assert copy.deepcopy(model).to("meta")(images.to("meta")).shape == (2, 10)


def test_a_model_in_another_dtype_or_under_autocast_takes_what_torch_takes(model):
    images = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    assert model.double()(images).dtype == torch.float64
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images.float()).shape == (1, 10)


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("given", ["yes", None, 1])
def test_flags_are_true_or_false(hypernet, tmp_path, flag, given):
    with pytest.raises(UsageError, match=f"^{flag} is .*True or False"):
        pt.adapt(hypernet, "digits", out=tmp_path / "run", **{flag: given})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "argument, given",
    [("batch_size", None), ("seed", None), ("keep_layers", 3), ("keep_layers", None)],
)
def test_options_of_adapt_are_refused_by_name(hypernet, tmp_path, argument, given):
    with pytest.raises(UsageError, match=f"^{argument} is "):
        pt.adapt(hypernet, "digits", out=tmp_path / "run", **{argument: given})


@pytest.mark.parametrize(
    "given, why",
    [
        ({"paths": None}, "^paths is None; it is a list of paths"),
        ({"paths": "photo.jpg"}, "^paths is 'photo.jpg'"),
        ({"paths": (path for path in "ab")}, "^paths is a generator"),
        ({"top": True}, "^top is True; the model knows 10 classes"),
        ({"top": 11}, "^top is 11"),
        ({"top": "1"}, "^top is '1'"),
        ({"batch_size": 0}, "^batch_size is 0"),
        ({"batch_size": 2.5}, "^batch_size is 2.5"),
    ],
)
def test_what_is_no_argument_of_predict_is_refused(given, why, model):
    with pytest.raises(UsageError, match=why):
        model.predict(**({"paths": []} | given))


@pytest.mark.parametrize("given", [(None, 8), (3, 8), ("photo.jpg", 0), ("photo.jpg", "8")])
def test_what_is_no_image_or_size_is_refused(given):
    with pytest.raises(UsageError, match="^(path|size) is "):
        pt.read_image(*given)
