"""From a fine-tuned backbone to a zoo entry: the search on its own task, saved with everything it needs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from pass_transfer.backbones import BackboneSpec, build_backbone, find_groups
from pass_transfer.baselines import group_l1
from pass_transfer.errors import RunError
from pass_transfer.files import read_json, read_tensors, write_json
from pass_transfer.hypernet import Hypernet, HypernetConfig, standardise
from pass_transfer.network import Network
from pass_transfer.progress import say
from pass_transfer.recipes.search import SearchConfig, search
from pass_transfer.tasks import load_task
from pass_transfer.training import RunFolder, choose_runtime
from pass_transfer.training.run_folder import check_free
from pass_transfer.zoo.entry import fingerprint, save_entry

RESULT = "result.json"


def make_entry(backbone: str | Path, out: str | Path, *, data_dir: str | None = None, config: SearchConfig = SearchConfig(),
               shape: HypernetConfig = HypernetConfig(), device: str = "auto", precision: str = "auto",
               resume: bool = False, force: bool = False) -> dict[str, Any]:
    """Search masks on a backbone's own task and write OUT/entry.

    Args:
        backbone: a folder that pretrain wrote.
        data_dir: parquet files of the backbone's task.
        config, shape: the recipe and the hypernetwork's shape.

    Raises:
        RunError: no backbone in that folder.
    """
    started = time.monotonic()
    check_free(out, resume=resume, force=force)
    folder = Path(backbone)
    if not (folder / "backbone.json").is_file():
        raise RunError(f"{folder} holds no backbone.json; make one with pass-transfer finetune")
    note, stored = read_json(folder / "backbone.json"), read_tensors(folder / "backbone.safetensors")
    spec = BackboneSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in note["spec"].items()})
    dense = build_backbone(spec)
    dense.load_state_dict(stored)
    runtime = choose_runtime(device, precision)
    say(f"running on {runtime.reason}")
    data = load_task(note["task"], spec.image_size, data_dir)
    recipe = {"search": dataclasses.asdict(config), "hypernet": dataclasses.asdict(shape)}
    run = RunFolder(out, {"recipe": "search", "fingerprint": fingerprint(stored)} | recipe, resume=resume, force=force, started=started)
    if run.resumed and (run.path / RESULT).exists():
        say(f"{run.path} is already finished")
        return read_json(run.path / RESULT)
    torch.manual_seed(config.seed)
    groups = find_groups(dense, spec.image_size)
    prior = standardise(group_l1(dense, groups, spec.image_size)) if shape.prior == "l1" else None
    net = Hypernet(shape, dense, groups, prior)
    sources, prompts = search(net, Network(dense, spec.mean, spec.std), data, config, runtime, run)
    seconds = round(run.seconds, 1)
    source = {"task": note["task"], "class_names": note["classes"], "top1": note["top1"], "top5": note["top5"], "weights": note["config"],
              "views": [task.name for task in sources]}
    card = f"# {spec.architecture} on {note['task']}\n\nWritten by `pass-transfer search`; dense top-1 {note['top1']:.2f} %.\n"
    save_entry(Path(out) / "entry", net.cpu(), stored, spec, [prompt.cpu() for prompt in prompts], source, recipe | {"seconds": seconds}, {}, card)
    result = {"entry": str(Path(out) / "entry"), "seconds": seconds}
    write_json(run.path / RESULT, result)
    run.drop_checkpoints()
    return result
