"""Where the minutes of adapt go: the share of fine-tuning that is forward and backward.

    OMP_NUM_THREADS=2 python benchmarks/waiting.py --data-dir ../shared/data/cifar100 --epochs 2

Runs adapt as it is, with a clock around each of its parts. What is left of an epoch beside the
networks' steps is augmentation, reading, the held-out images and checkpoints. Writes one JSON file
and prints the table.
"""

from __future__ import annotations

import functools
import importlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cells import make_cell, options

import pass_transfer as pt

# What is timed: a name for it, and where the function is.
PARTS = {
    "score": ("pass_transfer.recipes.pipeline", "score"),
    "shrink": ("pass_transfer.recipes.pipeline", "shrink"),
    "fine-tune": ("pass_transfer.shrinking.finetune", "run_stage"),
    "augment": ("pass_transfer.shrinking.finetune", "augmented"),
    "held out": ("pass_transfer.shrinking.finetune", "evaluate"),
    "test images": ("pass_transfer.recipes.pipeline", "measure"),
    "latency": ("pass_transfer.recipes.adapter", "measure_latency"),
    "checkpoints": ("pass_transfer.training.run_folder", "RunFolder.save_checkpoint"),
    "steps": ("pass_transfer.shrinking.finetune", "FinetuneStage.step"),
}


class Clocks:
    """Seconds by part, of all calls together."""

    def __init__(self):
        self.seconds: Counter[str] = Counter()

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, timed."""

        @functools.wraps(call)
        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.monotonic()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds[name] += time.monotonic() - start

        return timed

    def start(self) -> None:
        """Time every part from now on."""
        for name, (module, path) in PARTS.items():
            holder: Any = importlib.import_module(module)
            *classes, attribute = path.split(".")
            for each in classes:
                holder = getattr(holder, each)
            setattr(holder, attribute, self.around(name, getattr(holder, attribute)))


def measure(given: Any) -> dict[str, Any]:
    """One run of adapt, and the seconds of its parts."""
    clocks = Clocks()
    clocks.start()
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        result = pt.adapt(
            hypernet=given.hypernet,
            task=given.task,
            data_dir=given.data_dir,
            macs=given.macs,
            method="selection",
            epochs=given.epochs,
            out=str(Path(folder) / "run"),
        )
        whole = time.monotonic() - start
    seconds = dict(clocks.seconds)
    networks = seconds["steps"] - seconds["augment"]
    return {
        "task": given.task,
        "epochs": given.epochs,
        "top1": result["top1"],
        "seconds": {"whole": whole, **seconds, "forward and backward": networks},
        "share_of_finetuning": networks / seconds["fine-tune"],
        "share_of_whole": networks / whole,
    }


def table(found: dict[str, Any]) -> str:
    """Seconds and shares; markdown."""
    seconds = found["seconds"]
    rows = ["| part | seconds | share of fine-tuning |", "|---|---|---|"]
    inside = ("forward and backward", "augment", "held out", "checkpoints")
    for name in ("fine-tune", *inside):
        share = seconds.get(name, 0.0) / seconds["fine-tune"]
        rows.append(f"| {name} | {seconds.get(name, 0.0):.1f} | {share:.1%} |")
    for name in ("score", "shrink", "test images", "latency", "whole"):
        rows.append(f"| {name} | {seconds[name]:.1f} | |")
    return "\n".join(rows)


def main() -> None:
    """Measure, unless it was, and print."""
    parser = options(__doc__, "benchmarks/results/waiting")
    parser.add_argument("--epochs", type=int, default=2)
    given = parser.parse_args()
    name = f"{given.task}-{given.macs:g}-{given.epochs}"
    print(table(make_cell(given.out, name, functools.partial(measure, given))))


if __name__ == "__main__":
    main()
