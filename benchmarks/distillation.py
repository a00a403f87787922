"""What learning from the dense network adds: the same masks, fine-tuned with and without it.

    python benchmarks/distillation.py --data-dir ../shared/data/cifar100 --seeds 0 1 2

Masks are those of the entry's own prompt. For each seed the dense network is fine-tuned once
(or one is given: --dense RUN) and teaches at every weight and temperature asked for. Writes
one JSON file a cell below --out, skips the cells that are there, and ends with the table.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import time

from cells import make_cell, options, spread

import pass_transfer as pt
from pass_transfer.networks.network import Network
from pass_transfer.runs.dense import find_dense, load_dense
from pass_transfer.shrinking.distill import TEMPERATURE, Teacher
from pass_transfer.shrinking.finetune import FinetuneConfig, finetune
from pass_transfer.shrinking.shrink import ShrinkConfig, shrink
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime, evaluate


class Bench:
    """One task under one entry's masks; a seed's dense network is trained when it is needed."""

    def __init__(self, entry, task, runtime, given):
        self.entry, self.task, self.runtime, self.given = entry, task, runtime, given
        budget = pt.Budget(macs=given.macs, round_to=1)
        self.masks = entry.generate_masks(entry.prompt(), budget, classes=task.classes)
        self.dense = functools.cache(self._dense)

    def start(self, seed: int, masks=None) -> Network:
        """A network before fine-tuning; the dense one without masks."""
        entry, config = self.entry, ShrinkConfig(seed=seed)
        return shrink(entry.dense, entry.groups, masks, None, self.task, config, self.runtime)

    def tuned(self, network: Network, seed: int, teacher: Teacher | None = None) -> dict:
        """Fine-tune a network in place; its accuracies and the seconds."""
        start = time.monotonic()
        config = FinetuneConfig(
            epochs=self.given.epochs, batch_size=self.given.batch_size, seed=seed
        )
        finetune(network, self.task, config, self.runtime, teacher=teacher)
        seconds = time.monotonic() - start
        held_out, test = (
            evaluate(network, self.task.held_out, self.runtime),
            evaluate(network, self.task.test, self.runtime),
        )
        return {
            "held_out_top1": held_out.top1,
            "top1": test.top1,
            "top5": test.top5,
            "finetune_seconds": seconds,
        }

    def _dense(self, seed: int) -> tuple[Network, dict]:
        if self.given.dense:
            network = self.runtime.place(
                load_dense(find_dense(self.given.dense, self.entry.dense, self.task))
            )
            return network, {"top1": evaluate(network, self.task.test, self.runtime).top1}
        network = self.start(seed)
        return network, self.tuned(network, seed)

    def cell(self, weight: float, temperature: float, seed: int) -> dict:
        """The small network with one weight of its teacher; 0 for none."""
        given, figures = (
            self.given,
            {"weight": weight, "temperature": temperature if weight else None, "seed": seed},
        )
        teacher, dense = None, {}
        if weight:
            network, dense = self.dense(seed)
            teacher = Teacher.of(network, weight, temperature, self.runtime)
        figures |= self.tuned(self.start(seed, self.masks), seed, teacher)
        return figures | {
            "task": self.task.name,
            "macs_asked": given.macs,
            "macs_share": self.entry.dense.macs_share(self.masks.kept, self.task.classes),
            "epochs": given.epochs,
            "batch_size": given.batch_size,
            "dense": dense or None,
            "kept": self.masks.kept,
            "entry": self.entry.fingerprint(),
        }


def table(cells: list[dict]) -> str:
    """By weight and temperature, mean and standard deviation, also of the gain; markdown.

    The gain is the difference from the same seed without a teacher.
    """
    lines = [
        "| weight | temperature | top-1 (test) | gain | seconds | teacher's top-1 | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    alone = {c["seed"]: c["top1"] for c in cells if not c["weight"]}
    for kind in dict.fromkeys((c["weight"], c["temperature"]) for c in cells):
        rows = [c for c in cells if (c["weight"], c["temperature"]) == kind]
        gain = "" if not kind[0] else spread([r["top1"] - alone[r["seed"]] for r in rows])
        taught_by = "" if not kind[0] else spread([r["dense"]["top1"] for r in rows])
        seconds = statistics.mean(r["finetune_seconds"] for r in rows)
        top1 = spread([r["top1"] for r in rows])
        lines.append(
            f"| {kind[0]:g} | {kind[1] or ''} | {top1} | {gain} | {seconds:.0f} | {taught_by} | "
            f"{len(rows)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = options(__doc__, "benchmarks/results/distillation")
    parser.add_argument("--dense", help="a run of adapt whose dense network teaches all seeds")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.5, 0.9])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[TEMPERATURE])
    given = parser.parse_args()
    entry, runtime = pt.load_hypernet(given.hypernet), choose_runtime()
    bench = Bench(
        entry, load_task(given.task, entry.spec.preprocessing, given.data_dir), runtime, given
    )
    kinds = [(0.0, TEMPERATURE), *((w, t) for w in given.weights for t in given.temperatures)]
    cells = []
    for seed, (weight, temperature) in itertools.product(given.seeds, kinds):
        taught = f"{weight:g}-T{temperature:g}" if weight else "alone"
        name = f"{given.task}-{given.macs}-{given.epochs}ep-{taught}-{seed}"
        measure = functools.partial(bench.cell, weight, temperature, seed)
        cells.append(make_cell(given.out, name, measure))
    print(table(cells))


if __name__ == "__main__":
    main()
