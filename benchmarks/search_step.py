"""One step of a search against what PyTorch does alone.

A step is forward, loss, and gradients to scores and prompt; the backbone is frozen.

    python benchmarks/search_step.py --models resnet18 --sizes 64 224 --densities 0.3 0.5 0.9
    python benchmarks/search_step.py --show    # the table of what has been measured

Every round runs each variant once, one after the other, so that they see the same machine.
Ratios are medians over rounds of (variant / the fastest of eager PyTorch and, with --compile,
torch.compile of it, in both layouts). Masks are random, of equal density in every group, and
sit on the readers of a group in all variants. Prints a table, and writes one JSON file a
configuration below --out.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from pathlib import Path

import torch
import torchvision
from provenance import provenance
from torch import nn

from pass_transfer import ops
from pass_transfer.files import make_folder, read_json, write_json
from pass_transfer.latency import interleave
from pass_transfer.masking import batch_statistics, capacity_for, masked_forward
from pass_transfer.networks import ChannelGroups, find_groups

BATCH = {64: 128, 224: 16}
BASELINES = ("eager", "compile")
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
    return torch.cat(
        [(torch.randperm(g.width, generator=generator) + 0.5) / g.width for g in groups.values()]
    )


class MaskedReader(nn.Module):
    """layer(x * mask), as it is usually written."""

    def __init__(self, layer: nn.Module, name: str, units: torch.Tensor, width: int):
        super().__init__()
        self.layer, self.name, self.mask = layer, name, None
        self.units = None if len(units) == width else units

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = self.mask if self.units is None else self.mask[self.units.to(self.mask.device)]
        return self.layer(x * (mask.view(1, -1, 1, 1) if x.ndim == 4 else mask).to(x.dtype))


class Eager(nn.Module):
    """A copy of a backbone whose groups' readers multiply their input by a mask.

    BatchNorm uses the batch's statistics.
    """

    def __init__(self, backbone: nn.Module, groups: ChannelGroups):
        super().__init__()
        self.backbone, self.names = copy.deepcopy(backbone), list(groups)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
                module.running_mean = module.running_var = None
        self.readers = []
        for name, group in groups.items():
            for reader, units in group.reads.items():
                parent, _, child = reader.rpartition(".")
                masked = MaskedReader(self.backbone.get_submodule(reader), name, units, group.width)
                setattr(self.backbone.get_submodule(parent), child, masked)
                self.readers.append(masked)

    def forward(self, x: torch.Tensor, masks: list[torch.Tensor]) -> torch.Tensor:
        by_name = dict(zip(self.names, masks))
        for reader in self.readers:
            reader.mask = by_name[reader.name]
        return self.backbone(x)


class Problem:
    """A backbone, its groups, a batch, and the variants of a step on them at a density."""

    def __init__(
        self,
        model: str,
        size: int,
        density: float,
        precision: str,
        batch: int | None,
        device: str,
        graphs: bool = False,
        slack: int = 8,
        seed: int = 0,
    ):
        torch.manual_seed(seed)
        self.device, self.precision = torch.device(device), precision
        self.graphs, self.slack = graphs, slack
        torch.backends.cudnn.benchmark = True  # for all variants: shapes stay as they are
        backbone = getattr(torchvision.models, model)(num_classes=100).eval().requires_grad_(False)
        self.groups = find_groups(backbone, size)
        self.backbones = {name: self._copy(backbone, layout) for name, layout in LAYOUTS.items()}
        images = torch.randn(batch or BATCH.get(size, 32), 3, size, size)
        self.images = {
            name: images.to(self.device, memory_format=layout) for name, layout in LAYOUTS.items()
        }
        self.labels = torch.randint(100, (len(images),)).to(self.device)
        self.scores = random_scores(self.groups, seed).to(self.device)
        self.density, self.k = density, round(density * self.groups.total)
        self.eagers: dict[tuple[str, bool], nn.Module] = {}
        self.pool = None
        self.offsets = self.groups.offsets.to(self.device)
        self.floors = torch.zeros(len(self.groups), dtype=torch.long, device=self.device)

    def at(self, density: float) -> Problem:
        """The same problem at another density; networks that are compiled stay so."""
        self.density, self.k = density, round(density * self.groups.total)
        return self

    def _copy(self, backbone: nn.Module, layout: torch.memory_format) -> nn.Module:
        return copy.deepcopy(backbone).to(self.device, memory_format=layout)

    def _step(
        self, layout: str, forward, leaves: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> None:
        scores, x = leaves or (
            self.scores.clone().requires_grad_(),
            self.images[layout].clone().requires_grad_(),
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = forward(scores, x)
        nn.functional.cross_entropy(logits.float(), self.labels).backward()

    def ours(self, layout: str, gradient: str):
        """A step on the operators of this library."""
        backbone = self.backbones[layout]

        capacity = capacity_for(
            {n: round(self.density * g.width) for n, g in self.groups.items()},
            {n: g.width for n, g in self.groups.items()},
            slack=self.slack,
        )

        def forward(scores, x):
            top = ops.global_topk_mask(scores, self.offsets, self.k, self.floors)
            masks, fixed = self.groups.split(top.mask), {}
            if self.graphs:
                fixed = {"capacity": capacity, "orders": self.groups.split(top.order)}
            return masked_forward(backbone, self.groups, masks, x, gradient, **fixed)

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
        # Shared: no variant's results are read, and one at a time runs.
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self.pool):
            self._step(layout, forward, leaves)
        return graph.replay

    def eager(self, layout: str, compiled: bool = False):
        """A step as PyTorch is usually told to do it, or torch.compile of it."""
        if (layout, compiled) not in self.eagers:
            network = Eager(self.backbones[layout], self.groups).eval()
            self.eagers[layout, compiled] = torch.compile(network) if compiled else network
        network = self.eagers[layout, compiled]

        def forward(scores, x):
            return network(
                x, list(self.groups.split(StraightThrough.apply(scores, self.k)).values())
            )

        return self._replayed(layout, forward)

    def dense(self, layout: str):
        """A step without masks: gradient to the images alone."""
        backbone = self.backbones[layout]

        def forward(scores, x):
            with batch_statistics(backbone):
                return backbone(x)

        return self._replayed(layout, forward)


def summarise(times: dict[str, list[float]]) -> dict:
    """Median milliseconds, and every variant's ratios.

    They are to the fastest baseline, and to the fastest one in its own layout.
    """
    medians = {name: statistics.median(values) for name, values in times.items()}

    def fastest(layout: str) -> str:
        return min(
            (n for n in medians if n.startswith(BASELINES) and n.endswith(layout)), key=medians.get
        )

    def ratios(reference) -> dict[str, float]:
        return {
            n: statistics.median(a / b for a, b in zip(times[n], times[reference(n)]))
            for n in times
        }

    return {
        "milliseconds": medians,
        "baseline": fastest(""),
        "ratios": ratios(lambda n: fastest("")),
        "ratios_in_layout": ratios(lambda n: fastest(n.split()[-1])),
    }


def table(cells: list[dict]) -> str:
    """Ratios to the fastest baseline, each variant in its better layout.

    In brackets is the worst ratio to a baseline of the same layout.
    """
    kinds = [
        k
        for k in ("dense", "exact", "kept")
        if any(n.startswith(k) for c in cells for n in c["ratios"])
    ]
    asked = ["model", "size", "batch", "precision", "density", "rounds"] + ["slack"] * any(
        c["cuda_graph"] for c in cells
    )
    heads = [
        {"model": "network", "size": "px", "slack": "room"}.get(name, name) for name in asked
    ] + ["fastest baseline", *kinds]
    rows = [heads, ["---"] * len(heads)]
    for c in cells:
        taken = c["milliseconds"][c["baseline"]]
        row = [str(c[name]) for name in asked] + [
            f"{c['baseline']}, {taken:.{0 if taken >= 100 else 1}f} ms"
        ]
        for kind in kinds:
            names = [n for n in c["ratios"] if n.startswith(kind)]
            if not names:
                row.append("")
                continue
            best = min(c["ratios"][n] for n in names)
            worst = max(c["ratios_in_layout"][n] for n in names)
            row.append(f"{best:.2f} ({worst:.2f})")
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def measured(folder: str, device: str) -> list[dict]:
    """The cells that a folder keeps for a kind of device, in the order of what was asked for."""
    cells = [read_json(path) for path in sorted(Path(folder).glob(f"*-{device}*.json"))]
    return sorted(
        cells,
        key=lambda c: (
            c["model"],
            c["size"],
            c["precision"] != "float32",
            c["density"],
            c["slack"] or 0,
        ),
    )


def main() -> None:
    """Measure what was asked for and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["resnet18"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 224])
    parser.add_argument("--densities", nargs="+", type=float, default=[0.3, 0.5, 0.7, 0.9])
    parser.add_argument("--precisions", nargs="+", default=["float32"], choices=("float32", "bf16"))
    parser.add_argument(
        "--gradients", nargs="+", default=["exact", "kept"], choices=("exact", "kept")
    )
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile of the eager step is a baseline too"
    )
    parser.add_argument(
        "--cuda-graph",
        action="store_true",
        help="capture every variant's step, and time its replay",
    )
    parser.add_argument(
        "--slack",
        type=int,
        default=8,
        help="with --cuda-graph: channels that a group may keep beyond what it keeps now",
    )
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=list(LAYOUTS))
    parser.add_argument("--out", default="benchmarks/results/search_step")
    parser.add_argument(
        "--show",
        action="store_true",
        help="measure nothing: print the table of what --out holds for --device",
    )
    given = parser.parse_args()
    if given.show:
        return print(table(measured(given.out, given.device)))
    cells = []
    for model in given.models:
        for size in given.sizes:
            for precision in given.precisions:
                problem = Problem(
                    model,
                    size,
                    given.densities[0],
                    precision,
                    given.batch,
                    given.device,
                    given.cuda_graph,
                    given.slack,
                )
                for density in given.densities:
                    problem.at(density)
                    variants = {
                        f"eager {layout}": problem.eager(layout) for layout in given.layouts
                    }
                    if given.compile:
                        variants |= {
                            f"compile {layout}": problem.eager(layout, compiled=True)
                            for layout in given.layouts
                        }
                    variants |= {
                        f"dense {layout}": problem.dense(layout) for layout in given.layouts
                    }
                    variants |= {
                        f"{gradient} {layout}": problem.ours(layout, gradient)
                        for gradient in given.gradients
                        for layout in given.layouts
                    }
                    origin = provenance()
                    found = summarise(interleave(variants, given.rounds, problem.device, warm_up=1))
                    cell = {
                        "model": model,
                        "size": size,
                        "precision": precision,
                        "density": density,
                        "batch": len(problem.labels),
                        "rounds": given.rounds,
                        "cuda_graph": given.cuda_graph,
                        "slack": given.slack if given.cuda_graph else None,
                        "kernels": ops.kernels.chosen().reason,
                        **found,
                    } | origin
                    if given.out:
                        device = problem.device.type
                        if given.cuda_graph:
                            device += f"-room{given.slack}"
                        name = f"{model}-{size}-{precision}-{density}-{device}.json"
                        write_json(make_folder(given.out) / name, cell)
                    cells.append(cell)
                    print(
                        f"{model} {size} px {precision} {density}: "
                        + ", ".join(f"{n} {r:.2f}" for n, r in found["ratios"].items()),
                        file=sys.stderr,
                        flush=True,
                    )
    print(table(cells))


if __name__ == "__main__":
    main()
