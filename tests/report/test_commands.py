"""The commands in a report, read back by the command line itself."""

import dataclasses
import json
import shlex

import pytest

from pass_transfer.budgets import Budget
from pass_transfer.cli.main import run as command_line
from pass_transfer.recipes.adapt_config import AdaptConfig
from pass_transfer.recipes.options import take_budget
from pass_transfer.report.command import adapt_command, evaluation_command, report_command
from pass_transfer.runs.files import modern_config

CASES = [
    {},
    {"budget": Budget(macs="70M")},
    {"budget": Budget(macs=0.3), "seed": 7},
    {"budget": Budget(params="3M", round_to=4, keep_layers=("layer1.*", "fc"))},
    {"budget": Budget(density=0.4), "method": "mask", "settings": {"deploy_prompt": False}},
    {"budget": Budget(latency_ms=60.0, batch=32, round_to=16)},
    {"distill": 0.5, "temperature": 2.0},
    {"method": "taylor", "settings": {"images": 512, "uniform": True}},
    {"method": "learned_score", "settings": {"start": "l1", "bounded": True, "lr": 1e-5}},
    {
        "effort": "full",
        "settings": {"steps": 0, "lr": 0.002, "prior": "source", "deploy_prompt": False},
        "epochs": 3,
        "batch_size": 32,
        "lr": 0.01,
        "weight_decay": 0.0,
        "label_mapping": "frequency",
        "reconstruct": False,
    },
]


ADAPT = "pass_transfer.recipes.adapt.adapt"


class Called(Exception):
    """What a verb would have done."""


def asked(monkeypatch, command, home):
    """Positional and keyword arguments that a command gives to the recipe behind it."""
    got = []

    def recipe(*arguments, **settings):
        got.append((arguments, settings))
        raise Called

    monkeypatch.setattr(home, recipe)
    words = shlex.split(command)
    assert words[0] == "pass-transfer"
    with pytest.raises(Called):
        command_line(words[1:])
    return got[0]


def config_of(given):
    """The settings of a run among the arguments of adapt."""
    names = {field.name for field in dataclasses.fields(AdaptConfig)}
    options = {"budget": take_budget(dict(given))}
    options |= {key: value for key, value in given.items() if key in names}
    return AdaptConfig(**options)


def of(settings, **more):
    """A run's config.json and result.json of these settings."""
    config = json.loads(json.dumps(AdaptConfig(**settings).identity_fields()))
    config |= {
        "recipe": "adapt",
        "entry": "zoo/r18",
        "task": "folder:my 'photos'",
        "data_dir": None,
        "device": "cpu",
        "precision": "bf16",
    }
    return config | more, {"run": "runs/a b", "dense_top1": None}


@pytest.mark.parametrize("settings", CASES, ids=repr)
def test_the_command_gives_the_recipe_the_settings_of_the_run(monkeypatch, settings):
    arguments, given = asked(monkeypatch, adapt_command(*of(settings)), ADAPT)
    assert arguments == ("zoo/r18", "folder:my 'photos'") and str(given["out"]) == "runs/a b"
    assert (given["device"], given["precision"], given["data_dir"]) == ("cpu", "bf16", None)
    assert (given["resume"], given["force"]) == (False, False)
    again = config_of(given)
    expected = AdaptConfig(**settings)
    if not expected.distill:
        again = dataclasses.replace(again, temperature=expected.temperature)
    assert again.identity_fields() == expected.identity_fields()


def test_a_folder_of_data_and_the_dense_network_are_asked_for_again(monkeypatch):
    config, result = of({}, data_dir="my data")
    command = adapt_command(config, result | {"dense_top1": 70.0})
    _, given = asked(monkeypatch, command, ADAPT)
    assert given["data_dir"] == "my data" and given["with_dense"] is True
    command = evaluation_command(config, result)
    arguments, given = asked(monkeypatch, command, "pass_transfer.recipes.eval.evaluate")
    assert [*map(str, arguments)] == ["runs/a b", "folder:my 'photos'"]
    assert given == {"data_dir": "my data", "device": "cpu", "precision": "bf16"}


def test_ones_own_weights_and_a_dense_network_are_asked_for_again(monkeypatch):
    files = {"backbone_file": "my weights.safetensors", "dense_run": "runs/taught"}
    config, result = of({"distill": 0.5}, **files)
    command = adapt_command(config, result | {"dense_top1": 70.0})
    _, given = asked(monkeypatch, command, ADAPT)
    assert str(given["backbone"]) == "my weights.safetensors"
    assert (str(given["dense"]), given["with_dense"]) == ("runs/taught", False)


def test_a_run_of_an_earlier_version_has_a_command_too(monkeypatch):
    old = {"recipe": "adapt", "entry": "zoo/r18", "task": "digits", "device": "cpu"}
    old |= {"precision": "no", "transfer": "prompt", "macs": 0.5, "density": None}
    old |= {"budget": "full", "epochs": None, "prompt_steps": 20, "prompt_lr": 0.001, "seed": 0}
    command = adapt_command(modern_config(old), of({})[1])
    _, given = asked(monkeypatch, command, ADAPT)
    assert given["macs"] == "0.5" and given["round_to"] == 1 and given["reconstruct"] is False
    assert (given["method"], given["effort"]) == ("prompt", "full")
    assert given["settings"] == {"steps": 20, "prior": "source"}


def test_the_report_is_asked_for_by_its_folder(monkeypatch):
    command = report_command(of({})[1])
    arguments, _ = asked(monkeypatch, command, "pass_transfer.report.write_report")
    assert [*map(str, arguments)] == ["runs/a b"]
