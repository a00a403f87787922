"""Fine-tune a whole network on a task: how a zoo entry's backbone is made, and the dense reference."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import torch

from pass_transfer.files import read_json, sha256, write_json, write_tensors
from pass_transfer.networks import BackboneSpec, build_backbone, load_weights
from pass_transfer.networks.network import Network
from pass_transfer.progress import say
from pass_transfer.shrinking.classifier import fit_head
from pass_transfer.shrinking.finetune import FinetuneConfig, finetune
from pass_transfer.shrinking.recalibrate import recalibrate
from pass_transfer.tasks import load_task
from pass_transfer.training import RunFolder, choose_runtime, evaluate
from pass_transfer.training.run_folder import check_free

FINAL_IMAGES = (
    16384  # for the statistics a finished backbone keeps: unaugmented images, which it will see
)


def half_precision(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of two or more dimensions in float16; BatchNorm, biases and counters as they are."""
    return {
        name: t.half() if t.is_floating_point() and t.ndim > 1 else t for name, t in state.items()
    }


def _origin(weights: str) -> str:
    """Which weights these are: a file's name and the start of its sha-256, or a torchvision name."""
    path = Path(weights).expanduser()
    return f"{path.name} {sha256(path)[:16]}" if path.is_file() else str(weights)


def pretrain(
    architecture: str,
    weights: str,
    task: str,
    out: str | Path,
    *,
    size: int = 64,
    data_dir: str | None = None,
    config: FinetuneConfig = FinetuneConfig(epochs=6),
    device: str = "auto",
    precision: str = "auto",
    resume: bool = False,
    force: bool = False,
) -> dict:
    """Train a backbone on a task and save it in half precision.

    Args:
        architecture: a torchvision name, such as "resnet18".
        weights: what to start from (see load_weights).
        task, size, data_dir: see load_task.
        out: folder for backbone.safetensors, backbone.json and the run's metrics.

    Returns:
        The content of backbone.json, with the test accuracy of the network as stored.
    """
    started = time.monotonic()
    check_free(out, resume=resume, force=force)
    build_backbone(
        BackboneSpec(architecture, 2, size)
    )  # a wrong name or size fails here, before any image is read
    runtime = choose_runtime(device, precision)
    say(f"running on {runtime.reason}")
    data = load_task(task, size, data_dir)
    torch.manual_seed(config.seed)
    spec = BackboneSpec(architecture, data.classes, size)
    network = Network(build_backbone(spec), spec.mean, spec.std)
    left = load_weights(network.backbone, architecture, weights)
    settings = {
        "recipe": "pretrain",
        "architecture": architecture,
        "weights": _origin(weights),
        "task": task,
        "size": size,
    }
    run = RunFolder(
        out, settings | dataclasses.asdict(config), resume=resume, force=force, started=started
    )
    if run.resumed and (run.path / "backbone.json").exists():
        say(f"{run.path} is already finished")
        run.drop_checkpoints()
        return read_json(run.path / "backbone.json")
    runtime.place(network)
    recalibrate(network, data.train, runtime, seed=config.seed)
    if left:
        fit_head(network, data.train, data.classes, runtime, config.seed)
    finetune(network, data, config, runtime, run)
    recalibrate(network, data.train, runtime, images=FINAL_IMAGES, seed=config.seed)
    stored = half_precision(network.backbone.state_dict())
    network.backbone.load_state_dict(stored)
    accuracy = evaluate(network, data.test, runtime)
    result = {
        "spec": dataclasses.asdict(spec),
        "classes": list(data.class_names),
        "task": task,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "seconds": round(run.seconds, 1),
        "config": settings | dataclasses.asdict(config),
    }
    write_tensors(Path(out) / "backbone.safetensors", stored)
    write_json(Path(out) / "backbone.json", result)
    run.drop_checkpoints()
    return result
