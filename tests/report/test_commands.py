"""The commands in a report, read back by the command line itself."""

import dataclasses
import shlex

import pytest

from pass_transfer.cli.main import run as command_line
from pass_transfer.recipes.adapt import AdaptConfig
from pass_transfer.report.command import adapt_command, evaluation_command, report_command

CASES = [
    {},
    {"macs": "70M"},
    {"macs": 0.3, "seed": 7},
    {"macs": None, "params": "3M", "round_to": 4, "keep_layers": ("layer1.*", "fc")},
    {"macs": None, "density": 0.4, "transfer": "mask"},
    {"macs": None, "latency_ms": 60.0, "latency_batch": 32, "round_to": 16},
    {"distill": 0.5, "temperature": 2.0},
    {
        "budget": "full",
        "epochs": 3,
        "batch_size": 32,
        "lr": 0.01,
        "weight_decay": 0.0,
        "prompt_steps": 0,
        "prompt_lr": 0.002,
        "label_mapping": "frequency",
        "deploy_prompt": False,
    },
]


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


def of(settings, **more):
    """A run's config.json and result.json of these settings."""
    config = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(AdaptConfig(**settings)).items()
        if key != "with_dense"
    }
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
    arguments, given = asked(
        monkeypatch, adapt_command(*of(settings)), "pass_transfer.recipes.adapt.adapt"
    )
    assert arguments == ("zoo/r18", "folder:my 'photos'") and str(given["out"]) == "runs/a b"
    assert (
        given["device"],
        given["precision"],
        given["data_dir"],
        given["resume"],
        given["force"],
    ) == ("cpu", "bf16", None, False, False)
    names = {field.name for field in dataclasses.fields(AdaptConfig)}
    settled = {"macs": None} | {key: value for key, value in given.items() if key in names}
    assert AdaptConfig(**settled) == AdaptConfig(**settings)


def test_a_folder_of_data_and_the_dense_network_are_asked_for_again(monkeypatch):
    config, result = of({}, data_dir="my data")
    _, given = asked(
        monkeypatch,
        adapt_command(config, result | {"dense_top1": 70.0}),
        "pass_transfer.recipes.adapt.adapt",
    )
    assert given["data_dir"] == "my data" and given["with_dense"] is True
    arguments, given = asked(
        monkeypatch,
        evaluation_command(config, result),
        "pass_transfer.recipes.eval.evaluate_run",
    )
    assert [*map(str, arguments)] == ["runs/a b", "folder:my 'photos'"] and given == {
        "data_dir": "my data",
        "device": "cpu",
        "precision": "bf16",
    }


def test_ones_own_weights_and_a_dense_network_are_asked_for_again(monkeypatch):
    config, result = of(
        {"distill": 0.5}, backbone_file="my weights.safetensors", dense_run="runs/taught"
    )
    _, given = asked(
        monkeypatch,
        adapt_command(config, result | {"dense_top1": 70.0}),
        "pass_transfer.recipes.adapt.adapt",
    )
    assert (str(given["backbone"]), str(given["dense"]), given["with_dense"]) == (
        "my weights.safetensors",
        "runs/taught",
        False,
    )


def test_a_run_of_an_earlier_version_has_a_command_too(monkeypatch):
    config, result = of({})
    for name in ("params", "round_to", "reconstruct", "keep_layers", "data_dir"):
        del config[name]
    _, given = asked(
        monkeypatch, adapt_command(config, result), "pass_transfer.recipes.adapt.adapt"
    )
    assert given["macs"] == "0.5" and given["round_to"] == 1 and given["reconstruct"] is False


def test_the_report_is_asked_for_by_its_folder(monkeypatch):
    arguments, _ = asked(
        monkeypatch, report_command(of({})[1]), "pass_transfer.report.write_report"
    )
    assert [*map(str, arguments)] == ["runs/a b"]
