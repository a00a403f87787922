"""How a method is chosen by its name, with which settings, and what it may not do."""

import json

import pytest
import torch

from pass_transfer.errors import DivergedError, UsageError
from pass_transfer.networks import BackboneSpec
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.scoring.method import Context, Found, register
from pass_transfer.scoring.methods import METHODS
from pass_transfer.scoring.registry import ChosenMethod, choose_method

COUPLED = sorted(name for name, method in METHODS.items() if method.coupled)
UNCOUPLED = sorted(set(METHODS) - set(COUPLED))
WITH_ENTRY = sorted(name for name, method in METHODS.items() if method.needs_hypernet)


@pytest.fixture
def context(networks, digits, cpu):
    """A network and a task, without a zoo entry."""
    module, groups = networks("resnet18")
    dense = PretrainedBackbone(module, BackboneSpec("resnet18", 10, 32), groups, "random")
    return Context(dense, groups, digits, cpu)


@pytest.fixture
def own_method(monkeypatch):
    """A function of a context -> it is chosen as the method "mine", for this test."""

    def add(scores, **fields):
        with monkeypatch.context() as patch:
            patch.setitem(METHODS, "mine", None)
            register("mine", **fields)(scores)
            return choose_method("mine")

    return add


def test_a_method_comes_with_its_default_settings():
    prompt = choose_method("prompt")
    assert prompt.name == "prompt" and prompt.method == METHODS["prompt"]
    assert (prompt.settings.prior, prompt.settings.deploy_prompt) == ("task", True)
    assert (prompt.uniform, prompt.coupling) == (False, "grouped")
    assert choose_method("random") == ChosenMethod(METHODS["random"])


def test_what_is_given_takes_the_place_of_a_default():
    prompt = choose_method("prompt", {"steps": 3, "prior": "source"}).settings
    assert (prompt.steps, prompt.prior, prompt.deploy_prompt) == (3, "source", True)


def test_a_name_of_ones_own_stands_for_a_variant_of_a_method():
    deaf = choose_method("deaf", {"method": "pass_from_scratch", "uses_prompt": False})
    assert deaf.name == "pass_from_scratch" and not deaf.settings.uses_prompt
    assert deaf.saved()["method"] == "pass_from_scratch"
    assert choose_method("group_l1", {"method": "group_l1"}) == choose_method("group_l1")


def test_a_variant_may_not_be_called_as_another_method_is():
    with pytest.raises(UsageError, match="random is a method of its own"):
        choose_method("random", {"method": "group_l1"})


OLD_PROMPT = {"prior": "source", "deploy_prompt": False}


@pytest.mark.parametrize(
    "old, new, meant",
    [
        ("transfer_prompt", "prompt", OLD_PROMPT),
        ("transfer_mask", "mask", {"deploy_prompt": False}),
        ("forward_selection", "selection", {}),
    ],
)
def test_an_old_name_is_read_with_its_old_meaning(old, new, meant):
    expected = choose_method(new, meant)
    assert choose_method(old) == choose_method("mine", {"method": old}) == expected
    assert choose_method(old).name == new


def test_what_is_given_counts_more_than_what_an_old_name_meant():
    given = {"prior": "task", "steps": 3}
    expected = choose_method("prompt", OLD_PROMPT | given)
    assert choose_method("transfer_prompt", given) == expected


def test_a_setting_is_read_under_its_old_name():
    old = choose_method("pass_from_scratch", {"hears_prompt": False})
    assert old == choose_method("pass_from_scratch", {"uses_prompt": False})


@pytest.mark.parametrize("kind", ["ranbom", 5, ["random"], None])
def test_an_unknown_method_is_named_with_those_that_there_are(kind):
    with pytest.raises(UsageError, match="unknown method") as refusal:
        choose_method("mine", {"method": kind})
    assert repr(kind) in str(refusal.value)
    assert all(name in str(refusal.value) for name in METHODS)


def test_a_name_that_is_no_method_is_refused():
    with pytest.raises(UsageError, match="unknown method 'ranbom'"):
        choose_method("ranbom")


@pytest.mark.parametrize("name", ["random", "taylor", "prompt"])
def test_an_unknown_setting_is_named_with_those_that_there_are(name):
    saved = choose_method(name).saved().items()
    own = [f"{field} ({default!r})" for field, default in list(saved)[3:]]
    with pytest.raises(UsageError, match="unknown setting 'step'") as refusal:
        choose_method(name, {"step": 3})
    assert str(refusal.value).endswith(f"{name} has {', '.join(['uniform', 'coupling', *own])}")


@pytest.mark.parametrize("name", sorted(METHODS))
def test_what_is_saved_as_json_is_the_same_choice_again(name):
    coupling = "grouped" if name in COUPLED else "independent"
    chosen = choose_method(name, {"uniform": True, "coupling": coupling})
    saved = json.loads(json.dumps(chosen.saved()))
    assert choose_method("mine", saved) == chosen


@pytest.mark.parametrize(
    "settings, why",
    [
        ({"steps": "many"}, "steps is 'many'; it is a whole number, by default"),
        ({"steps": True}, "steps is True"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"steps": -1}, "steps is -1"),
        ({"lr": "fast"}, "lr is 'fast'; it is a number"),
        ({"lr": False}, "lr is False"),
        ({"lr": 0}, "lr is 0"),
        ({"deploy_prompt": 1}, "deploy_prompt is 1; it is true or false"),
        ({"prior": 3}, "prior is 3; it is a word"),
        ({"prior": "both"}, "prior is 'both'; choose one of task, source"),
        ({"low": 0.9, "high": 0.5}, "low and high are 0.9 and 0.5"),
    ],
)
def test_a_setting_of_another_type_or_range_is_refused(settings, why):
    with pytest.raises(UsageError, match=why):
        choose_method("prompt", settings)


@pytest.mark.parametrize("lr", [1, "1", "1e0"])
def test_a_number_may_be_whole_or_written_as_yaml_reads_it(lr):
    assert choose_method("prompt", {"lr": lr}).settings.lr == 1.0


@pytest.mark.parametrize("value", [1, "yes", None])
def test_uniform_is_true_or_false(value):
    with pytest.raises(UsageError, match="uniform is"):
        choose_method("random", {"uniform": value})
    assert choose_method("random", {"uniform": True}).uniform


def test_an_unknown_coupling_is_refused():
    with pytest.raises(UsageError, match="coupling is 'loose'; it is grouped or independent"):
        choose_method("random", {"coupling": "loose"})


@pytest.mark.parametrize("name", UNCOUPLED)
def test_every_convolution_may_be_scored_on_its_own(name):
    assert choose_method(name, {"coupling": "independent"}).coupling == "independent"


@pytest.mark.parametrize("name", COUPLED)
def test_a_method_that_scores_whole_groups_alone_refuses_another_coupling(name):
    with pytest.raises(UsageError, match=f"{name} cannot score every convolution on its own"):
        choose_method(name, {"coupling": "independent"})


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_says_what_it_does(name):
    scores = METHODS[name].scores
    scorer = getattr(scores, "func", scores)  # of a family of methods
    assert METHODS[name].name == name and scorer.__doc__


@pytest.mark.parametrize("name", WITH_ENTRY)
def test_what_needs_a_hypernetwork_is_refused_without_one(context, name):
    with pytest.raises(UsageError, match=f"the method {name} needs a hypernetwork"):
        choose_method(name).score(context)


def test_other_methods_need_no_hypernetwork(context):
    assert {"prompt", "mask"} <= set(WITH_ENTRY)
    found = choose_method("random").score(context)
    widths = {name: len(part) for name, part in found.scores.items()}
    assert widths == {name: group.width for name, group in context.groups.items()}
    assert found.prompt is None and not found.deployed


def test_a_method_of_ones_own_is_a_function_that_is_registered(context, own_method):
    def widest(context):
        return {name: torch.arange(g.width) / 1.0 for name, g in context.groups.items()}

    chosen = own_method(widest)
    found = chosen.score(context)
    assert isinstance(found, Found) and chosen.name == "mine"
    assert found.scores["conv1"].argmax() == context.groups["conv1"].width - 1


def test_scores_that_are_not_finite_are_refused(context, own_method):
    chosen = own_method(lambda context: {"conv1": torch.tensor([1.0, torch.nan])})
    with pytest.raises(DivergedError, match="mine found scores that are not finite"):
        chosen.score(context)
