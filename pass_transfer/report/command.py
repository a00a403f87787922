"""The command line that makes a run again, from its config.json."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from pass_transfer.recipes.adapt import AdaptConfig

ALWAYS = (
    "macs",
    "params",
    "density",
    "round_to",
    "seed",
)  # said also where they have their default
FLAGS = {"latency_batch": "--batch"}  # options that are not called like the field
BEFORE = {
    "round_to": 1,
    "reconstruct": False,
}  # what a run did whose config.json has no such field yet


def adapt_command(config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """`pass-transfer adapt` with every option that is not the default, quoted for a POSIX shell.

    Args:
        config: a run's config.json. Device and precision are those that were chosen.
        result: its result.json; --with-dense is said where the dense network was trained.
    """
    words = ["--hypernet", config["entry"], "--task", config["task"]]
    words += ["--data-dir", config["data_dir"]] if config.get("data_dir") else []
    words += ["--backbone", config["backbone_file"]] if config.get("backbone_file") else []
    words += ["--dense", config["dense_run"]] if config.get("dense_run") else []
    for field in dataclasses.fields(AdaptConfig):
        value = config.get(field.name, BEFORE.get(field.name))
        if value is not None and (
            field.name in ALWAYS
            or value != (list(field.default) if isinstance(field.default, tuple) else field.default)
        ):
            words += _option(field.name, value)
    words += (
        ["--with-dense"] if result["dense_top1"] is not None and not config.get("dense_run") else []
    )
    return _line("adapt", *words, *_machine(config), "--out", result["run"])


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


def _option(name: str, value: Any) -> list[str]:
    flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    return [
        word for one in (value if isinstance(value, list) else [value]) for word in (flag, str(one))
    ]
