"""Masks by several methods at equal MACs, each removed and fine-tuned by one recipe, over seeds.

    python benchmarks/mask_comparison.py --data-dir ../shared/data/cifar100 --seeds 0 1 2

Writes one JSON file a cell below --out and skips the cells that are there, so it can be
stopped and started; ends with the table. Every network starts from the same backbone,
has its classifier from class means, no prompt in the image, and is tested once.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import pass_transfer as pt
from pass_transfer.backbones import count_macs
from pass_transfer.baselines import group_l1, random_scores
from pass_transfer.files import make_folder, read_json, write_json
from pass_transfer.hypernet import standardise
from pass_transfer.masks import select
from pass_transfer.network import Network
from pass_transfer.recipes.finetune import FinetuneConfig, finetune
from pass_transfer.recipes.shrink import shrink
from pass_transfer.recipes.task_importance import task_importance
from pass_transfer.recipes.tune_prompt import PromptConfig, tune_prompt
from pass_transfer.tasks import load_task
from pass_transfer.training import choose_runtime, evaluate

from provenance import provenance

METHODS = ("random", "group L1", "transfer mask", "transfer prompt")
CRITERIA = ("uniform L1", "Taylor", "Taylor + L1")  # measured on the task itself, without a hypernetwork


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
    """Scores of equal spread in every group: magnitude, the task's own Taylor importance, or what a prompt is matched to."""
    groups, runtime = entry.groups, choose_runtime()
    prior = entry.net.prior
    network = Network(entry.backbone(), entry.spec.mean, entry.spec.std)
    share = {"uniform L1": 0.0, "Taylor": 1.0, "Taylor + L1": entry.net.config.importance}[method]
    importance = task_importance(network, groups, task.train, task.classes, runtime, PromptConfig.match_images, seed) if share else groups.split(prior)
    own = groups.join(standardise(importance))
    return groups.split(share * own + (1 - share) * prior)


def run_cell(method: str, seed: int, entry, task, runtime, options) -> dict:
    """One method with one seed: masks, removal, fine-tuning, one look at the test set."""
    masks, search_seconds = find_masks(method, entry, task, options.macs, seed, options.prompt_steps)
    start = time.monotonic()
    network = shrink(entry.backbone(), entry.groups, masks, entry.spec.mean, entry.spec.std, None, task, "linear", runtime, seed)
    before = evaluate(network, task.held_out, runtime).top1
    finetune(network, task, FinetuneConfig(epochs=options.epochs, seed=seed), runtime)
    held_out, test = evaluate(network, task.held_out, runtime), evaluate(network, task.test, runtime)
    size = entry.spec.image_size
    return {"method": method, "seed": seed, "task": task.name, "macs_asked": options.macs, "epochs": options.epochs,
            "macs_share": entry.macs_share(masks, task.classes), "macs": count_macs(network, size), "held_out_before": before,
            "held_out_top1": held_out.top1, "top1": test.top1, "top5": test.top5, "search_seconds": search_seconds,
            "finetune_seconds": time.monotonic() - start, "kept": masks.kept, "fingerprint": entry.config["fingerprint"], **provenance()}


def table(cells: list[dict]) -> str:
    """Mean and standard deviation by method, markdown."""
    lines = ["| masks | MACs kept | before fine-tuning (held out) | top-1 (test) | search seconds | seeds |", "|---|---|---|---|---|---|"]
    for method in (*METHODS, *CRITERIA):
        rows = [c for c in cells if c["method"] == method]
        if rows:
            top1 = [r["top1"] for r in rows]
            deviation = statistics.stdev(top1) if len(top1) > 1 else 0.0
            lines.append(f"| {method} | {statistics.mean(r['macs_share'] for r in rows):.3f} | {statistics.mean(r['held_out_before'] for r in rows):.1f} "
                         f"| {statistics.mean(top1):.2f} ± {deviation:.2f} | {statistics.mean(r['search_seconds'] for r in rows):.0f} | {len(rows)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hypernet", default="zoo/r18_tinyimnet")
    parser.add_argument("--task", default="cifar100")
    parser.add_argument("--data-dir")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--prompt-steps", type=int, default=PromptConfig.steps)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=(*METHODS, *CRITERIA))
    parser.add_argument("--out", default="benchmarks/results/mask_comparison")
    options = parser.parse_args()
    entry = pt.load_hypernet(options.hypernet)
    out, task, runtime = make_folder(options.out), None, None
    for seed in options.seeds:
        for method in options.methods:
            path = out / f"{options.task}-{options.macs}-{options.epochs}ep-{method.replace(' ', '_')}-{seed}.json"
            if path.exists():
                continue
            runtime = runtime or choose_runtime()
            task = task or load_task(options.task, entry.spec.image_size, options.data_dir)
            write_json(path, run_cell(method, seed, entry, task, runtime, options))
    print(table([read_json(p) for p in sorted(Path(out).glob(f"{options.task}-{options.macs}-{options.epochs}ep-*.json"))]))


if __name__ == "__main__":
    main()
