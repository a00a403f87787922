"""The command line that makes a run again, from its config.json."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from pass_transfer.recipes.adapt_config import AdaptConfig
from pass_transfer.scoring.method import CHANNEL
from pass_transfer.scoring.registry import COUPLING, UNIFORM, choose_method

FILES = {"data_dir": "--data-dir", "backbone_file": "--backbone", "dense_run": "--dense"}
OWN = ("method", "settings", "budget", "with_dense")  # fields that are said in their own way


def adapt_command(config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """`pass-transfer adapt` with every option that is not the default, quoted for a POSIX shell.

    Args:
        config: a run's config.json, with today's fields. Device and precision are those that
            were chosen.
        result: its result.json; --with-dense is said where the dense network was trained.
    """
    words = [*_made_from(config), "--task", config["task"]]
    for name, flag in FILES.items():
        words += [flag, config[name]] if config.get(name) else []
    words += ["--method", config["method"], *_settings(config)]
    words += _budget(config["budget"])
    for field in dataclasses.fields(AdaptConfig):
        value = config.get(field.name)
        if field.name in OWN or value is None:
            continue
        if field.name == "seed" or value != field.default:
            words += _option(field.name, value)
    trained = result["dense_top1"] is not None and not config.get("dense_run")
    words += ["--with-dense"] if trained else []
    return _line("adapt", *words, *_machine(config), "--out", result["run"])


def _made_from(config: Mapping[str, Any]) -> list[str]:
    """The zoo entry, the network by its name, or the run that is cut again."""
    if config.get("from"):
        return ["--from", config["from_run"]]
    if config.get("network"):
        weights = config.get("weights_given")
        named = ["--network", config["network"], *(["--weights", weights] if weights else [])]
        return [*named, "--image-size", str(config["inputs"]["image_size"])]
    return ["--hypernet", config["entry"]]


def _settings(config: Mapping[str, Any]) -> list[str]:
    """The method's settings that are not its defaults."""
    defaults = choose_method(config["method"], unit=config.get("unit", CHANNEL)).saved()
    words = []
    for name, value in config["settings"].items():
        if value != defaults.get(name) and name not in (COUPLING,):
            words += ["--set", f"{name}={str(value).lower() if name == UNIFORM else _text(value)}"]
    return words


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _budget(budget: Mapping[str, Any]) -> list[str]:
    """The budget; its bound and rounding are said also where they are the default."""
    words = []
    for name, value in budget.items():
        if name != "fill":
            words += _option(name, value)
    return words


def _option(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    words = []
    for one in value if isinstance(value, list) else [value]:
        words += [flag, str(one)]
    return words


def evaluation_command(config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """`pass-transfer eval`, which measures the saved network as the run did."""
    data = ["--data-dir", config["data_dir"]] if config.get("data_dir") else []
    return _line("eval", result["run"], "--task", config["task"], *data, *_machine(config))


def report_command(result: Mapping[str, Any]) -> str:
    """`pass-transfer report`, which writes the page again."""
    return _line("report", result["run"])


def _line(*words: str) -> str:
    return shlex.join(["pass-transfer", *words])


def _machine(config: Mapping[str, Any]) -> list[str]:
    return ["--device", config["device"], "--precision", config["precision"]]
