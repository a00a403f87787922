"""One cell: a method's scores, masks at equal MACs, removal, the same fine-tuning, one look at the test images."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, Mapping

import torch
import torchvision

from pass_transfer import __version__
from pass_transfer.backbones import count_macs, count_parameters
from pass_transfer.files import make_folder, read_json, read_tensors, write_json, write_tensors
from pass_transfer.masks import ChannelMasks
from pass_transfer.recipes.finetune import finetune
from pass_transfer.recipes.shrink import shrink
from pass_transfer.selection import select
from pass_transfer.study.methods import Context, Method, Scores, method_of
from pass_transfer.study.plan import Cell, Study, recipe
from pass_transfer.tasks import Task
from pass_transfer.training import Runtime, evaluate
from pass_transfer.zoo.entry import PretrainedHypernet

SEARCHES = "searches"


def make_cell(study: Study, cell: Cell, entry: PretrainedHypernet, task: Task, runtime: Runtime) -> dict[str, Any]:
    """The cell's figures; its search is taken from an earlier budget's where one ranking serves all."""
    method, settings = method_of(cell.method, study.methods[cell.method])
    context = Context(entry, task, runtime, cell.seed, study.batch_size, cell.budget, settings)
    scores, search_seconds = _scores(study, cell, method, context)
    masks = select(scores, entry.groups, macs=cell.budget, table=context.table, uniform=method.uniform)
    start = time.monotonic()
    network = shrink(entry.backbone(), entry.groups, masks, entry.spec.mean, entry.spec.std, None, task, "linear", runtime, cell.seed, study.reconstruct)
    before = evaluate(network, task.held_out, runtime)
    finetune(network, task, recipe(study, cell.seed), runtime)
    held_out, test = evaluate(network, task.held_out, runtime), evaluate(network, task.test, runtime)
    macs = count_macs(network, entry.spec.image_size)
    return {"method": cell.method, "task": cell.task, "budget": cell.budget, "seed": cell.seed, "macs_share": macs / context.table.dense, "macs": macs,
            "parameters": count_parameters(network.backbone), "top1": test.top1, "top5": test.top5, "held_out_top1": held_out.top1,
            "held_out_top1_before": before.top1, "search_seconds": round(search_seconds, 2), "seconds": round(search_seconds + time.monotonic() - start, 2),
            "kept": masks.kept, "channels": masks.widths, "masks": packed(masks)}


def _scores(study: Study, cell: Cell, method: Method, context: Context) -> tuple[Scores, float]:
    """A search's scores and seconds: kept beside the cells, since it may serve several budgets and outlives a kill."""
    name = cell.name if method.each_budget else f"{cell.task.replace('/', '_').replace(':', '-')}-{cell.method}-{cell.seed}"
    folder = make_folder(study.out / SEARCHES)
    tensors, note = folder / f"{name}.safetensors", folder / f"{name}.json"
    identity = {key: value for key, value in study.identity(cell).items() if key != "budget" or method.each_budget}
    if note.exists() and tensors.exists() and read_json(note)["identity"] == identity:
        return read_tensors(tensors), read_json(note)["seconds"]
    torch.manual_seed(cell.seed)
    start = time.monotonic()
    scores = {group: values.detach().cpu().contiguous().clone() for group, values in method.scores(context).items()}
    seconds = time.monotonic() - start
    write_tensors(tensors, scores)
    write_json(note, {"identity": identity, "seconds": seconds})
    return scores, seconds


def packed(masks: ChannelMasks) -> dict[str, str]:
    """Masks by group as hexadecimal digits, the first channel the highest bit."""
    found = {}
    for name, mask in masks.items():
        bits = "".join("1" if kept else "0" for kept in mask.tolist())
        found[name] = f"{int(bits, 2):0{-(-len(bits) // 4)}x}"
    return found


def unpacked(digits: Mapping[str, str], widths: Mapping[str, int]) -> ChannelMasks:
    """What packed wrote."""
    return ChannelMasks({name: torch.tensor([bit == "1" for bit in f"{int(text, 16):0{widths[name]}b}"]) for name, text in digits.items()})


@lru_cache
def origin() -> dict[str, Any]:
    """Where a cell comes from: commit, versions, machine."""
    return {"commit": _commit(), "machine": _machine(), "versions": {"pass_transfer": __version__, "torch": torch.__version__,
                                                                      "torchvision": torchvision.__version__, "python": platform.python_version()}}


def _commit() -> str | None:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _machine() -> str:
    name = platform.processor() or platform.machine()
    try:
        name = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} threads" + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")
