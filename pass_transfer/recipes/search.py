"""From a fine-tuned backbone to a zoo entry: the search on its own task, saved with everything it needs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from pass_transfer.errors import RunError
from pass_transfer.files import read_json, read_tensors, write_json, write_tensors
from pass_transfer.networks import BackboneSpec, ChannelGroups, build_backbone, find_groups
from pass_transfer.networks.network import Network
from pass_transfer.networks.weights import fingerprint
from pass_transfer.progress import say
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig
from pass_transfer.scoring.prior import make_prior
from pass_transfer.scoring.search import SearchConfig, search
from pass_transfer.scoring.source_prior import mean_importance
from pass_transfer.scoring.source_tasks import make_source_tasks
from pass_transfer.tasks import Task, load_task
from pass_transfer.training import RunFolder, Runtime, choose_runtime
from pass_transfer.training.run_folder import check_free
from pass_transfer.zoo.catalogue import CONFIG
from pass_transfer.zoo.entry import save_entry
from pass_transfer.zoo.verify import MANIFEST, verify_files

RESULT = "result.json"
IMPORTANCE = "importance.safetensors"  # among the checkpoints


def make_entry(
    backbone: str | Path,
    out: str | Path,
    *,
    data_dir: str | None = None,
    config: SearchConfig = SearchConfig(),
    shape: HypernetConfig = HypernetConfig(),
    device: str = "auto",
    precision: str = "auto",
    resume: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Search masks on a backbone's own task and write OUT/entry.

    Args:
        backbone: a folder that pretrain wrote, or a zoo entry, whose backbone is taken.
        data_dir: parquet files of the backbone's task.
        config, shape: the recipe and the hypernetwork's shape.

    Raises:
        RunError: no backbone in that folder.
    """
    started = time.monotonic()
    check_free(out, resume=resume, force=force)
    note, stored = _read_backbone(Path(backbone))
    spec = BackboneSpec.from_saved(note["spec"])
    dense = build_backbone(spec)
    dense.load_state_dict(stored)
    runtime = choose_runtime(device, precision)
    say(f"running on {runtime.reason}")
    data = load_task(note["task"], spec.image_size, data_dir)
    recipe = {"search": dataclasses.asdict(config), "hypernet": dataclasses.asdict(shape)}
    run = RunFolder(
        out,
        {"recipe": "search", "fingerprint": fingerprint(stored)} | recipe,
        resume=resume,
        force=force,
        started=started,
    )
    if run.resumed and (run.path / RESULT).exists():
        say(f"{run.path} is already finished")
        run.drop_checkpoints()
        return read_json(run.path / RESULT)
    groups, network = find_groups(dense, spec.image_size), Network(dense, spec.mean, spec.std)
    prior = _prior(shape.prior, network, groups, data, config, runtime, run)
    torch.manual_seed(config.seed)
    net = Hypernet(shape, dense, groups, prior)
    prompt = search(net, network, data, config, runtime, run)
    seconds = round(run.seconds, 1)
    source = {
        "task": note["task"],
        "class_names": note["classes"],
        "top1": note["top1"],
        "top5": note["top5"],
        "weights": note["config"],
    }
    card = f"# {spec.architecture} on {note['task']}\n\nWritten by `pass-transfer search`; dense top-1 {note['top1']} %.\n"
    save_entry(
        Path(out) / "entry",
        net.cpu(),
        stored,
        spec,
        prompt.cpu(),
        source,
        recipe | {"seconds": seconds},
        {},
        card,
    )
    result = {"entry": str(Path(out) / "entry"), "seconds": seconds}
    write_json(run.path / RESULT, result)
    run.drop_checkpoints()
    return result


def _read_backbone(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What is known of a trained backbone (pretrain's backbone.json), and its tensors as stored."""
    if (folder / CONFIG).is_file() and (folder / MANIFEST).is_file():
        verify_files(folder)
        config = read_json(folder / CONFIG)
        source = config["source"]
        note = {
            "spec": config["backbone"],
            "task": source["task"],
            "classes": source["class_names"],
            "config": source.get("weights"),
        }
        note |= {name: source.get(name) for name in ("top1", "top5")}
    elif (folder / "backbone.json").is_file():
        note = read_json(folder / "backbone.json")
    else:
        raise RunError(
            f"{folder} holds no backbone.json and is no zoo entry; make a backbone with pass-transfer finetune"
        )
    return note, read_tensors(folder / "backbone.safetensors")


def _prior(
    kind: str,
    network: Network,
    groups: ChannelGroups,
    task: Task,
    config: SearchConfig,
    runtime: Runtime,
    run: RunFolder,
) -> dict[str, torch.Tensor] | None:
    """Scores of equal spread in every group; what takes minutes is kept in the run folder."""

    def importance() -> dict[str, torch.Tensor]:
        if not (run.work / IMPORTANCE).exists():
            sources = make_source_tasks(task.classes, config.tasks, config.seed)[
                : config.importance_tasks
            ]
            write_tensors(
                run.work / IMPORTANCE,
                mean_importance(
                    network, groups, task, sources, runtime, config.importance_images, config.seed
                ),
            )
        return read_tensors(run.work / IMPORTANCE)

    return make_prior(kind, network.backbone, groups, task.size, importance)
