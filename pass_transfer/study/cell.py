"""One cell: a method's scores, masks at equal MACs, removal, the same fine-tuning, one look at the test images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pass_transfer.budgets.ranking import select
from pass_transfer.errors import DivergedError
from pass_transfer.files import (
    make_folder,
    read_json,
    read_tensors,
    sha256,
    write_json,
    write_tensors,
)
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import count_macs, find_groups
from pass_transfer.prompts import Prompt
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.registry import Context, Found, Method, method_of
from pass_transfer.shrinking.finetune import finetune
from pass_transfer.shrinking.shrink import shrink
from pass_transfer.study.plan import Cell, Study, recipe
from pass_transfer.tasks import Task
from pass_transfer.training import Runtime, evaluate

SEARCHES = "searches"
PROMPT = "prompt.values"  # among the scores by group


def context_of(
    study: Study, cell: Cell, entry: PretrainedHypernet, task: Task, runtime: Runtime
) -> tuple[Method, Context]:
    """A cell's method, and what that may look at."""
    method, settings = method_of(cell.method, study.methods[cell.method])
    groups = (
        entry.groups
        if method.coupling == "grouped"
        else find_groups(entry.backbone(), entry.spec.image_size, method.coupling)
    )
    return method, Context(
        entry,
        task,
        runtime,
        cell.seed,
        study.batch_size,
        cell.budget,
        settings,
        groups,
        method.uniform,
    )


def make_cell(
    study: Study,
    cell: Cell,
    entry: PretrainedHypernet,
    task: Task,
    runtime: Runtime,
    alike: Mapping[str, str],
) -> dict[str, Any]:
    """The cell's figures; its search is taken from an earlier budget's where one ranking serves all.

    Args:
        alike: what decides all cells besides the study's settings (run.made_with).
    """
    method, context = context_of(study, cell, entry, task, runtime)
    groups, clock = context.groups, _clock(runtime)
    found, search_seconds = _search(study, cell, method, context, alike)
    masks = select(
        found.scores,
        groups,
        macs=cell.budget,
        table=context.table,
        uniform=method.uniform,
        fill=True,
    )
    start = clock()
    network = shrink(
        entry.backbone(),
        groups,
        masks,
        entry.spec.mean,
        entry.spec.std,
        found.prompt,
        task,
        "linear",
        runtime,
        cell.seed,
        study.reconstruct,
    )
    before = evaluate(network, task.held_out, runtime)
    finetune(network, task, recipe(study, cell.seed), runtime)
    held_out, test = (
        evaluate(network, task.held_out, runtime),
        evaluate(network, task.test, runtime),
    )
    macs = (
        count_macs(network, entry.spec.image_size)
        if groups is entry.groups
        else context.table.macs(masks.kept)
    )
    unprompted = (
        {}
        if found.prompt is None
        else {
            "top1_without_prompt": evaluate(
                partial(network, use_prompt=False), task.test, runtime
            ).top1
        }
    )
    return unprompted | {
        "method": cell.method,
        "task": cell.task,
        "budget": cell.budget,
        "seed": cell.seed,
        "macs_share": macs / context.table.dense,
        "macs": macs,
        "parameters": context.table.parameters(masks.kept),
        "top1": test.top1,
        "top5": test.top5,
        "held_out_top1": held_out.top1,
        "held_out_top1_before": before.top1,
        "search_seconds": round(search_seconds, 2),
        "seconds": round(search_seconds + clock() - start, 2),
        "kept": masks.kept,
        "channels": masks.widths,
        "masks": packed(masks),
    }


def _clock(runtime: Runtime) -> Callable[[], float]:
    """Seconds that one CPU thread worked for this process, whatever else the machine does; with more threads, or a GPU, seconds that pass."""
    return (
        time.process_time
        if runtime.device.type == "cpu" and torch.get_num_threads() == 1
        else time.monotonic
    )


def _search(
    study: Study, cell: Cell, method: Method, context: Context, alike: Mapping[str, str]
) -> tuple[Found, float]:
    """What a search found and its seconds: kept beside the cells, since it may serve several budgets and outlives a kill."""
    tensors, note = _search_files(study, cell)
    make_folder(tensors.parent)
    identity = {
        key: value
        for key, value in study.identity(cell).items()
        if key != "budget" or method.each_budget
    } | dict(alike)
    if note.exists() and tensors.exists():
        known = read_json(note)
        if known["identity"] == identity and known["sha256"] == sha256(tensors):
            return _read_search(read_tensors(tensors), known), known["seconds"]
    torch.manual_seed(cell.seed)
    clock = _clock(context.runtime)
    start = clock()
    found = method.scores(context)
    found = found if isinstance(found, Found) else Found(found)
    seconds = clock() - start
    if not all(bool(torch.isfinite(values).all()) for values in found.scores.values()):
        raise DivergedError(f"{cell.method} found scores that are not finite")
    frame = {} if found.prompt is None else {PROMPT: found.prompt.values.detach()}
    write_tensors(
        tensors,
        {
            name: values.detach().cpu().contiguous().clone()
            for name, values in {**found.scores, **frame}.items()
        },
    )
    write_json(
        note,
        {
            "identity": identity,
            "seconds": seconds,
            "prompt": None if found.prompt is None else found.prompt.shape,
            "sha256": sha256(tensors),
        },
    )
    return _read_search(read_tensors(tensors), read_json(note)), seconds


def _search_files(study: Study, cell: Cell) -> tuple[Path, Path]:
    """Where a search keeps its tensors and the note that vouches for them."""
    method, _ = method_of(cell.method, study.methods[cell.method])
    name = cell.name if method.each_budget else Cell(cell.task, cell.method, 0, cell.seed).name
    return study.out / SEARCHES / f"{name}.safetensors", study.out / SEARCHES / f"{name}.json"


def drop_search(study: Study, cell: Cell) -> None:
    """Forget what a cell's search found, so that it is done anew."""
    _search_files(study, cell)[1].unlink(missing_ok=True)


def _read_search(tensors: dict[str, torch.Tensor], note: Mapping[str, Any]) -> Found:
    if not note["prompt"]:
        return Found(tensors)
    prompt = Prompt(**note["prompt"])
    prompt.load_state_dict({"values": tensors.pop(PROMPT)})
    return Found(tensors, prompt)


def packed(masks: ChannelMasks) -> dict[str, str]:
    """Masks by group as hexadecimal digits, the first channel the highest bit."""
    found = {}
    for name, mask in masks.items():
        bits = "".join("1" if kept else "0" for kept in mask.tolist())
        found[name] = f"{int(bits, 2):0{-(-len(bits) // 4)}x}"
    return found


def unpacked(digits: Mapping[str, str], widths: Mapping[str, int]) -> ChannelMasks:
    """What packed wrote."""
    return ChannelMasks(
        {
            name: torch.tensor([bit == "1" for bit in f"{int(text, 16):0{widths[name]}b}"])
            for name, text in digits.items()
        }
    )
