"""The main job: a zoo hypernetwork and a task to a small fine-tuned network with its numbers.

    pass-transfer adapt --hypernet zoo/r18_tinyimnet --task cifar100 --macs 0.5 --out runs/c100

Prompt tuned on the task, masks from the prompt, channels removed, the rest fine-tuned,
saved and measured. Each phase leaves its result in the run folder, so that a killed run
continues where it was.
"""

from __future__ import annotations

import copy
import dataclasses
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pass_transfer import __version__
from pass_transfer.budgets.latency import LatencyBudget, check_batch
from pass_transfer.budgets.ranking import check_amount, check_share
from pass_transfer.errors import RunError, StorageError, UsageError
from pass_transfer.files import read_json, read_tensors, sha256, write_json, write_tensors
from pass_transfer.label_mapping import choose_mapping
from pass_transfer.latency import measure_latency
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import count_macs, count_parameters
from pass_transfer.networks.network import Network
from pass_transfer.progress import say
from pass_transfer.prompts import Prompt
from pass_transfer.pruned import PrunedModel
from pass_transfer.pruned.folder import WEIGHTS
from pass_transfer.runs.dense import DENSE, find_dense, load_dense, save_dense
from pass_transfer.runs.evaluation import Evaluation
from pass_transfer.scoring.own_backbone import read_backbone, weights_of
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.prompt_tuning import PromptConfig, tune
from pass_transfer.scoring.task_prior import PRIOR_OF, keep_prior, on_kept_prior
from pass_transfer.settings import check_positive, check_whole
from pass_transfer.shrinking.distill import TEMPERATURE, Teacher
from pass_transfer.shrinking.finetune import FinetuneConfig, finetune
from pass_transfer.shrinking.shrink import shrink
from pass_transfer.tasks import Task, load_task
from pass_transfer.training import Accuracy, RunFolder, Runtime, choose_runtime, evaluate
from pass_transfer.training.run_folder import check_free
from pass_transfer.zoo.entry import load_hypernet

TRANSFERS = ("prompt", "mask", "selection")
UNUSED = {
    "prompt": (),
    "mask": ("prior", "prompt_steps", "prompt_lr"),
    "selection": ("prior", "prompt_steps", "prompt_lr", "deploy_prompt"),
}  # settings, by transfer
BUDGETS = ("quick", "full")
LATENCY_BATCHES = (1, 32)
CUTS = ("macs", "params", "density", "latency_ms")
RESULT = "result.json"
PROMPT, MASKS = "prompt.safetensors", "masks.safetensors"
PROMPT_DONE = "prompt-done.json"  # among the checkpoints: the prompt is whole, and what it cost
DENSE_DONE = "dense-done.json"  # the same of the dense network

# Training work a budget may spend on fine-tuning, in MACs of the small network's forward
# pass. ResNet-18 at 64 pixels and half the MACs trains at 430 images/s on two AVX512-BF16
# cores and at 160 to 170 on two without: quick is then 15 to 40 minutes, full five times that.
WORK = {"cpu": {"quick": 2.75e13, "full": 1.3e14}, "gpu": {"quick": 3.4e14, "full": 4e15}}
EPOCHS_LEAST, EPOCHS_MOST = 2, {"quick": 30, "full": 100}
STEPS_LEAST = (
    400  # a small dataset gets more epochs, up to the most, until it has had this many steps
)


@dataclass(frozen=True)
class AdaptConfig:
    """Everything that decides an adapted network, apart from the data.

    Fields:
        macs, params, density, latency_ms: the budget; exactly one is given (generate_masks says how).
        latency_batch: images at once that latency_ms is for.
        round_to, keep_layers: groups keep multiples of this many channels (docs/speed.md has what 1, 8 and 16 cost); layers to leave alone.
        transfer: "prompt" tunes a prompt on the task, "mask" takes the source masks, "selection" the order of
            forward selection on the task, which a prompt of zeros leaves as it is.
        prior: what a prompt's masks correct: scores measured on the "task", or the "source"'s.
        budget: "quick" or "full" training; `epochs` overrides it.
        label_mapping: "auto", "linear", "frequency" or "iterative".
        deploy_prompt: whether the prompt is part of the saved network, as it is trained along with it; "selection" has none.
        reconstruct: whether kept channels take over what cut ones carried (reconstruct.py).
        distill, temperature: share of the loss by which the small network learns what the
            dense one says, which is fine-tuned first then; and what softens that (distill.py).
    """

    macs: float | str | None = 0.5
    params: float | str | None = None
    density: float | None = None
    latency_ms: float | None = None
    latency_batch: int = 1
    round_to: int = 8
    keep_layers: tuple[str, ...] = ()
    transfer: str = "prompt"
    prior: str = "task"
    budget: str = "quick"
    epochs: int | None = None
    batch_size: int = 128
    lr: float = 0.03
    weight_decay: float = 5e-4
    prompt_steps: int = PromptConfig.steps
    prompt_lr: float = PromptConfig.lr
    label_mapping: str = "auto"
    deploy_prompt: bool = True
    reconstruct: bool = True
    distill: float = 0.0
    temperature: float = TEMPERATURE
    with_dense: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if sum(getattr(self, name) is not None for name in CUTS) != 1:
            raise UsageError("give exactly one budget: --macs, --params, --density or --latency-ms")
        check_batch(self.latency_batch)
        if self.latency_ms is not None:
            LatencyBudget(self.latency_ms, self.latency_batch)
        for name in ("macs", "params"):
            value = getattr(self, name)
            if value is not None and isinstance(share := check_amount(f"--{name}", value), float):
                object.__setattr__(
                    self, name, share
                )  # "0.5" is 0.5; an amount stays as it was written
        if self.density is not None:
            check_share("--density", self.density)
        object.__setattr__(self, "keep_layers", tuple(self.keep_layers))
        for name, value, allowed in (
            ("--transfer", self.transfer, TRANSFERS),
            ("--prior", self.prior, PRIOR_OF),
            ("--budget", self.budget, BUDGETS),
        ):
            if value not in allowed:
                raise UsageError(f"{name} is {value!r}; choose one of {', '.join(allowed)}")
        check_whole(self, epochs=1, batch_size=2, prompt_steps=0, seed=0, round_to=1)
        check_positive(self, "lr", "prompt_lr")
        check_positive(self, "temperature")
        check_positive(self, "weight_decay", "distill", zero=True)
        if self.distill > 1:
            raise UsageError(
                f"--distill is {self.distill}; it is a share of the loss, at most 1, such as 0.5; 0 leaves it out"
            )

    def identity_fields(self) -> dict[str, Any]:
        """The fields that decide the small network."""
        idle = {"with_dense", *UNUSED[self.transfer]} | (
            set() if self.distill else {"distill", "temperature"}
        )
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in idle}

    def cut(self, device: torch.device) -> dict[str, Any]:
        """The arguments of generate_masks, with the device whose milliseconds count."""
        timed = {} if self.latency_ms is None else {"batch": self.latency_batch, "device": device}
        return timed | {name: getattr(self, name) for name in (*CUTS, "round_to", "keep_layers")}

    def tuning(self) -> PromptConfig:
        """How the prompt is tuned."""
        return PromptConfig(
            steps=self.prompt_steps, lr=self.prompt_lr, batch_size=self.batch_size, seed=self.seed
        )


def plan_epochs(config: AdaptConfig, images: int, macs: int, device: str) -> int:
    """Fine-tuning epochs of a budget: fixed work for a kind of device, whatever the data's size; never timed, so always the same."""
    if config.epochs is not None:
        return config.epochs
    work = WORK["cpu" if device == "cpu" else "gpu"][config.budget]
    by_work = work / (macs * images)
    by_steps = STEPS_LEAST * config.batch_size / images
    return max(
        EPOCHS_LEAST,
        min(EPOCHS_MOST[config.budget], round(max(by_work, by_steps)) if by_work > 1 else 0),
    )


def adapt(
    hypernet: str | Path | PretrainedHypernet,
    task: str,
    *,
    out: str | Path,
    data_dir: str | None = None,
    backbone: str | Path | None = None,
    dense: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    resume: bool = False,
    force: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Make a small network for a task.

    Args:
        hypernet: a zoo name, a folder, or a loaded entry.
        task, data_dir: see load_task.
        out: the run folder.
        backbone: a .safetensors file with one's own weights of the entry's architecture (see load_checkpoint), instead of the entry's.
        dense: a run, or its folder dense/, whose dense network of this task is taken instead of one that is trained here.
        resume, force: continue or replace a run that is already there.
        settings: fields of AdaptConfig.

    Returns:
        The content of result.json; see docs/architecture.md for its fields.

    Raises:
        PassTransferError: one of its kinds, with what to do.
        KeyboardInterrupt: its text says how to continue.
    """
    started = time.monotonic()
    if any(settings.get(name) is not None for name in CUTS):
        settings.setdefault("macs", None)
    config = AdaptConfig(**settings)
    check_free(out, resume=resume, force=force)
    trained = hypernet if isinstance(hypernet, PretrainedHypernet) else load_hypernet(hypernet)
    entry = trained if backbone is None else read_backbone(trained, backbone)
    if config.transfer == "selection" and not entry.net.config.uses_prompt:
        raise UsageError(
            f"--transfer selection: the hypernetwork of {entry.name} hears no prompt, so that no prompt keeps it from correcting that order"
        )
    runtime = choose_runtime(device, precision)
    say(f"running on {runtime.reason}")
    data = load_task(task, entry.spec.image_size, data_dir)
    if not (resume and (Path(out) / MASKS).exists()):  # a run that has its masks has met its budget
        entry.check_budget(entry.prompt(), **config.cut(runtime.device), classes=data.classes)
    mapping = choose_mapping(
        config.label_mapping, data.classes, entry.spec.classes, entry.own_weights
    )
    if entry.own_weights:
        mapped = "the classifier's rows are mapped one to one to the task's classes, by what they predict"
        say("the classifier is a new one, from class means" if mapping == "linear" else mapped)
    given = None if dense is None else find_dense(dense, entry.spec, data, out if force else None)
    identity = {
        "recipe": "adapt",
        "entry": entry.name,
        "fingerprint": trained.fingerprint(),
        "backbone": weights_of(entry),
        "task": task,
        "data_dir": None if data_dir is None else str(data_dir),
        "classes": data.classes,
        "images": len(data.train),
        "tuning": dataclasses.asdict(config.tuning()) if config.transfer == "prompt" else None,
        "device": runtime.device.type,
        "precision": runtime.precision,
        "backbone_file": None if backbone is None else str(backbone),
        "dense_run": None if dense is None else str(dense),
    }
    if config.distill:
        identity["teacher"] = None if given is None else sha256(given / WEIGHTS)
    run = RunFolder(
        out,
        identity
        | config.identity_fields()
        | {"threads": torch.get_num_threads(), "versions": _versions()},
        resume=resume,
        force=force,
        started=started,
    )
    if entry.own_weights and backbone is None and config.transfer != "selection":
        keep_prior(entry, run.path)
    try:
        return _Adapter(entry, data, mapping, config, runtime, run, given).run()
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(
            str(stop)
            or f"interrupted; what is finished is saved in {run.path}, continue with --resume"
        ) from stop


class _Adapter:
    def __init__(
        self,
        entry: PretrainedHypernet,
        task: Task,
        mapping: str,
        config: AdaptConfig,
        runtime: Runtime,
        run: RunFolder,
        given: Path | None,
    ):
        self.entry, self.task, self.mapping, self.given = entry, task, mapping, given
        self.config, self.runtime, self.folder = config, runtime, run

    def run(self) -> dict[str, Any]:
        result = self.folder.path / RESULT
        if not result.exists():
            write_json(result, self._small())
        elif self.folder.resumed:
            say(f"the small network in {self.folder.path} is already finished")
        if (self.config.with_dense or self.config.distill or self.given) and read_json(result)[
            "dense_top1"
        ] is None:
            write_json(result, read_json(result) | self._dense())
        self.folder.drop_checkpoints()
        return read_json(result)

    def _small(self) -> dict[str, Any]:
        """The small network made, saved and measured; the job's result but for the dense network's accuracy."""
        torch.manual_seed(self.config.seed)
        start = self.folder.begin("prompt")
        selected = self.config.transfer == "selection"
        if (
            self.entry.own_weights
            or selected
            or (self.config.transfer == "prompt" and self.config.prior == "task")
        ):
            self.entry = on_kept_prior(
                self.entry,
                self.task,
                self.runtime,
                self.config.seed,
                self.folder.path,
                "selection" if selected else "importance",
            )
        prompt, search_seconds = self._prompt(start)
        masks = self._masks(prompt)
        say(
            f"keeping {masks.density:.1%} of the channels, {self.entry.macs_share(masks, self.task.classes):.1%} of the dense MACs"
        )
        teacher = self._teacher() if self.config.distill else None
        network = self._finetuned("finetune", masks, prompt, teacher)
        dense = self.runtime.place(
            self.entry.network(None, self._deployed(prompt), self.task.classes)
        )
        return self._measured(network, dense, masks, search_seconds)

    def _teacher(self) -> Teacher:
        """The dense network, as it is kept."""
        self._dense()
        network = load_dense(self.given or self.folder.path / DENSE)
        return Teacher.of(network, self.config.distill, self.config.temperature, self.runtime)

    def _dense(self) -> dict[str, Any]:
        """Figures of the dense network: the given one, or one by the same recipe, which is kept. Made once."""
        note = self.folder.work / DENSE_DONE
        if not note.exists():
            write_json(note, self._trained_dense() if self.given is None else self._given_dense())
        return read_json(note)

    def _given_dense(self) -> dict[str, Any]:
        network = self.runtime.place(load_dense(self.given))
        return {
            "dense_top1": evaluate(network, self.task.test, self.runtime).top1,
            "dense_seconds": None,
        }

    def _trained_dense(self) -> dict[str, Any]:
        torch.manual_seed(self.config.seed)
        prompt, start = stored_prompt(self.entry, self.folder.path), self.folder.begin("dense")
        masks = ChannelMasks.load(self.folder.path / MASKS, self.entry.groups)
        network = self._finetuned("dense", masks, prompt, dense=True)
        accuracy = evaluate(network, self.task.test, self.runtime)
        save_dense(network, self.entry.spec, self.entry.groups, self.task, self.folder.path / DENSE)
        return {"dense_top1": accuracy.top1, "dense_seconds": round(self.folder.seconds - start, 1)}

    def _prompt(self, start: float) -> tuple[Prompt, float]:
        """The prompt that gives the masks, and the seconds since `start` that it took; as an earlier process left it, if that finished it."""
        note = self.folder.work / PROMPT_DONE
        if note.exists():
            return stored_prompt(self.entry, self.folder.path), read_json(note)["seconds"]
        prompt = self.entry.prompt()
        if self.config.transfer == "prompt":
            self._tune(prompt)
        elif self.config.transfer == "selection":
            prompt.zero_()
        seconds = self.folder.seconds - start
        write_tensors(self.folder.path / PROMPT, prompt.state_dict())
        write_json(note, {"seconds": seconds})
        return prompt.cpu(), seconds

    def _masks(self, prompt: Prompt) -> ChannelMasks:
        """The prompt's masks; those that an earlier process measured, where the budget is a latency."""
        path = self.folder.path / MASKS
        if path.exists() and self.config.latency_ms is not None:
            return ChannelMasks.load(path, self.entry.groups)
        masks = self.entry.generate_masks(
            prompt, **self.config.cut(self.runtime.device), classes=self.task.classes
        )
        masks.save(path)
        return masks

    def _tune(self, prompt: Prompt) -> None:
        network = Network(self.entry.backbone(), self.entry.spec.mean, self.entry.spec.std)
        tune(
            self.entry.net,
            network,
            prompt,
            self.task,
            self.config.tuning(),
            self.runtime,
            self.folder,
            self.mapping,
        )

    def _deployed(self, prompt: Prompt) -> Prompt | None:
        """A copy of the prompt that is trained and saved with the network; a prompt of zeros says nothing, and is none."""
        return (
            copy.deepcopy(prompt)
            if self.config.deploy_prompt and self.config.transfer != "selection"
            else None
        )

    def _finetuned(
        self,
        stage: str,
        masks: ChannelMasks,
        prompt: Prompt,
        teacher: Teacher | None = None,
        dense: bool = False,
    ) -> Network:
        """The network under masks, or the dense one, fine-tuned for as many epochs as the budget has for the one under the masks."""
        config, size = self.config, self.entry.spec.image_size
        epochs = plan_epochs(
            config,
            len(self.task.train),
            self.entry.table.macs(masks.kept),
            self.runtime.device.type,
        )
        recipe = FinetuneConfig(
            epochs=epochs,
            batch_size=min(config.batch_size, len(self.task.train)),
            lr=config.lr,
            weight_decay=config.weight_decay,
            seed=config.seed,
        )
        kept, start = None if dense else masks, None
        if self.folder.has_checkpoint(stage):  # which holds all weights, so none are made for it
            network = self.entry.network(
                kept, self._deployed(prompt), self.task.classes
            ).requires_grad_(True)
        else:
            network = shrink(
                self.entry.backbone(),
                self.entry.groups,
                kept,
                self.entry.spec.mean,
                self.entry.spec.std,
                self._deployed(prompt),
                self.task,
                self.mapping,
                self.runtime,
                config.seed,
                config.reconstruct,
            )
            start = evaluate(network, self.task.held_out, self.runtime)
            say(
                f"{stage}: {count_macs(network, size) / 1e6:.1f} M MACs, {start.top1:.1f} % on held-out images before fine-tuning, {epochs} epochs"
            )
        finetune(
            network,
            self.task,
            recipe,
            self.runtime,
            self.folder,
            stage,
            teacher=teacher,
            start=start,
        )
        return network

    def _measured(
        self, network: Network, dense: Network, masks: ChannelMasks, search_seconds: float
    ) -> dict[str, Any]:
        test = self.task.test
        accuracy: Accuracy = evaluate(network, test, self.runtime)
        plain = (
            None
            if network.prompt is None
            else evaluate(lambda x: network(x, use_prompt=False), test, self.runtime).top1
        )
        Evaluation.of(test, accuracy.predictions, self.task.classes).save(self.folder.path)
        size = self.entry.spec.image_size
        say("measuring the latency of both networks")
        latency = measure_latency(
            {"small": network, "dense": dense},
            size,
            sorted({*LATENCY_BATCHES, self.config.latency_batch}),
        )
        spec = dataclasses.replace(self.entry.spec, classes=self.task.classes)
        PrunedModel(
            network.cpu(),
            spec,
            self.task.class_names,
            {n: m.nonzero().flatten().tolist() for n, m in masks.items()},
        ).save(self.folder.path)
        return {
            "task": self.task.name,
            "hypernet": self.entry.name,
            "transfer": self.config.transfer,
            "seed": self.config.seed,
            "device": str(self.runtime.device),
            "top1": accuracy.top1,
            "top5": accuracy.top5,
            "top1_without_prompt": plain,
            "dense_top1": None,
            "macs": count_macs(network, size),
            "dense_macs": count_macs(dense.cpu(), size),
            "parameters": count_parameters(network.backbone),
            "dense_parameters": count_parameters(dense.backbone),
            "latency_ms": {str(b): t for b, t in latency["small"].items()},
            "dense_latency_ms": {str(b): t for b, t in latency["dense"].items()},
            "channels_kept": masks.kept,
            "channels": masks.widths,
            "skipped_images": self.task.skipped,
            "images": accuracy.images,
            "search_seconds": round(search_seconds, 1),
            "seconds": round(self.folder.seconds, 1),
            "dense_seconds": None,
            "run": str(self.folder.path),
        }


def stored_prompt(entry: PretrainedHypernet, run: str | Path) -> Prompt:
    """The prompt that a run tuned. Raises RunError where there is none, StorageError for one that is not of this entry."""
    path, prompt = Path(run) / PROMPT, entry.prompt()
    if not path.is_file():
        raise RunError(f"{run} holds no {PROMPT}; give a run folder of pass-transfer adapt")
    try:
        prompt.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        raise StorageError(f"{path} is not a prompt of {entry.name}") from error
    return prompt


def _versions() -> dict[str, str]:
    import torchvision

    return {
        "pass_transfer": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
