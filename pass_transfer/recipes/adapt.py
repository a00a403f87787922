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
from pass_transfer.budgets import Budget, Sparsity
from pass_transfer.budgets.ranking import whole_groups
from pass_transfer.errors import UsageError
from pass_transfer.files import sha256
from pass_transfer.first_process import is_first
from pass_transfer.networks.single_weights import single_weights
from pass_transfer.progress import say
from pass_transfer.pruned.folder import WEIGHTS
from pass_transfer.recipes.adapt_config import (
    DEFAULT_METHOD,
    METHOD_AGAIN,
    METHOD_OF_WEIGHTS,
    AdaptConfig,
)
from pass_transfer.recipes.adapter import Adapter
from pass_transfer.recipes.given_network import (
    AskedNetwork,
    GivenNetwork,
    as_begun,
    check_apart,
    check_method,
    choose_network,
)
from pass_transfer.recipes.options import (
    RunOptions,
    refuse_sparsity,
    refuse_unknown,
    take,
    take_budget,
    take_sparsity,
)
from pass_transfer.recipes.pipeline import Job, check_budget
from pass_transfer.runs.data import check_data, keep_data
from pass_transfer.runs.dense import find_dense
from pass_transfer.runs.files import MASKS, check_resumable, modern_config
from pass_transfer.scoring.judge import FIXED, choose_measuring
from pass_transfer.scoring.method import WEIGHT
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.task_prior import keep_prior
from pass_transfer.surroundings import as_guest
from pass_transfer.tasks import Task, load_task
from pass_transfer.tasks.few_images import few_images
from pass_transfer.tasks.registry import check_name
from pass_transfer.training import RunFolder, Runtime, choose_runtime
from pass_transfer.training.processes import Processes
from pass_transfer.training.run_folder import check_free
from pass_transfer.training.shared_folder import open_folder


@as_guest
def adapt(
    hypernet: str | Path | PretrainedHypernet | None = None,
    task: str | None = None,
    *,
    out: str | Path,
    data_dir: str | None = None,
    backbone: str | Path | None = None,
    from_run: str | Path | None = None,
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
        from_run: a finished run, instead of a hypernet, whose small network is cut again. A
            budget is a share of that network; the method is "selection" by default.
        dense: a run, or its dense/, whose dense network is taken instead of one trained here.
        options: network= with a name, instead of a hypernet, such as "resnet50" or
            "timm/convnext_tiny"; weights= of it, a file or a name, and image_size=. The budget,
            as budget= or as the arguments of Budget, such as macs=0.4 (default: half of the
            MACs), or with unit="weight" those of Sparsity; fields of AdaptConfig, such as
            method="selection"; device, precision, resume and force of RunOptions.

    Returns:
        The content of result.json; see docs/architecture.md for its fields.

    Raises:
        PassTransferError: one of its kinds, with what to do.
        KeyboardInterrupt: its text says how to continue.
    """
    started = time.monotonic()
    options |= {"hypernet": hypernet, "backbone": backbone, "from_run": from_run}
    asked = take(AskedNetwork, options)
    where, config = _asked(options, METHOD_AGAIN if hypernet is None else DEFAULT_METHOD)
    task = _refuse_early(task, config.budget, out, where, from_run)
    check_method(config.chosen(), asked)
    given = as_begun(choose_network(asked), out, where.resume)
    _check_layers(given, config.budget)  # before images are read
    runtime = choose_runtime(where.device, where.precision)
    say(f"running on {runtime.reason}")
    data = _images(task, given, config, data_dir)
    if where.resume:
        check_data(out, data)
    job = _job(given, data, config, runtime)
    if is_first() and not (where.resume and (Path(out) / MASKS).exists()):  # else it was met
        check_budget(job)
    teacher_run = _given_dense(dense, given, data, out if where.force else None)
    files = _named({"data_dir": data_dir, "backbone_file": backbone, "dense_run": dense})
    identity = _identity(given, job, task, config, teacher_run) | files
    run = _folder(out, identity, where, started, runtime.processes)
    keep_data(run.path, data)
    entry = given.hypernet
    if entry is not None and entry.own_weights and backbone is None:
        keep_prior(entry, run)
    return _finish(Adapter(job, config, run, teacher_run))


def _check_layers(given: GivenNetwork, budget: Budget | Sparsity) -> None:
    """Refuse layers to be kept that the network lacks. Raises UsageError."""
    if isinstance(budget, Sparsity):
        single_weights(given.dense.module, budget.keep_layers)
    else:
        whole_groups(given.dense.groups, budget.keep_layers)


def _finish(adapter: Adapter) -> dict[str, Any]:
    """What a run is to do; Ctrl-C says how to continue."""
    try:
        result = adapter.run()
        return adapter.job.runtime.processes.as_first(lambda: result)
    except KeyboardInterrupt as stop:
        where = adapter.folder.path
        saved = f"interrupted; what is finished is saved in {where}, continue with resume=True"
        raise KeyboardInterrupt(str(stop) or saved) from stop


def _asked(options: dict[str, Any], method: str) -> tuple[RunOptions, AdaptConfig]:
    """Where it runs and what is made, from adapt's options; a method where none is given."""
    if options.get("unit") == WEIGHT:
        options["budget"], method = take_sparsity(options), METHOD_OF_WEIGHTS
    else:
        refuse_sparsity(options)
        options["budget"] = take_budget(options)
    if options.get("method") is None:
        options["method"] = method
    where, config = take(RunOptions, options), take(AdaptConfig, options)
    refuse_unknown(options, "adapt")
    return where, config


def _refuse_early(
    task: str | None,
    budget: Budget | Sparsity,
    out: str | Path,
    where: RunOptions,
    from_run: str | Path | None,
) -> str:
    """Refuse what needs no network and no images to be told; returns the task's name.

    Raises:
        UsageError: no task, an unknown one, or options that do not go together.
        RunError: a run folder that is taken, cannot be resumed, or holds what is cut again.
    """
    if task is None:
        raise UsageError("task is missing; give a name, such as 'digits' or 'folder:photos'")
    check_name(task)
    if budget.batch > 1 and budget.kind != "latency_ms":
        message = f"batch is {budget.batch}; it goes with a budget in milliseconds (latency_ms)"
        raise UsageError(message, "batch")
    check_free(out, resume=where.resume, force=where.force)
    if where.resume and is_first():
        check_resumable(Path(out))
    if where.force and is_first() and from_run is not None:
        check_apart(from_run, Path(out))
    return task


def _images(task: str, given: GivenNetwork, config: AdaptConfig, data_dir: str | None) -> Task:
    whole = load_task(task, given.dense.spec.preprocessing, data_dir)
    return few_images(whole, config.images_per_class, config.seed)


def _given_dense(
    dense: str | Path | None, given: GivenNetwork, task: Task, emptied: str | Path | None
) -> Path | None:
    return None if dense is None else find_dense(dense, given.dense, task, emptied)


def _folder(
    out: str | Path,
    identity: Mapping[str, Any],
    where: RunOptions,
    started: float,
    processes: Processes,
) -> RunFolder:
    again = {"resume": where.resume, "force": where.force}

    def upgrade(config: Mapping[str, Any]) -> Mapping[str, Any]:
        before = {"preprocessing": identity["preprocessing"], "measuring": FIXED}
        return before | modern_config(config)

    return open_folder(out, identity, processes, started=started, upgrade=upgrade, **again)


def _job(given: GivenNetwork, task: Task, config: AdaptConfig, runtime: Runtime) -> Job:
    return Job(
        given.dense,
        given.hypernet,
        task,
        runtime,
        config.chosen(),
        config.budget,
        config.recipe(len(task.train)),
        given.mapping(config.label_mapping, task),
        choose_measuring(config.measuring, task),
        config.reconstruct,
        config.seed,
    )


def _identity(
    given: GivenNetwork, job: Job, task: str, config: AdaptConfig, teacher_run: Path | None
) -> dict[str, Any]:
    """What decides a run, and what is noted of it."""
    identity = {
        "recipe": "adapt",
        **given.identity,
        "task": task,
        "data": job.task.record.fingerprints(),
        "classes": job.task.classes,
        "images": len(job.task.train),
        "preprocessing": job.task.preprocessing.saved(),
        "device": job.runtime.device.type,
        "precision": job.runtime.precision,
        "threads": torch.get_num_threads(),
        "versions": _versions(),
    }
    if config.distill or config.dense_epochs:
        identity["teacher"] = None if teacher_run is None else sha256(teacher_run / WEIGHTS)
    return identity | config.identity_fields() | {"measuring": job.measuring}


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
