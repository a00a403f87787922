"""One cell: the pipeline with one method, at one budget, for one task and seed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pass_transfer.budgets import Budget, Sparsity
from pass_transfer.files import (
    make_folder,
    read_json,
    read_tensors,
    sha256,
    write_json,
    write_tensors,
)
from pass_transfer.prompts import Prompt
from pass_transfer.recipes import pipeline
from pass_transfer.recipes.given_network import AskedNetwork, GivenNetwork, choose_network
from pass_transfer.recipes.pipeline import Job, Masks
from pass_transfer.scoring.method import WEIGHT, Found
from pass_transfer.study.packing import packed
from pass_transfer.study.plan import Cell, Study, epochs_of, recipe
from pass_transfer.tasks import Task
from pass_transfer.training import Runtime, evaluate
from pass_transfer.weight_masks import WeightMasks

SEARCHES = "searches"
PROMPT = "prompt.values"  # among the scores by group


def network_of(study: Study) -> GivenNetwork:
    """What every method of a study starts from. Raises PassTransferError; see choose_network."""
    return choose_network(
        AskedNetwork(
            study.hypernet,
            network=study.network,
            weights=study.weights,
            image_size=study.image_size,
        )
    )


def job_of(study: Study, cell: Cell, given: GivenNetwork, task: Task, runtime: Runtime) -> Job:
    """What a cell makes."""
    budget: Budget | Sparsity = Budget(macs=cell.budget, round_to=study.round_to)
    if study.unit == WEIGHT:
        budget = Sparsity(round(1 - cell.budget, 6))
    return Job(
        given.dense,
        given.hypernet,
        task,
        runtime,
        study.method(cell.method),
        budget,
        recipe(study, cell.task, cell.seed),
        measuring=study.measuring,
        reconstruct=study.reconstruct,
        seed=cell.seed,
    )


def make_cell(study: Study, cell: Cell, job: Job, alike: Mapping[str, Any]) -> dict[str, Any]:
    """The cell's figures.

    Its search is taken from an earlier budget's where one ranking serves all.

    Args:
        alike: what decides all cells besides the study's settings (run.made_with).
    """
    clock, task, runtime = _clock(job.runtime), job.task, job.runtime
    found, search_seconds = _search(study, cell, job, alike)
    masks = pipeline.cut(job, found)
    start = clock()
    network, before = pipeline.shrink(job, masks, pipeline.deployed_prompt(job, found))
    if epochs_of(study, cell.task):
        pipeline.train(job, network, before)
    held_out = evaluate(network, task.held_out, runtime)
    measured = pipeline.measure(job, network, masks)
    figures: dict[str, Any] = {}
    if measured.top1_without_prompt is not None:
        figures["top1_without_prompt"] = measured.top1_without_prompt
    return figures | {
        "method": cell.method,
        "task": cell.task,
        "budget": cell.budget,
        "seed": cell.seed,
        "images_a_class": len(task.train) / task.classes,
        "macs_share": measured.macs / job.context().table.dense,
        "macs": measured.macs,
        "parameters": measured.parameters,
        "top1": measured.test.top1,
        "top5": measured.test.top5,
        "held_out_top1": held_out.top1,
        "held_out_top1_before": before.top1,
        "search_seconds": round(search_seconds, 2),
        "seconds": round(search_seconds + clock() - start, 2),
        **_of_masks(masks),
    }


def _of_masks(masks: Masks) -> dict[str, Any]:
    """What is kept of each group, and which; of single weights, which would be too much text."""
    if isinstance(masks, WeightMasks):
        return {"kept": masks.kept, "channels": masks.sizes, "masks": {}}
    return {"kept": masks.kept, "channels": masks.widths, "masks": packed(masks)}


def _clock(runtime: Runtime) -> Callable[[], float]:
    """Seconds that one CPU thread worked for this process, whatever else the machine does.

    With more threads, or a GPU, seconds that pass.
    """
    alone = runtime.device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.monotonic


def _search(study: Study, cell: Cell, job: Job, alike: Mapping[str, Any]) -> tuple[Found, float]:
    """What a search found and its seconds.

    It is kept beside the cells, since it may serve several budgets and outlives a kill.
    """
    tensors, note = _search_files(study, cell)
    make_folder(tensors.parent)
    identity = study.identity(cell) | {"task": study.search_of(cell).task} | dict(alike)
    if study.tasks[cell.task].epochs is not None:
        del identity["epochs"]
    if not job.chosen.method.each_budget:
        del identity["budget"], identity["round_to"]
    known = read_json(note) if note.exists() and tensors.exists() else {}
    if known.get("identity") != identity or known["sha256"] != sha256(tensors):
        clock = _clock(job.runtime)
        start = clock()
        found = pipeline.score(job)
        known = {"identity": identity, "seconds": clock() - start}
        known |= _write_found(tensors, found)
        write_json(note, known)
    return _read_found(tensors, known), known["seconds"]


def _search_files(study: Study, cell: Cell) -> tuple[Path, Path]:
    """Where a search keeps its tensors and the note that vouches for them."""
    method = study.method(cell.method).method
    searched = study.search_of(cell)
    alone = dataclasses.replace(searched, budget=0)
    name = searched.name if method.each_budget else alone.name
    folder = study.out / SEARCHES
    return folder / f"{name}.safetensors", folder / f"{name}.json"


def drop_search(study: Study, cell: Cell) -> None:
    """Forget what a cell's search found, so that it is done anew."""
    _search_files(study, cell)[1].unlink(missing_ok=True)


def _write_found(path: Path, found: Found) -> dict[str, Any]:
    """Keep what a search found; returns what its note says of it."""
    tensors = {name: part.detach().cpu().clone() for name, part in found.scores.items()}
    deployed = found.prompt if found.deployed else None
    if deployed is not None:
        tensors[PROMPT] = deployed.values.detach().cpu().clone()
    write_tensors(path, tensors)
    return {"prompt": None if deployed is None else deployed.shape, "sha256": sha256(path)}


def _read_found(path: Path, note: Mapping[str, Any]) -> Found:
    tensors = read_tensors(path)
    if not note["prompt"]:
        return Found(tensors)
    prompt = Prompt(**note["prompt"])
    prompt.load_state_dict({"values": tensors.pop(PROMPT)})
    return Found(tensors, prompt, deployed=True)
