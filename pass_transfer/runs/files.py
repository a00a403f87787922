"""What a run's files are called, and how those of version 0.1 are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pass_transfer.errors import RunError, StorageError, UsageError
from pass_transfer.files import read_object
from pass_transfer.networks.spec import MOST_CLASSES
from pass_transfer.scoring.registry import choose_method
from pass_transfer.settings import (
    OBJECT,
    TEXT,
    TRUTH,
    Kind,
    check_fields,
    listed,
    maybe,
    named,
    number,
    shaped,
    whole,
)
from pass_transfer.training.run_folder import CONFIG

RESULT = "result.json"
SHORTEST = 1e-6  # milliseconds that anything takes
SCORES, PROMPT, MASKS = "scores.safetensors", "prompt.safetensors", "masks.safetensors"
OLD_PRIOR = "prior.safetensors"  # version 0.1 kept what a prompt corrects, in place of the scores
SCORED = "score-done.json"  # among the checkpoints: the scores are whole, and what they cost
DENSE_DONE = "dense-done.json"  # the same of the dense network
COMPARED = "compared-done.json"  # of the one that the small network is compared with, if another

OLD_BOUNDS = ("macs", "params", "density", "latency_ms")
OLD_FIELDS = {"transfer", "prior", "prompt_steps", "prompt_lr", "deploy_prompt", "tuning"}
OLD_FIELDS |= {"latency_batch", "round_to", "keep_layers", *OLD_BOUNDS}
OLD_NEEDED = {"transfer": TEXT, "budget": TEXT, "prompt_steps": whole(), "prompt_lr": number(0)}
OLD_KNOWN = {"latency_batch": whole(1), "round_to": whole(1), "keep_layers": listed(TEXT)}


PERCENT, TIME, SIZE = number(0, 100), number(0), whole(1)
RESULT_FIELDS = {
    "task": TEXT,
    "hypernet": maybe(TEXT),
    "method": TEXT,
    "seed": whole(),
    "device": TEXT,
    "run": TEXT,
    "top1": PERCENT,
    "top5": PERCENT,
    "top1_without_prompt": maybe(PERCENT),
    "dense_top1": maybe(PERCENT),
    "images": SIZE,
    "skipped_images": whole(),
    "macs": SIZE,
    "dense_macs": SIZE,
    "parameters": SIZE,
    "dense_parameters": SIZE,
    "latency_ms": named(number(SHORTEST)),
    "dense_latency_ms": named(number(SHORTEST)),
    "channels_kept": named(SIZE),
    "channels": named(SIZE),
    "search_seconds": TIME,
    "seconds": TIME,
    "dense_seconds": maybe(TIME),
}
CLASS = Kind("a class with a count", lambda value: _is_class(value))
DATA = shaped(  # what was understood of the images (tasks/overview.py)
    classes=whole(1),
    splits=named(shaped(images=whole(), smallest=CLASS, largest=CLASS)),
    left_out=listed(shaped(reason=TEXT, count=whole(), names=listed(TEXT))),
    treated=named(whole()),
    copies=named(whole()),
)
SHARE = number(0, 1)
RESULT_MAY_HAVE = {
    "data": DATA,
    "from": TEXT,
    "whole_macs": SIZE,
    "network": TEXT,
    "unit": TEXT,
    "sparsity": SHARE,
    "weights_kept": named(whole()),
    "weights": named(SIZE),
    "bytes": SIZE,
    "dense_bytes": SIZE,
}
FINGERPRINTS = named(shaped(images=whole(), sha256=TEXT))  # of each split (tasks/record.py)
CONFIG_FIELDS = {
    "recipe": TEXT,
    "entry": maybe(TEXT),
    "fingerprint": maybe(TEXT),
    "task": TEXT,
    "classes": whole(1, MOST_CLASSES),
    "images": SIZE,
    "device": TEXT,
    "precision": TEXT,
    "versions": named(TEXT),
    "method": TEXT,
    "settings": OBJECT,
    "budget": OBJECT,
    "effort": TEXT,
    "batch_size": SIZE,
    "lr": number(0),
    "weight_decay": number(0),
    "label_mapping": TEXT,
    "reconstruct": TRUTH,
    "seed": whole(),
}
CONFIG_MAY_HAVE = {
    "preprocessing": OBJECT,
    "backbone": maybe(TEXT),
    "data_dir": maybe(TEXT),
    "backbone_file": maybe(TEXT),
    "dense_run": maybe(TEXT),
    "epochs": maybe(SIZE),
    "dense_epochs": SIZE,
    "distill": PERCENT,
    "temperature": number(0),
    "teacher": maybe(TEXT),
    "from": maybe(TEXT),
    "from_run": maybe(TEXT),
    "network": TEXT,
    "inputs": OBJECT,
    "weights_given": maybe(TEXT),
    "threads": SIZE,
    "measuring": TEXT,
    "images_per_class": SIZE,
    "unit": TEXT,
    "data": FINGERPRINTS,
}


def _is_class(value: Any) -> bool:
    """Whether a value is a class name with a number of images, as JSON has it."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    return TEXT.fits(value[0]) and whole().fits(value[1])


def read_result(run: Path) -> dict[str, Any]:
    """A run's result.json; version 0.1 called the method a transfer.

    Raises StorageError for one that is damaged; it names the field.
    """
    result = read_object(run / RESULT)
    if "transfer" in result:
        result["method"] = result.pop("transfer")
    try:
        check_fields(result, RESULT_FIELDS, RESULT_MAY_HAVE)
        for name, other in (("latency_ms", "dense_latency_ms"), ("channels_kept", "channels")):
            if set(result[name]) != set(result[other]):
                raise UsageError(f"{name} and {other} have different names")
        for name, kept in result["channels_kept"].items():
            if kept > result["channels"][name]:
                raise UsageError(f"{name} keeps {kept} of {result['channels'][name]} channels")
    except UsageError as error:
        raise StorageError(f"{run / RESULT} is not that of a run: {error}") from error
    return result


def read_config(run: Path) -> dict[str, Any]:
    """The config.json of a run of adapt, with today's fields.

    Raises StorageError for one that is damaged; it names the field.
    """
    try:
        config = modern_config(read_object(run / CONFIG))
        check_fields(config, CONFIG_FIELDS, CONFIG_MAY_HAVE)
    except UsageError as error:
        raise StorageError(f"{run / CONFIG} is not that of a run: {error}") from error
    return config


def check_resumable(run: Path) -> None:
    """Refuse to go on with what version 0.1 left unfinished: it drew other random numbers.

    Raises:
        RunError: so it is.
    """
    config = run / CONFIG
    if config.exists() and "transfer" in read_object(config) and not (run / RESULT).exists():
        raise RunError(
            f"{run} was begun by version 0.1 of pass-transfer, which draws other random numbers; "
            "finish it with that version, or start again (force)"
        )


def modern_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config.json with today's fields, where version 0.1 wrote it.

    Raises UsageError for one that version 0.1 did not write.
    """
    if "transfer" not in config:
        return dict(config)
    check_fields(config, OLD_NEEDED, OLD_KNOWN)
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
