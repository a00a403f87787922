"""Fine-tune a whole network on a task: how a zoo entry's backbone is made."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from pass_transfer.arguments import expanded
from pass_transfer.files import sha256, write_json, write_tensors
from pass_transfer.networks import BackboneSpec, build_backbone, load_weights
from pass_transfer.networks.named import named_spec
from pass_transfer.networks.network import Network
from pass_transfer.networks.outline import load_tensors
from pass_transfer.progress import say
from pass_transfer.random_streams import seed_layers
from pass_transfer.recipes.options import RunOptions, check_image_size, refuse_unknown, take
from pass_transfer.runs.backbone import NOTE, WEIGHTS, read_note
from pass_transfer.runs.data import check_data, keep_data
from pass_transfer.shrinking.classifier import fit_head
from pass_transfer.shrinking.finetune import FinetuneConfig
from pass_transfer.shrinking.finetune import finetune as train
from pass_transfer.shrinking.recalibrate import recalibrate
from pass_transfer.surroundings import as_guest
from pass_transfer.tasks import Task, load_task
from pass_transfer.tasks.registry import check_name
from pass_transfer.training import RunFolder, Runtime, choose_runtime, evaluate
from pass_transfer.training.run_folder import check_free
from pass_transfer.training.shared_folder import open_folder

FINAL_IMAGES = 16384  # for a finished backbone's statistics: unaugmented images, as it will see
DEFAULT = FinetuneConfig(epochs=6)


@as_guest
def finetune(
    architecture: str,
    weights: str | Path | None,
    task: str,
    out: str | Path,
    *,
    image_size: int = 64,
    data_dir: str | None = None,
    config: FinetuneConfig = DEFAULT,
    **options: Any,
) -> dict[str, Any]:
    """Train a backbone on a task and save it in half precision.

    Args:
        architecture, weights: what to start from (see load_network); the preprocessing of these
            weights becomes the backbone's.
        task, data_dir: see load_task.
        image_size: side of an image in pixels, up to 512.
        out: folder for backbone.safetensors, backbone.json and the run's metrics.
        options: device, precision, resume and force of RunOptions.

    Returns:
        The content of backbone.json, with the test accuracy of the network as stored.
    """
    started, where = time.monotonic(), take(RunOptions, options)
    refuse_unknown(options, "finetune")
    check_free(out, resume=where.resume, force=where.force)
    check_name(task)
    check_image_size(image_size)
    spec, weights = named_spec(architecture, weights, image_size)  # refused before images are read
    runtime = choose_runtime(where.device, where.precision)
    say(f"running on {runtime.reason}")
    data = load_task(task, spec.preprocessing, data_dir)
    if where.resume:
        check_data(out, data)
    seed_layers(config.seed, runtime.device)
    spec = dataclasses.replace(spec, classes=data.classes)
    network = Network(build_backbone(spec), spec.mean, spec.std)
    left = load_weights(network.backbone, spec, weights)
    settings = _made_from(spec, weights) | {"task": task, "data": data.record.fingerprints()}
    identity = settings | dataclasses.asdict(config)
    again = {"resume": where.resume, "force": where.force}
    run = open_folder(out, identity, runtime.processes, started=started, **again)
    keep_data(run.path, data)
    if run.resumed and (run.path / NOTE).exists():
        say(f"{run.path} is already finished")
        run.drop_checkpoints()
        return read_note(run.path)
    runtime.place(network)
    _begin(network, bool(left), data, runtime, config.seed)
    train(network, data, config, runtime, run)
    recalibrate(network, data.train, runtime, images=FINAL_IMAGES, seed=config.seed)
    said = {"spec": dataclasses.asdict(spec), "classes": list(data.class_names), "task": task}
    result = _save(run, network, data, runtime, said | {"config": identity})
    runtime.processes.wait()  # the files of the first process are there
    return result


def _made_from(spec: BackboneSpec, weights: str | Path | None) -> dict[str, Any]:
    """What a fine-tuning starts from, as config.json has it."""
    return {
        "recipe": "pretrain",  # as version 0.1 called it
        "architecture": spec.architecture,
        "weights": _which(weights),
        "size": spec.image_size,
        "preprocessing": dict(spec.preprocessing.saved()),
    }


def _begin(network: Network, new_head: bool, data: Task, runtime: Runtime, seed: int) -> None:
    """Statistics of the task's images, and a classifier from class means, if it needs one."""
    recalibrate(network, data.train, runtime, seed=seed)
    if new_head:
        fit_head(network, data.train, data.classes, runtime, seed)


def _save(
    run: RunFolder, network: Network, data: Task, runtime: Runtime, said: dict[str, Any]
) -> dict[str, Any]:
    """The network in half precision, with its accuracy as stored."""
    stored = half_precision(network.backbone.state_dict())
    load_tensors(network.backbone, stored)
    accuracy = evaluate(network, data.test, runtime)
    seconds = round(run.seconds, 1)
    result = said | {"top1": accuracy.top1, "top5": accuracy.top5, "seconds": seconds}
    write_tensors(run.path / WEIGHTS, stored)
    write_json(run.path / NOTE, result)
    run.drop_checkpoints()
    return result


def half_precision(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of two or more dimensions in float16; BatchNorm, biases and counters as they are."""
    halved = {}
    for name, tensor in state.items():
        is_weight = tensor.is_floating_point() and tensor.ndim > 1
        halved[name] = tensor.half() if is_weight else tensor
    return halved


def _which(weights: str | Path | None) -> str | None:
    """Which weights these are: a file's name with the start of its sha-256, or another name."""
    if weights is None:
        return None
    path = expanded(weights)
    return f"{path.name} {sha256(path)[:16]}" if path.is_file() else str(weights)
