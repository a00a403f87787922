"""From a fine-tuned backbone to a zoo entry: the search on its own task."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pass_transfer.errors import StorageError, UsageError
from pass_transfer.files import read_object, read_tensors, write_json, write_tensors
from pass_transfer.masking.agreement import check_agreement
from pass_transfer.networks import BackboneSpec, build_backbone, find_groups
from pass_transfer.networks.named import named_spec
from pass_transfer.networks.outline import load_tensors
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.networks.weights import fingerprint
from pass_transfer.progress import say
from pass_transfer.random_streams import seed_layers
from pass_transfer.recipes.finetune import DEFAULT as FINETUNE
from pass_transfer.recipes.finetune import finetune
from pass_transfer.recipes.options import RunOptions, check_image_size, refuse_unknown, take
from pass_transfer.runs.backbone import read_trained
from pass_transfer.runs.data import check_data, keep_data
from pass_transfer.runs.files import RESULT
from pass_transfer.scoring.hypernet import Hypernet, HypernetConfig, fitting_shape
from pass_transfer.scoring.prior import make_prior
from pass_transfer.scoring.samples import Samples
from pass_transfer.scoring.search import SearchConfig
from pass_transfer.scoring.search import search as train_hypernet
from pass_transfer.scoring.source_prior import mean_importance
from pass_transfer.scoring.source_tasks import make_source_tasks
from pass_transfer.settings import TEXT, check_fields, number
from pass_transfer.shrinking.classifier import with_task_head
from pass_transfer.surroundings import as_guest
from pass_transfer.tasks import Task, load_task
from pass_transfer.training import RunFolder, Runtime, choose_runtime
from pass_transfer.training.run_folder import check_free
from pass_transfer.training.shared_folder import open_folder
from pass_transfer.zoo.entry import EntryNotes, save_entry

IMPORTANCE = "importance.safetensors"  # among the checkpoints
BACKBONE = "-backbone"  # behind a run folder's name: the network that was fine-tuned for it
DEFAULT_SEARCH = SearchConfig()


@dataclass(frozen=True)
class _Search:
    """What is searched: a backbone on its own task."""

    dense: PretrainedBackbone
    task: Task
    config: SearchConfig
    shape: HypernetConfig
    runtime: Runtime
    run: RunFolder


@dataclass(frozen=True)
class SourceNetwork:
    """A network by its name, which is fine-tuned on the source task before the search.

    Fields:
        network, weights: see load_network.
        image_size: side of an image in pixels; a backbone has one of its own.
        task: the source task; see load_task.
        epochs: of fine-tuning.
    """

    network: str | None = None
    weights: str | Path | None = None
    image_size: int | None = None
    task: str | None = None
    epochs: int | None = None

    def check(self, backbone: str | Path | None) -> None:
        """Refuse not exactly one of a backbone and a network with its task. Raises UsageError."""
        check_image_size(self.image_size)
        if (backbone is None) == (self.network is None):
            given = "neither is given" if backbone is None else "both are given"
            raise UsageError(
                "give a folder that finetune wrote, or a zoo entry (backbone), or a network by "
                f"its name (network); {given}"
            )
        for name, value in vars(self).items():
            if name != "image_size" and self.network is None and value is not None:
                raise UsageError(f"{name}= goes with a network by its name (network)")
        if self.network is not None and self.task is None:
            raise UsageError("task is missing; give the one that the network is searched on")

    def finetuned(
        self, folder: Path, data_dir: str | None, config: SearchConfig, where: RunOptions
    ) -> Path:
        """The folder of the network, fine-tuned on its task; what is done of that stays."""
        own = dataclasses.replace(FINETUNE, seed=config.seed, epochs=self.epochs or FINETUNE.epochs)
        spec, weights = named_spec(str(self.network), self.weights, self.image_size)
        finetune(
            spec.architecture,
            weights,
            str(self.task),
            folder,
            image_size=spec.image_size,
            data_dir=data_dir,
            config=own,
            **vars(dataclasses.replace(where, resume=not where.force)),
        )
        return folder


@as_guest
def search(
    backbone: str | Path | None,
    out: str | Path,
    *,
    data_dir: str | None = None,
    config: SearchConfig = DEFAULT_SEARCH,
    shape: HypernetConfig | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Search masks on a backbone's own task and write OUT/entry.

    Args:
        backbone: a folder that finetune wrote, or a zoo entry, whose backbone is taken.
        data_dir: parquet files of the backbone's task.
        config: the recipe.
        shape: the hypernetwork's; fitting_shape without it.
        options: fields of SourceNetwork, such as network="resnet50", in place of a backbone: it
            is fine-tuned into OUT-backbone first; device, precision, resume and force of
            RunOptions.

    Raises:
        UsageError: not exactly one of backbone and network; see also load_network.
        RunError: no backbone in that folder.
    """
    started, where = time.monotonic(), take(RunOptions, options)
    source = take(SourceNetwork, options)
    refuse_unknown(options, "search")
    source.check(backbone)
    check_free(out, resume=where.resume, force=where.force)
    if backbone is None:
        backbone = source.finetuned(Path(f"{out}{BACKBONE}"), data_dir, config, where)
    note, spec, stored = read_trained(Path(backbone))
    check_image_size(source.image_size, spec.image_size, f"the backbone in {backbone}")
    module = build_backbone(spec)
    load_tensors(module, stored)
    runtime = choose_runtime(where.device, where.precision)
    say(f"running on {runtime.reason}")
    data = load_task(note["task"], spec.preprocessing, data_dir)
    if where.resume:
        check_data(out, data)
    dense = PretrainedBackbone(module, spec, find_groups(module, spec.image_size), str(backbone))
    check_agreement(module, dense.groups, spec.image_size)
    shape = shape or fitting_shape(module, dense.groups)
    recipe = {"search": dataclasses.asdict(config), "hypernet": dataclasses.asdict(shape)}
    identity = {"recipe": "search", "fingerprint": fingerprint(stored)} | recipe
    identity["data"] = data.record.fingerprints()
    again = {"resume": where.resume, "force": where.force}
    run = open_folder(out, identity, runtime.processes, started=started, **again)
    keep_data(run.path, data)
    if run.resumed and (run.path / RESULT).exists():
        return _finished(run)
    net, prompt = _searched(_Search(dense, data, config, shape, runtime, run))
    seconds = round(run.seconds, 1)
    notes = EntryNotes(_source(note), recipe | {"seconds": seconds}, {}, _card(spec, note))
    save_entry(run.path / "entry", net, stored, spec, prompt, notes)
    result = {"entry": str(Path(out) / "entry"), "seconds": seconds}
    write_json(run.path / RESULT, result)
    run.drop_checkpoints()
    return result


def _card(spec: BackboneSpec, note: Mapping[str, Any]) -> str:
    """The beginning of a model card."""
    return (
        f"# {spec.architecture} on {note['task']}\n\nWritten by `pass-transfer search`; dense "
        f"top-1 {note['top1']} %.\n"
    )


def _finished(run: RunFolder) -> dict[str, Any]:
    """The result of a search that is done. Raises StorageError for a damaged one."""
    say(f"{run.path} is already finished")
    run.drop_checkpoints()
    path = run.path / RESULT
    result = read_object(path)
    try:
        check_fields(result, {"entry": TEXT, "seconds": number(0)})
    except UsageError as error:
        raise StorageError(f"{path} is not that of a search: {error}") from error
    return result


def _searched(search: _Search) -> tuple[Hypernet, Any]:
    """The trained hypernetwork and the whole dataset's prompt, on the CPU."""
    dense, task, config, runtime = search.dense, search.task, search.config, search.runtime
    prior = _prior(search)
    seed_layers(config.seed, runtime.device)
    net = Hypernet(search.shape, dense.module, dense.groups, prior)
    network = dense.network()
    own = with_task_head(network, task.train, task.classes, runtime, config.seed)
    prompt = train_hypernet(net, own, task, config, runtime, search.run)
    return net.cpu(), prompt.cpu()


def _prior(search: _Search) -> dict[str, torch.Tensor] | None:
    """Scores of equal spread in every group; what takes minutes is kept in the run folder."""
    dense, task, config, runtime = search.dense, search.task, search.config, search.runtime
    path = search.run.work / IMPORTANCE

    def importance() -> dict[str, torch.Tensor]:
        if not path.exists():
            sources = make_source_tasks(task.classes, config.tasks, config.seed)
            chosen = sources[: config.importance_tasks]
            drawn = config.importance_images, config.seed
            samples = Samples(task.train, runtime, *drawn, size=task.size)
            write_tensors(path, mean_importance(dense.network(), dense.groups, chosen, samples))
        return read_tensors(path)

    return make_prior(search.shape.prior, dense.module, dense.groups, importance)


def _source(note: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry says of the dataset that it was trained on."""
    named = {"task": note["task"], "class_names": note["classes"], "weights": note["config"]}
    return named | {name: note[name] for name in ("top1", "top5")}
