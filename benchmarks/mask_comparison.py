"""Masks by several methods at equal MACs, each removed and fine-tuned by one recipe, over seeds.

    python benchmarks/mask_comparison.py --data-dir ../shared/data/cifar100 --seeds 0 1 2

Writes one JSON file a cell below --out, skips the cells that are there, and ends with the
table. Every network starts from the same backbone, has its classifier from class means,
no prompt in the image, and is tested once.
"""

from __future__ import annotations

import functools
import statistics
import time

import pass_transfer as pt
from pass_transfer.backbones import count_macs
from pass_transfer.baselines import group_l1, random_scores
from pass_transfer.hypernet import blend, standardise
from pass_transfer.selection import select
from pass_transfer.network import Network
from pass_transfer.recipes.finetune import FinetuneConfig, finetune
from pass_transfer.recipes.shrink import shrink
from pass_transfer.recipes.task_importance import task_importance
from pass_transfer.recipes.tune_prompt import PromptConfig, tune_prompt
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime, evaluate

from cells import make_cell, options, spread

METHODS = ("random", "group L1", "transfer mask", "transfer prompt")
CRITERIA = ("uniform L1", "Taylor", "Taylor + L1")  # measured on the task itself, without a hypernetwork
IMPORTANCE_IMAGES = 2048


def find_masks(method: str, entry, task, macs: float, seed: int, prompt_steps: int):
    """Masks within a MACs budget, and the seconds they took."""
    start = time.monotonic()
    table = entry.table.with_classes(task.classes)
    if method == "random":
        masks = select(random_scores(entry.groups, seed), entry.groups, macs=macs, table=table)
    elif method == "group L1":
        masks = select(group_l1(entry.backbone(), entry.groups, entry.spec.image_size), entry.groups, macs=macs, table=table)
    elif method in CRITERIA:
        masks = select(criterion(method, entry, task, seed), entry.groups, macs=macs, table=table)
    else:
        prompt = entry.prompt() if method == "transfer mask" else tune_prompt(entry, task, config=PromptConfig(steps=prompt_steps, seed=seed))
        masks = entry.generate_masks(prompt, macs=macs, classes=task.classes)
    return masks, time.monotonic() - start


def criterion(method: str, entry, task, seed: int):
    """Scores of equal spread in every group: magnitude, the task's own Taylor importance, or both in equal shares."""
    magnitude = group_l1(entry.backbone(), entry.groups, entry.spec.image_size)
    if method == "uniform L1":
        return standardise(magnitude)
    network = Network(entry.backbone(), entry.spec.mean, entry.spec.std)
    importance = task_importance(network, entry.groups, task.train, task.classes, choose_runtime(), IMPORTANCE_IMAGES, seed)
    return standardise(importance) if method == "Taylor" else blend(magnitude, importance)


def run_cell(method: str, seed: int, entry, task, runtime, given) -> dict:
    """One method with one seed: masks, removal, fine-tuning, one look at the test set."""
    masks, search_seconds = find_masks(method, entry, task, given.macs, seed, given.prompt_steps)
    start = time.monotonic()
    network = shrink(entry.backbone(), entry.groups, masks, entry.spec.mean, entry.spec.std, None, task, "linear", runtime, seed, reconstruct=False)
    before = evaluate(network, task.held_out, runtime).top1
    finetune(network, task, FinetuneConfig(epochs=given.epochs, seed=seed), runtime)
    held_out, test = evaluate(network, task.held_out, runtime), evaluate(network, task.test, runtime)
    return {"method": method, "seed": seed, "task": task.name, "macs_asked": given.macs, "epochs": given.epochs,
            "macs_share": entry.macs_share(masks, task.classes), "macs": count_macs(network, entry.spec.image_size), "held_out_before": before,
            "held_out_top1": held_out.top1, "top1": test.top1, "top5": test.top5, "search_seconds": search_seconds,
            "finetune_seconds": time.monotonic() - start, "kept": masks.kept, "entry": entry.fingerprint()}


def table(cells: list[dict]) -> str:
    """Mean and standard deviation by method, markdown."""
    lines = ["| masks | MACs kept | before fine-tuning (held out) | top-1 (test) | search seconds | seeds |", "|---|---|---|---|---|---|"]
    for method in (*METHODS, *CRITERIA):
        rows = [c for c in cells if c["method"] == method]
        if rows:
            lines.append(f"| {method} | {spread([r['macs_share'] for r in rows], 3)} | {spread([r['held_out_before'] for r in rows], 1)} "
                         f"| {spread([r['top1'] for r in rows])} | {statistics.mean(r['search_seconds'] for r in rows):.0f} | {len(rows)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = options(__doc__, "benchmarks/results/mask_comparison")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--prompt-steps", type=int, default=PromptConfig.steps)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=(*METHODS, *CRITERIA))
    given = parser.parse_args()
    entry, runtime = pt.load_hypernet(given.hypernet), choose_runtime()
    task = load_task(given.task, entry.spec.image_size, given.data_dir)
    cells = [make_cell(given.out, f"{given.task}-{given.macs}-{given.epochs}ep-{method.replace(' ', '_')}-{seed}",
                       functools.partial(run_cell, method, seed, entry, task, runtime, given)) for seed in given.seeds for method in given.methods]
    print(table(cells))


if __name__ == "__main__":
    main()
