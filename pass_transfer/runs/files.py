"""What a run's files are called, and how those of version 0.1 are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pass_transfer.errors import RunError
from pass_transfer.files import read_json
from pass_transfer.scoring.registry import choose_method
from pass_transfer.training.run_folder import CONFIG

RESULT = "result.json"
SCORES, PROMPT, MASKS = "scores.safetensors", "prompt.safetensors", "masks.safetensors"
OLD_PRIOR = "prior.safetensors"  # version 0.1 kept what a prompt corrects, in place of the scores
SCORED = "score-done.json"  # among the checkpoints: the scores are whole, and what they cost
DENSE_DONE = "dense-done.json"  # the same of the dense network

OLD_BOUNDS = ("macs", "params", "density", "latency_ms")
OLD_FIELDS = {"transfer", "prior", "prompt_steps", "prompt_lr", "deploy_prompt", "tuning"}
OLD_FIELDS |= {"latency_batch", "round_to", "keep_layers", *OLD_BOUNDS}


def read_result(run: Path) -> dict[str, Any]:
    """A run's result.json; version 0.1 called the method a transfer. Raises StorageError."""
    result = dict(read_json(run / RESULT))
    if "transfer" in result:
        result["method"] = result.pop("transfer")
    return result


def check_resumable(run: Path) -> None:
    """Refuse to go on with what version 0.1 left unfinished: it drew other random numbers.

    Raises:
        RunError: so it is.
    """
    config = run / CONFIG
    if config.exists() and "transfer" in read_json(config) and not (run / RESULT).exists():
        raise RunError(
            f"{run} was begun by version 0.1 of pass-transfer, which draws other random numbers; "
            "finish it with that version, or start again (force)"
        )


def modern_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config.json with today's fields, where version 0.1 wrote it."""
    if "transfer" not in config:
        return dict(config)
    kept = {name: value for name, value in config.items() if name not in OLD_FIELDS}
    chosen = choose_method(config["transfer"], _old_settings(config))
    bounds = {name: config[name] for name in OLD_BOUNDS if config.get(name) is not None}
    budget = bounds | {"round_to": config.get("round_to", 1)}
    budget |= {"keep_layers": config.get("keep_layers", [])}
    if config.get("latency_batch", 1) > 1:
        budget["batch"] = config["latency_batch"]
    settings = chosen.saved()
    kept |= {"method": settings.pop("method"), "settings": settings, "budget": budget}
    return kept | {"effort": config["budget"], "reconstruct": config.get("reconstruct", False)}


def _old_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The method's settings, which version 0.1 kept as fields of the run."""
    deployed = {"deploy_prompt": config.get("deploy_prompt", True)}
    if config["transfer"] == "mask":
        return deployed
    if config["transfer"] == "selection":
        return {}
    tuned = {"steps": config["prompt_steps"], "lr": config["prompt_lr"]}
    return deployed | tuned | {"prior": config.get("prior", "source")}
