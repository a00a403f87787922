"""What happens after the cut: recipes side by side from the same network, for equal work.

    python benchmarks/recovery.py --data-dir ../shared/data/cifar100 --images 9000 --seeds 0 1

A recipe spends a number of epochs' worth of work. One is a pass of the small network over the
training images, forward and backward. What else a recipe does is paid from the same sum by the
step times below: the dense network's epochs before the cut, and its predictions as a teacher.
Seconds are measured all the same, with everything but the loading of images.

With --macs 1 nothing is cut: the dense network by the same recipe, for as many epochs. Writes one
JSON file a cell below --out, skips the cells that are there, and ends with the table.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import recovery_stage
from cells import make_cell, options, spread
from recovery_drift import shrink_by_drift
from recovery_stage import SMALLER, Extra

import pass_transfer as pt
from pass_transfer.files import read_json, read_tensors, write_json, write_tensors
from pass_transfer.networks import count_macs, cut_groups, kept_channels
from pass_transfer.networks.network import Network
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.recipes import pipeline
from pass_transfer.recipes.pipeline import Job
from pass_transfer.scoring.registry import choose_method
from pass_transfer.shrinking.distill import Teacher
from pass_transfer.shrinking.finetune import FinetuneConfig
from pass_transfer.tasks import Task, load_task
from pass_transfer.training import Runtime, choose_runtime, evaluate

FEATURES = "fc"  # the layer that reads the features
# Milliseconds of a step of 128 images at 64 pixels on one thread in bf16, by the share of the MACs
# that is left, once measured on an idle machine. A forward pass is a third of a step.
STEP = {1.0: 427, 0.5: 240, 0.25: 121}


@dataclass(frozen=True)
class Recipe:
    """What is done for a small network.

    Fields:
        first: epochs of the dense network on the task, before anything is chosen or cut.
        first_lr: their peak learning rate.
        lr, decay, mixup, batch_size, weight_decay: of fine-tuning.
        teach: share of the loss by which the dense network of `first` teaches.
        temperature, others: how it does.
        method: how channels are chosen.
        reconstruct: whether kept channels take over what cut ones carried.
        drift: whether they do so layer by layer, on inputs that are cut already.
        extra: see recovery_stage.
        halfway: share of the MACs of a first cut, which is fine-tuned for half of the epochs
            before what is left is scored and cut again; 0 cuts once.
    """

    first: int = 0
    first_lr: float = 0.03
    lr: float = 0.03
    decay: str = "cosine"
    mixup: float = 0.0
    batch_size: int = 128
    weight_decay: float = 5e-4
    teach: float = 0.0
    temperature: float = 4.0
    others: float = 0.0
    method: str = "selection"
    reconstruct: bool = True
    drift: bool = False
    extra: Extra = field(default_factory=Extra)
    halfway: float = 0.0

    @property
    def learns(self) -> bool:
        """Whether the dense network is run beside the small one."""
        return bool(self.teach or self.extra.mimic)

    def epochs(self, work: float, macs: float) -> int:
        """Epochs of the small network that the work is enough for."""
        small, dense = STEP[macs], STEP[1.0]
        teacher = dense / 3 if self.learns else 0.0
        step = (small + teacher) * (1 - self.extra.small_first * (1 - SMALLER**2))
        return max(1, round((work * small - self.first * dense) / step))


BEFORE = Recipe()
FIRST = Recipe(first=2)
TAUGHT = Recipe(first=2, teach=0.5)
RECIPES = {
    "cut-first": BEFORE,
    "cut-first-lr0.06": replace(BEFORE, lr=0.06),
    "cut-first-lr0.1": replace(BEFORE, lr=0.1),
    "cut-first-lr0.2": replace(BEFORE, lr=0.2),
    "cut-first-lr0.06-linear": replace(BEFORE, lr=0.06, decay="linear"),
    "cut-first-lr0.1-linear": replace(BEFORE, lr=0.1, decay="linear"),
    "cut-first-batch64": replace(BEFORE, batch_size=64),
    "first2": FIRST,
    "first2-lr0.01": replace(FIRST, lr=0.01),
    "first2-lr0.06": replace(FIRST, lr=0.06),
    "first2-lr0.1": replace(FIRST, lr=0.1),
    "first2-taught": TAUGHT,
    "first2-taught-lr0.06": replace(TAUGHT, lr=0.06),
    "first2-taught-lr0.1": replace(TAUGHT, lr=0.1),
    "first2-taught-0.9": replace(TAUGHT, teach=0.9),
    "first2-taught-0.9-T2": replace(TAUGHT, teach=0.9, temperature=2.0),
    "first2-others2": replace(TAUGHT, others=2.0),
    "first2-others8": replace(TAUGHT, others=8.0),
    "first3-taught": replace(TAUGHT, first=3),
    "first3-taught-lr0.06": replace(TAUGHT, first=3, lr=0.06),
    "cut-twice": replace(BEFORE, halfway=0.5),
    "first2-taught-twice": replace(TAUGHT, halfway=0.5),
    "cut-first-average": replace(BEFORE, extra=Extra(average=0.25)),
    "cut-first-ema": replace(BEFORE, extra=Extra(decay=0.99)),
    "cut-first-patches": replace(BEFORE, extra=Extra(patches=0.5)),
    "cut-first-mixup": replace(BEFORE, mixup=0.2),
    "cut-first-drift": replace(BEFORE, drift=True),
    "first2-taught-drift": replace(TAUGHT, drift=True),
    "cut-first-small": replace(BEFORE, extra=Extra(small_first=0.7)),
    "cut-first-small-mixup": replace(BEFORE, mixup=0.2, extra=Extra(small_first=0.7)),
    "first3-taught-mixup": replace(TAUGHT, first=3, mixup=0.2, lr=0.06),
    "first3-taught-small": replace(TAUGHT, first=3, lr=0.06, extra=Extra(small_first=0.7)),
    "first2-taught-mimic": replace(TAUGHT, extra=Extra(mimic=1.0)),
    "first2-mimic": replace(FIRST, extra=Extra(mimic=1.0)),
    "first2-taught-patches": replace(TAUGHT, extra=Extra(patches=0.5)),
    "first2-taught-average": replace(TAUGHT, extra=Extra(average=0.25)),
}


class Bench:
    """One entry and task; a dense network that several recipes begin with is trained once."""

    def __init__(self, entry: pt.PretrainedHypernet, task: Task, runtime: Runtime, given: Any):
        self.entry, self.task, self.runtime, self.given = entry, task, runtime, given

    def job(self, recipe: Recipe, macs: float, seed: int) -> Job:
        """What a cell makes, before the dense network has seen the task."""
        config = FinetuneConfig(
            epochs=1,
            batch_size=recipe.batch_size,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            mixup=recipe.mixup,
            decay=recipe.decay,
            seed=seed,
        )
        return Job(
            self.entry.dense,
            self.entry,
            self.task,
            self.runtime,
            choose_method(recipe.method, {}),
            pt.Budget(macs=macs if macs < 1 else 0.5),
            config,
            reconstruct=recipe.reconstruct,
            seed=seed,
        )

    def ready(self, job: Job, recipe: Recipe) -> tuple[Job, float]:
        """The job from the dense network that knows the task, and the seconds that took."""
        if not recipe.first:
            return job, 0.0
        name = f"dense-{self.task.name}-{len(self.task.train)}-{recipe.first}-{recipe.first_lr}"
        path = Path(self.given.work) / f"{name}-{job.seed}.safetensors"
        if not path.exists():
            start = time.monotonic()
            network, begin = pipeline.shrink(job, None, None)
            config = replace(job.recipe, epochs=recipe.first, lr=recipe.first_lr, decay="cosine")
            first = dataclasses.replace(job, recipe=config)
            pipeline.train(first, network, begin)
            seconds = {"seconds": time.monotonic() - start}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path.with_suffix(".json"), seconds)
            write_tensors(path, network.backbone.state_dict())
        backbone = job.dense.network(None, None, self.task.classes).backbone
        backbone.load_state_dict(read_tensors(path))
        spec = job.dense.spec
        ready = pipeline.from_dense(job, Network(backbone, spec.mean, spec.std))
        return ready, read_json(path.with_suffix(".json"))["seconds"]

    def teacher(self, job: Job, recipe: Recipe) -> Teacher | None:
        """The dense network that knows the task, if it teaches."""
        if not recipe.learns:
            return None
        spec = job.dense.spec
        network = Network(copy.deepcopy(job.dense.module), spec.mean, spec.std)
        told = recipe.teach, recipe.temperature, self.runtime, recipe.others
        return Teacher.of(network, *told)

    def cell(self, name: str, macs: float, seed: int) -> dict[str, Any]:
        """One network by a recipe."""
        recipe, given, task = RECIPES[name], self.given, self.task
        job, first_seconds = self.ready(self.job(recipe, macs, seed), recipe)
        epochs = recipe.epochs(given.epochs, macs if macs < 1 else given.like)
        teacher = self.teacher(job, recipe)
        start = time.monotonic()
        if recipe.halfway:
            job, epochs = self.cut_halfway(job, recipe, epochs, macs, teacher)
        masks = None
        if macs < 1:
            masks = pipeline.cut(job, pipeline.score(job))
        chosen = time.monotonic()
        if recipe.drift and masks is not None:
            network, begin = shrink_by_drift(job, masks)
        else:
            network, begin = pipeline.shrink(job, masks, None)
        shrunk = time.monotonic()
        job = pipeline.with_epochs(job, epochs)
        if recipe.extra.any:
            kept = slice(None)
            if recipe.extra.mimic and masks is not None:
                kept = kept_channels(job.groups, masks)[1][FEATURES]
            told = job.recipe, self.runtime, teacher, recipe.extra, begin, kept
            rows = recovery_stage.finetune(network, task, *told)
        else:
            rows = pipeline.train(job, network, begin, teacher=teacher)
        trained = time.monotonic()
        held_out = evaluate(network, task.held_out, self.runtime)
        test = evaluate(network, task.test, self.runtime)
        whole = self.entry.dense.table.with_classes(task.classes).dense
        share = count_macs(network, job.dense.spec.image_size) / whole
        return {
            "task": task.name,
            "images": len(task.train),
            "macs_asked": macs,
            "macs_share": share,
            "recipe": name,
            "settings": dataclasses.asdict(recipe),
            "work": given.epochs,
            "epochs": epochs,
            "seed": seed,
            "before_top1": begin.top1,
            "held_out_top1": held_out.top1,
            "top1": test.top1,
            "top5": test.top5,
            "rows": rows,
            "seconds": {
                "first": first_seconds,
                "choose": chosen - start,
                "shrink": shrunk - chosen,
                "train": trained - shrunk,
            },
            "entry": self.entry.fingerprint(),
            "device": self.runtime.reason,
        }

    def cut_halfway(
        self, job: Job, recipe: Recipe, epochs: int, macs: float, teacher: Teacher | None
    ) -> tuple[Job, int]:
        """The job from a network that was cut and fine-tuned once, and the epochs that are left.

        An epoch of it costs more than one of the small network.
        """
        first = dataclasses.replace(job, budget=pt.Budget(macs=recipe.halfway))
        masks = pipeline.cut(first, pipeline.score(first))
        network, begin = pipeline.shrink(first, masks, None)
        spent = max(1, round(epochs / 2 * STEP[macs] / STEP[recipe.halfway]))
        pipeline.train(pipeline.with_epochs(first, spent), network, begin, teacher=teacher)
        units = job.dense.units(masks)
        spec = dataclasses.replace(job.dense.spec, classes=self.task.classes)
        groups = cut_groups(job.groups, units)
        left = PretrainedBackbone(network.backbone, spec, groups, job.dense.name, None, units)
        share = macs * job.dense.table.dense / left.table.dense
        again = dataclasses.replace(job, dense=left, mapping="same", budget=pt.Budget(macs=share))
        return again, epochs - round(epochs / 2)


def table(cells: list[dict[str, Any]]) -> str:
    """By budget and recipe, mean and standard deviation over seeds; markdown."""
    lines = [
        "| MACs | recipe | epochs: dense + small | held out before | held out | top-1 (test) | "
        "seconds | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys((c["macs_asked"], c["recipe"]) for c in cells):
        rows = [c for c in cells if (c["macs_asked"], c["recipe"]) == kind]
        columns = [spread([r[n] for r in rows]) for n in ("before_top1", "held_out_top1", "top1")]
        seconds = statistics.mean(sum(r["seconds"].values()) for r in rows)
        epochs = f"{rows[0]['settings']['first']} + {rows[0]['epochs']}"
        shown = [f"{kind[0]:.0%}", kind[1], epochs, *columns, f"{seconds:.0f}", str(len(rows))]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = options(__doc__, "benchmarks/results/recovery")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--epochs", type=float, default=8, help="work, in the small network's")
    parser.add_argument("--images", type=int, help="training images; all without it")
    parser.add_argument(
        "--like", type=float, default=0.5, help="with --macs 1: as many epochs as for this share"
    )
    parser.add_argument("--work", default="runs/recovery", help="folder for dense networks")
    parser.add_argument("--show", action="store_true", help="print the table, train nothing")
    given = parser.parse_args()
    if given.show:
        cells = [read_json(path) for path in sorted(Path(given.out).glob("*.json"))]
        print(table(sorted(cells, key=lambda c: (-c["macs_asked"], -c["top1"]))))
        return
    entry, runtime = pt.load_hypernet(given.hypernet), choose_runtime()
    task = load_task(given.task, entry.spec.preprocessing, given.data_dir)
    if given.images:
        task = task.with_train(given.images)
    bench = Bench(entry, task, runtime, given)
    cells = []
    for seed, recipe in itertools.product(given.seeds, given.recipes):
        share = f"{given.macs:g}" if given.macs < 1 else f"1-like{given.like:g}"
        name = f"{given.task}-{len(task.train)}-{share}-{given.epochs:g}-{recipe}-{seed}"
        cells.append(
            make_cell(given.out, name, functools.partial(bench.cell, recipe, given.macs, seed))
        )
    print(table(cells))


if __name__ == "__main__":
    main()
