"""A larger network cut down, or a smaller one as it comes: which is better for the same minutes?

    OMP_NUM_THREADS=2 python benchmarks/smaller_or_cut.py --data-dir ../shared/data/cifar100

The reference is the dense network of --hypernet, fine-tuned for --epochs. Each network of --larger
is cut to its multiply-accumulates, and to its latency at one image and at 32, measured here. All
are fine-tuned by one recipe, each for as many epochs as take as long as the reference's. How long
a step takes is measured once, before the first cell, and kept (steps.json).

Writes one JSON file a cell below --out, skips the cells that are there, and ends with the table.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from cells import make_cell, options, spread

import pass_transfer as pt
from pass_transfer.files import make_folder, read_json, write_json
from pass_transfer.latency import measure_latency
from pass_transfer.masks import ChannelMasks
from pass_transfer.networks import count_macs, count_parameters
from pass_transfer.networks.network import Network
from pass_transfer.random_streams import stream
from pass_transfer.recipes import pipeline
from pass_transfer.recipes.pipeline import Job
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.registry import choose_method
from pass_transfer.shrinking.finetune import FinetuneConfig, FinetuneStage
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime, evaluate

STEPS = 5  # that are timed, after one that is not
BATCHES = (1, 32)


class Bench:
    """A task, the reference, and the networks that are cut to its size."""

    def __init__(self, given: Any):
        self.given, self.runtime = given, choose_runtime()
        self.reference = pt.load_hypernet(given.hypernet)
        self.task = load_task(given.task, self.reference.spec.preprocessing, given.data_dir)
        if given.images:
            self.task = self.task.with_train(given.images)

    def job(self, entry: PretrainedHypernet, budget: pt.Budget, seed: int) -> Job:
        """What a cell makes."""
        config = FinetuneConfig(lr=self.given.lr, seed=seed)
        chosen = choose_method("selection", {})
        return Job(entry.dense, entry, self.task, self.runtime, chosen, budget, config, seed=seed)

    @functools.cached_property
    def limits(self) -> dict[str, pt.Budget]:
        """What each kind of cut has to meet: what the reference costs, by a note if there is."""
        path = make_folder(self.given.out) / "limits.json"
        if not path.exists():
            dense = self.dense(self.reference)
            size = self.reference.spec.image_size
            measured = measure_latency({"dense": dense}, size, BATCHES)["dense"]
            write_json(path, {"macs": count_macs(dense, size), "milliseconds": measured})
        found = read_json(path)
        at = {f"latency{b}": {"latency_ms": found["milliseconds"][str(b)]} for b in BATCHES}
        budgets = {name: pt.Budget(**ms, batch=b) for (name, ms), b in zip(at.items(), BATCHES)}
        return {"macs": pt.Budget(macs=f"{found['macs'] / 1e6}M"), **budgets}

    def dense(self, entry: PretrainedHypernet) -> Network:
        """An entry's whole network for the task, untrained."""
        return self.runtime.place(entry.dense.network(None, None, self.task.classes))

    def milliseconds(self, name: str, network: Network) -> float:
        """Of a training step of a network: measured once, then by the note."""
        path = make_folder(self.given.out) / "steps.json"
        notes = read_json(path) if path.exists() else {}
        if name not in notes:
            stage = FinetuneStage(network, self.task, FinetuneConfig(), self.runtime)
            stage.start_epoch(0, 0)
            size, draw = self.reference.spec.image_size, stream(0, "timed steps")
            pixels = torch.randint(256, (128, 3, size, size), generator=draw, dtype=torch.uint8)
            labels = torch.randint(self.task.classes, (128,), generator=draw)
            times = []
            for number in range(1 + STEPS):
                start = time.perf_counter()
                stage.step(pixels, labels, draw, number)
                times.append(1000 * (time.perf_counter() - start))
            notes[name] = statistics.median(times[1:])
            write_json(path, notes)
        return notes[name]

    def cell(self, folder: str, kind: str, seed: int) -> dict[str, Any]:
        """One network, dense or cut to the reference's cost, fine-tuned and measured."""
        entry, task = pt.load_hypernet(folder), self.task
        job = self.job(entry, self.limits.get(kind, pt.Budget(macs=0.5)), seed)
        start = time.monotonic()
        masks: ChannelMasks | None = None
        if kind != "dense":
            masks = pipeline.cut(job, pipeline.score(job))
        network, begin = pipeline.shrink(job, masks, None)
        chosen = time.monotonic()
        reference = self.milliseconds("reference", self.dense(self.reference))
        own = self.milliseconds(
            f"{entry.name} {kind}", job.dense.network(masks, None, task.classes)
        )
        epochs = max(1, round(self.given.epochs * reference / own))
        rows = pipeline.train(pipeline.with_epochs(job, epochs), network, begin)
        trained = time.monotonic()
        size = entry.spec.image_size
        latency = measure_latency({"own": network}, size, BATCHES)["own"]
        return {
            "network": entry.spec.architecture,
            "entry": entry.fingerprint(),
            "kind": kind,
            "task": task.name,
            "images": len(task.train),
            "seed": seed,
            "epochs": epochs,
            "lr": self.given.lr,
            "macs": count_macs(network, size),
            "parameters": count_parameters(network.backbone),
            "latency_ms": {str(batch): ms for batch, ms in latency.items()},
            "before_top1": begin.top1,
            "held_out_top1": evaluate(network, task.held_out, self.runtime).top1,
            "top1": evaluate(network, task.test, self.runtime).top1,
            "rows": rows,
            "seconds": {"choose": chosen - start, "train": trained - chosen},
            "kept": None if masks is None else masks.kept,
            "device": self.runtime.reason,
        }


def table(cells: list[dict[str, Any]]) -> str:
    """By network and cut, mean and standard deviation over seeds; markdown."""
    lines = [
        "| network | cut to the reference's | M MACs | M parameters | ms at 1 | ms at 32 | "
        "epochs | training, s | top-1 (test) | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys((c["network"], c["kind"]) for c in cells):
        rows = [c for c in cells if (c["network"], c["kind"]) == kind]
        first = rows[0]
        times = [spread([r["latency_ms"][str(b)] for r in rows], 1) for b in BATCHES]
        seconds = statistics.mean(r["seconds"]["train"] for r in rows)
        cost = [f"{first['macs'] / 1e6:.0f}", f"{first['parameters'] / 1e6:.1f}", *times]
        top1 = spread([r["top1"] for r in rows])
        shown = [*kind, *cost, str(first["epochs"]), f"{seconds:.0f}", top1, str(len(rows))]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = options(__doc__, "benchmarks/results/smaller-or-cut")
    parser.add_argument("--larger", nargs="+", default=["zoo/r50_tinyimnet", "zoo/r34_tinyimnet"])
    parser.add_argument("--kinds", nargs="+", default=["macs", "latency1", "latency32"])
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--images", type=int, help="training images; all without it")
    parser.add_argument("--lr", type=float, default=FinetuneConfig.lr)
    parser.add_argument("--show", action="store_true", help="print the table, train nothing")
    given = parser.parse_args()
    if given.show:
        found = [read_json(path) for path in sorted(Path(given.out).glob("*-*.json"))]
        print(table(found))
        return
    bench = Bench(given)
    asked = [(given.hypernet, "dense"), *itertools.product(given.larger, given.kinds)]
    cells = []
    for seed, (folder, kind) in itertools.product(given.seeds, asked):
        name = f"{given.task}-{len(bench.task.train)}-{Path(folder).name}-{kind}-{seed}"
        cells.append(make_cell(given.out, name, functools.partial(bench.cell, folder, kind, seed)))
    print(table(cells))


if __name__ == "__main__":
    main()
