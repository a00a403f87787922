"""One step of a search (forward, loss, gradients to scores and prompt; backbone frozen), against what PyTorch does alone.

    python benchmarks/search_step.py --models resnet18 --sizes 64 224 --densities 0.3 0.5 0.9

Every round runs each variant once, one after the other, so that they see the same machine.
Ratios are medians over rounds of (variant / the better of the baselines). Masks are random,
of equal density in every group, and sit on the readers of a group in all variants.
Writes one JSON file a configuration below --out.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
import torchvision
from torch import nn

from pass_transfer import ops
from pass_transfer.backbones import ChannelGroups, find_groups
from pass_transfer.files import make_folder, write_json
from pass_transfer.masking import batch_statistics, masked_forward, room_for

from provenance import provenance

BATCH = {64: 128, 224: 32}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


class StraightThrough(torch.autograd.Function):
    """The k highest scores as a mask, the way it is usually written."""

    @staticmethod
    def forward(ctx, scores, k):
        return torch.zeros_like(scores).scatter_(0, scores.topk(k).indices, 1.0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def random_scores(groups: ChannelGroups, seed: int) -> torch.Tensor:
    """Ranks inside each group, shuffled: every density keeps the same share of each group."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([(torch.randperm(g.width, generator=generator) + 0.5) / g.width for g in groups.values()])


def eager_forward(backbone: nn.Module, groups: ChannelGroups, masks: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """conv2d(x * mask, weight) on every reader."""
    handles = []
    for name, group in groups.items():
        for reader, units in group.reads.items():
            mask = masks[name] if len(units) == group.width else masks[name][units]

            def multiply(_, args, mask=mask):
                return args[0] * (mask.view(1, -1, 1, 1) if args[0].ndim == 4 else mask).to(args[0].dtype)

            handles.append(backbone.get_submodule(reader).register_forward_pre_hook(multiply))
    try:
        with batch_statistics(backbone):
            return backbone(x)
    finally:
        for handle in handles:
            handle.remove()


class Problem:
    """A backbone, its groups, a batch, and the variants of a step on them."""

    def __init__(self, model: str, size: int, density: float, precision: str, batch: int | None, device: str, graphs: bool = False, seed: int = 0):
        torch.manual_seed(seed)
        self.device, self.density, self.precision, self.graphs = torch.device(device), density, precision, graphs
        backbone = getattr(torchvision.models, model)(num_classes=100).eval().requires_grad_(False)
        self.groups = find_groups(backbone, size)
        self.backbones = {name: self._copy(backbone, layout) for name, layout in LAYOUTS.items()}
        images = torch.randn(batch or BATCH.get(size, 32), 3, size, size)
        self.images = {name: images.to(self.device, memory_format=layout) for name, layout in LAYOUTS.items()}
        self.labels = torch.randint(100, (len(images),)).to(self.device)
        self.scores = random_scores(self.groups, seed).to(self.device)
        self.k = round(density * self.groups.total)
        self.offsets, self.floors = self.groups.offsets.to(self.device), torch.zeros(len(self.groups), dtype=torch.long, device=self.device)

    def _copy(self, backbone: nn.Module, layout: torch.memory_format) -> nn.Module:
        return copy.deepcopy(backbone).to(self.device, memory_format=layout)

    def _step(self, layout: str, forward, leaves: tuple[torch.Tensor, torch.Tensor] | None = None) -> None:
        scores, x = leaves or (self.scores.clone().requires_grad_(), self.images[layout].clone().requires_grad_())
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = forward(scores, x)
        nn.functional.cross_entropy(logits.float(), self.labels).backward()

    def ours(self, layout: str, gradient: str):
        """A step on the operators of this library."""
        backbone = self.backbones[layout]

        room = room_for({n: round(self.density * g.width) for n, g in self.groups.items()}, {n: g.width for n, g in self.groups.items()}, slack=8)

        def forward(scores, x):
            top = ops.global_topk_mask(scores, self.offsets, self.k, self.floors)
            fixed = {"room": room, "orders": self.groups.split(top.order)} if self.graphs else {}
            return masked_forward(backbone, self.groups, self.groups.split(top.mask), x, gradient, **fixed)

        return self._replayed(layout, forward)

    def _replayed(self, layout: str, forward):
        """The step itself, or its replay as a CUDA graph."""
        if not self.graphs:
            return lambda: self._step(layout, forward)
        leaves = self.scores.clone().requires_grad_(), self.images[layout].clone().requires_grad_()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step(layout, forward, leaves)
        torch.cuda.current_stream().wait_stream(side)
        for leaf in leaves:
            leaf.grad = None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(layout, forward, leaves)
        return graph.replay

    def eager(self, layout: str):
        """A step as PyTorch is usually told to do it."""
        backbone = self.backbones[layout]
        return self._replayed(layout, lambda scores, x: eager_forward(backbone, self.groups, self.groups.split(StraightThrough.apply(scores, self.k)), x))

    def dense(self, layout: str):
        """A step without masks: gradient to the images alone."""
        backbone = self.backbones[layout]

        def forward(scores, x):
            with batch_statistics(backbone):
                return backbone(x)

        return self._replayed(layout, forward)

    def compiled(self, layout: str):
        """The eager step's forward and backward through torch.compile."""
        backbone = self.backbones[layout]
        compiled = torch.compile(lambda masks, x: eager_forward(backbone, self.groups, dict(zip(self.groups, masks)), x))

        def forward(scores, x):
            return compiled(list(self.groups.split(StraightThrough.apply(scores, self.k)).values()), x)

        return self._replayed(layout, forward)


def seconds(run, device: torch.device, clock) -> float:
    """Time of one call, with the device's work in it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measure(variants: dict, rounds: int, device: torch.device, clock) -> dict[str, list[float]]:
    """Seconds by variant, interleaved, after a warm-up."""
    for run in variants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            times[name].append(seconds(run, device, clock))
    return times


def summarise(times: dict[str, list[float]]) -> dict:
    """Medians, and each of our variants over the better baseline, by the better of its layouts and by each."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    baselines = {name: value for name, value in medians.items() if name.startswith(("eager", "compile"))}
    best = min(baselines, key=baselines.get)
    ratios = {name: statistics.median(a / b for a, b in zip(times[name], times[best])) for name in times if name != best}
    return {"seconds": medians, "baseline": best, "ratios": ratios}


def main() -> None:
    """Measure what was asked for and print one line a configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 224])
    parser.add_argument("--densities", nargs="+", type=float, default=[0.3, 0.5, 0.7, 0.9])
    parser.add_argument("--precisions", nargs="+", default=["float32"], choices=("float32", "bf16"))
    parser.add_argument("--gradients", nargs="+", default=["exact", "kept"], choices=("exact", "kept"))
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the eager step is a baseline too")
    parser.add_argument("--cuda-graph", action="store_true", help="capture every variant's step, and time its replay")
    parser.add_argument("--cpu-time", action="store_true", help="this process's CPU time instead of the clock on the wall, for a busy machine")
    parser.add_argument("--out", default="benchmarks/results/search_step")
    given = parser.parse_args()
    clock = time.process_time if given.cpu_time else time.perf_counter
    for model in given.models:
        for size in given.sizes:
            for precision in given.precisions:
                for density in given.densities:
                    problem = Problem(model, size, density, precision, given.batch, given.device, given.cuda_graph)
                    variants = {f"eager {layout}": problem.eager(layout) for layout in LAYOUTS}
                    if given.compile:
                        variants |= {f"compile {layout}": problem.compiled(layout) for layout in LAYOUTS}
                    variants |= {f"dense {layout}": problem.dense(layout) for layout in LAYOUTS}
                    variants |= {f"{gradient} {layout}": problem.ours(layout, gradient) for gradient in given.gradients for layout in LAYOUTS}
                    origin = provenance()
                    found = summarise(measure(variants, given.rounds, problem.device, clock))
                    name = f"{model}-{size}-{precision}-{density}-{problem.device.type}"
                    if given.out:
                        write_json(make_folder(given.out) / f"{name}.json", {"model": model, "size": size, "precision": precision, "density": density,
                                   "batch": len(problem.labels), "rounds": given.rounds, "cuda_graph": given.cuda_graph, "clock": "cpu" if given.cpu_time else "wall",
                                   "kernels": ops.kernels.chosen().reason, **found} | origin)
                    print(f"{name}: {found['seconds'][found['baseline']]:.3f} s {found['baseline']}; "
                          + ", ".join(f"{n} {r:.2f}" for n, r in found["ratios"].items()), flush=True)


if __name__ == "__main__":
    main()
