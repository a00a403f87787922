"""The main job: a pretrained network and a task to a small fine-tuned network with its numbers.

    pass-transfer adapt --hypernet zoo/r18_tinyimnet --task cifar100 --macs 0.5 --out runs/c100

Each step of the pipeline (recipes/pipeline.py) leaves its result in the run folder, so that
a killed run continues where it was.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pass_transfer import __version__
from pass_transfer.budgets import Budget
from pass_transfer.budgets.ranking import whole_groups
from pass_transfer.errors import UsageError
from pass_transfer.files import sha256
from pass_transfer.label_mapping import choose_mapping
from pass_transfer.progress import say
from pass_transfer.pruned.folder import WEIGHTS
from pass_transfer.recipes.adapt_config import AdaptConfig
from pass_transfer.recipes.adapter import Adapter
from pass_transfer.recipes.options import (
    RunOptions,
    refuse_unknown,
    take,
    take_budget,
)
from pass_transfer.recipes.pipeline import Job, check_budget
from pass_transfer.runs.data import check_data, keep_data
from pass_transfer.runs.dense import find_dense
from pass_transfer.runs.files import MASKS, check_resumable, modern_config
from pass_transfer.scoring.own_backbone import read_backbone, weights_of
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.task_prior import keep_prior
from pass_transfer.surroundings import as_guest
from pass_transfer.tasks import Task, load_task
from pass_transfer.tasks.registry import check_name
from pass_transfer.training import RunFolder, Runtime, choose_runtime
from pass_transfer.training.run_folder import check_free
from pass_transfer.zoo.entry import load_hypernet


@as_guest
def adapt(
    hypernet: str | Path | PretrainedHypernet,
    task: str,
    *,
    out: str | Path,
    data_dir: str | None = None,
    backbone: str | Path | None = None,
    dense: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Make a small network for a task.

    Args:
        hypernet: a zoo name, a folder, or a loaded entry.
        task, data_dir: see load_task.
        out: the run folder.
        backbone: a .safetensors file with one's own weights of the entry's architecture (see
            load_checkpoint), instead of the entry's.
        dense: a run, or its folder dense/, whose dense network of this task is taken instead
            of one that is trained here.
        options: the budget, as budget= or as the arguments of Budget, such as macs=0.4
            (default: half of the multiply-accumulates); fields of AdaptConfig, such as
            method="selection"; device, precision, resume and force of RunOptions.

    Returns:
        The content of result.json; see docs/architecture.md for its fields.

    Raises:
        PassTransferError: one of its kinds, with what to do.
        KeyboardInterrupt: its text says how to continue.
    """
    started = time.monotonic()
    options["budget"] = take_budget(options)
    where, config = take(RunOptions, options), take(AdaptConfig, options)
    refuse_unknown(options, "adapt")
    _refuse_early(task, config.budget, out, where)
    trained = hypernet if isinstance(hypernet, PretrainedHypernet) else load_hypernet(hypernet)
    entry = trained if backbone is None else read_backbone(trained, backbone)
    whole_groups(entry.groups, config.budget.keep_layers)  # a wrong name, before images are read
    runtime = choose_runtime(where.device, where.precision)
    say(f"running on {runtime.reason}")
    data = load_task(task, entry.spec.image_size, data_dir)
    if where.resume:
        check_data(out, data)
    job = _job(entry, data, config, runtime)
    if not (where.resume and (Path(out) / MASKS).exists()):  # else it has met its budget
        check_budget(job)
    teacher_run = _given_dense(dense, entry, data, out if where.force else None)
    files = _named({"data_dir": data_dir, "backbone_file": backbone, "dense_run": dense})
    identity = _identity(trained, job, task, config, teacher_run) | files
    run = _folder(out, identity, where, started)
    keep_data(run.path, data)
    if entry.own_weights and backbone is None:
        keep_prior(entry, run)
    try:
        return Adapter(job, config, run, teacher_run).run()
    except KeyboardInterrupt as stop:
        saved = f"interrupted; what is finished is saved in {run.path}, continue with resume=True"
        raise KeyboardInterrupt(str(stop) or saved) from stop


def _given_dense(
    dense: str | Path | None, entry: PretrainedHypernet, task: Task, emptied: str | Path | None
) -> Path | None:
    return None if dense is None else find_dense(dense, entry.spec, task, emptied)


def _folder(
    out: str | Path, identity: Mapping[str, Any], where: RunOptions, started: float
) -> RunFolder:
    again = {"resume": where.resume, "force": where.force}
    return RunFolder(out, identity, started=started, upgrade=modern_config, **again)


def _refuse_early(task: str, budget: Budget, out: str | Path, where: RunOptions) -> None:
    """Refuse what needs no entry and no images to be told. Raises UsageError, RunError."""
    check_name(task)
    if budget.batch > 1 and budget.kind != "latency_ms":
        message = f"batch is {budget.batch}; it goes with a budget in milliseconds (latency_ms)"
        raise UsageError(message, "batch")
    check_free(out, resume=where.resume, force=where.force)
    if where.resume:
        check_resumable(Path(out))


def _job(entry: PretrainedHypernet, task: Task, config: AdaptConfig, runtime: Runtime) -> Job:
    classes = entry.spec.classes
    mapping = choose_mapping(config.label_mapping, task.classes, classes, entry.own_weights)
    if entry.own_weights and mapping == "linear":
        say("the classifier is a new one, from class means")
    elif entry.own_weights:
        how = "one to one to the task's classes, by what they predict"
        say(f"the classifier's rows are mapped {how}")
    return Job(
        entry.dense,
        entry,
        task,
        runtime,
        config.chosen(),
        config.budget,
        config.recipe(len(task.train)),
        mapping,
        config.reconstruct,
        config.seed,
    )


def _identity(
    trained: PretrainedHypernet, job: Job, task: str, config: AdaptConfig, teacher_run: Path | None
) -> dict[str, Any]:
    """What decides a run, and what is noted of it."""
    entry = job.hypernet
    identity = {
        "recipe": "adapt",
        "entry": trained.name,
        "fingerprint": trained.fingerprint(),
        "backbone": None if entry is None else weights_of(entry),
        "task": task,
        "data": job.task.record.fingerprints(),
        "classes": job.task.classes,
        "images": len(job.task.train),
        "device": job.runtime.device.type,
        "precision": job.runtime.precision,
        "threads": torch.get_num_threads(),
        "versions": _versions(),
    }
    if config.distill:
        identity["teacher"] = None if teacher_run is None else sha256(teacher_run / WEIGHTS)
    return identity | config.identity_fields()


def _named(files: Mapping[str, str | Path | None]) -> dict[str, str | None]:
    """Where something lay, as JSON has it."""
    return {name: None if path is None else str(path) for name, path in files.items()}


def _versions() -> dict[str, str]:
    import torchvision

    return {
        "pass_transfer": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
