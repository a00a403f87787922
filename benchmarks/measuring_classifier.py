"""The classifier that channels are measured with: the fixed one, and one chosen on images left out.

    python benchmarks/measuring_classifier.py --data-dir ../shared/data/cifar100
    python benchmarks/measuring_classifier.py --task digits

Test loss and top-1 by the number of training images of a class, of the dense network with a
classifier from class means, under batch statistics, as importance and prompts are measured with
it. "Chosen" has the shrinkage and the temperature with the least loss in five folds. "Folds" is
the mean loss of the training images, each by the classifier of the others, through which
importance is measured.
"""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import numpy as np
from cells import make_cell, options, spread

import pass_transfer as pt
from pass_transfer.masking import batch_statistics
from pass_transfer.scoring.judge import CROSS_VALIDATED, FIXED, Judge, task_judge
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.tasks import Split, Task, load_task
from pass_transfer.tasks.few_images import few_images
from pass_transfer.training import Runtime, batches, choose_runtime, evaluate, to_images

KINDS = (FIXED, CROSS_VALIDATED)


def judged_loss(judge: Judge, runtime: Runtime) -> float:
    """Mean loss of the training images, each by its own classifier."""
    total, network = 0.0, judge.network
    for pixels, rows in batches(judge.split, 128, seed=0):
        logits = network(to_images(pixels, runtime.device))
        total += judge.loss(logits.float(), rows).item() / len(rows)
    return total / max(1, len(judge.split) // 128)


def measured(judge: Judge, test: Split, runtime: Runtime, seconds: float) -> dict[str, Any]:
    """Test loss and accuracy of the whole classifier, and the loss that importance is made of."""
    with batch_statistics(judge.network_of_all.backbone):
        found = evaluate(judge.network_of_all, test, runtime)
    with batch_statistics(judge.network.backbone):
        own = judged_loss(judge, runtime)
    return {"loss": found.loss, "top1": found.top1, "judged_loss": own, "seconds": seconds}


def run_cell(
    seed: int,
    entry: PretrainedHypernet,
    whole: Task,
    images: int,
    test: Split,
    runtime: Runtime,
) -> dict[str, Any]:
    """Both classifiers, made from so many images of each class."""
    task, cell = few_images(whole, images, seed), {"task": whole.name, "images": images}
    for kind in KINDS:
        start = time.process_time()
        judge = task_judge(entry.dense.network(), task, runtime, seed, kind)
        cell[kind] = measured(judge, test, runtime, time.process_time() - start)
    return cell | {"classes": task.classes, "seed": seed, "entry": entry.fingerprint()}


def main() -> None:
    """Run what is missing, then print the table."""
    parser = options(__doc__, "benchmarks/results/measuring_classifier")
    parser.set_defaults(seeds=[0])
    parser.add_argument("--images-per-class", type=int, nargs="+", default=[5, 10, 50])
    parser.add_argument("--test-images", type=int, default=2000)
    given = parser.parse_args()
    entry, runtime = pt.load_hypernet(given.hypernet), choose_runtime()
    task = load_task(given.task, entry.spec.preprocessing, given.data_dir)
    draw = np.random.default_rng(0).permutation(len(task.test))[: given.test_images]
    shared = (entry, task)
    print("| images a class | classifier | test loss | test top-1 (%) | folds | seconds |")
    print("|---|---|---|---|---|---|")
    for images in given.images_per_class:
        cells = []
        for seed in given.seeds:
            measure = functools.partial(
                run_cell, seed, *shared, images, task.test.subset(draw), runtime
            )
            cells.append(make_cell(given.out, f"{given.task}-{images}-{seed}", measure))
        for kind in KINDS:
            print(f"| {images} | {kind} | {_row([cell[kind] for cell in cells])} |")
    print(f"\nThe loss of chance is {math.log(task.classes):.2f}.")


def _row(cells: list[dict[str, float]]) -> str:
    names = {"loss": 2, "top1": 1, "judged_loss": 2, "seconds": 1}
    return " | ".join(spread([cell[name] for cell in cells], n) for name, n in names.items())


if __name__ == "__main__":
    main()
