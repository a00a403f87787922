"""ABCPruner (arXiv 2001.08565): an artificial bee colony searches how many channels each group keeps; which ones is left to their magnitude.

Fitness is held-out accuracy of the removed network with recalibrated BatchNorm and a
classifier from class means, which stands for the few epochs of training of the paper.
Each structure is scaled so that it uses the whole budget.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pass_transfer.budgets.ranking import select
from pass_transfer.networks import ChannelGroups
from pass_transfer.progress import progress_bar
from pass_transfer.scoring.magnitude import group_l1
from pass_transfer.scoring.method import Context, Method, Scores
from pass_transfer.settings import check_whole
from pass_transfer.shrinking.shrink import shrink
from pass_transfer.training import evaluate
from pass_transfer.training.batches import generator


@dataclass(frozen=True)
class BeeSettings:
    """sources: food sources, each a structure; cycles of the colony; limit: fruitless visits after which a source is given up."""

    sources: int = 4
    cycles: int = 4
    limit: int = 3

    def __post_init__(self) -> None:
        check_whole(self, sources=2, cycles=1, limit=1)


class _Colony:
    def __init__(self, context: Context):
        self.context, self.settings = context, context.settings
        self.groups: ChannelGroups = context.entry.groups
        self.order = {
            name: torch.argsort(scores, descending=True, stable=True)
            for name, scores in group_l1(
                context.entry.backbone(), self.groups, context.entry.spec.image_size
            ).items()
        }
        self.draw = generator(context.seed, 7)
        self.sources = [
            torch.rand(len(self.groups), generator=self.draw) for _ in range(self.settings.sources)
        ]
        self.best, self.best_fitness = self.sources[0], -1.0
        self.fitness = [self.value(source) for source in self.sources]
        self.fruitless = [0] * self.settings.sources

    def scores(self, source: torch.Tensor) -> Scores:
        """Scores whose cut at a budget keeps shares of the groups in proportion to a source, best magnitudes first."""
        found = {}
        for share, (name, group) in zip(source.tolist(), self.groups.items()):
            places = torch.empty(group.width)
            places[self.order[name]] = torch.arange(group.width, dtype=torch.float32) / group.width
            found[name] = (0.1 + share) / (places + 1 / group.width)
        return found

    def value(self, source: torch.Tensor) -> float:
        context, entry = self.context, self.context.entry
        masks = select(self.scores(source), self.groups, macs=context.budget, table=context.table)
        network = shrink(
            entry.backbone(),
            self.groups,
            masks,
            entry.spec.mean,
            entry.spec.std,
            None,
            context.task,
            "linear",
            context.runtime,
            context.seed,
            reconstruct=False,
        )
        found = evaluate(network.eval(), context.task.held_out, context.runtime).top1
        if found > self.best_fitness:
            self.best, self.best_fitness = source.clone(), found
        return found

    def visit(self, number: int) -> None:
        """A bee tries a neighbour of a source: one group moved towards or away from another source's."""
        source = self.sources[number]
        other = self.sources[
            (number + 1 + int(torch.randint(len(self.sources) - 1, (), generator=self.draw)))
            % len(self.sources)
        ]
        group = int(torch.randint(len(source), (), generator=self.draw))
        near = source.clone()
        near[group] = (
            source[group]
            + (2 * torch.rand((), generator=self.draw) - 1) * (source[group] - other[group])
        ).clamp(0, 1)
        found = self.value(near)
        if found > self.fitness[number]:
            self.sources[number], self.fitness[number], self.fruitless[number] = near, found, 0
        else:
            self.fruitless[number] += 1

    def cycle(self) -> None:
        """Employed bees visit every source, onlookers the good ones, scouts replace what is given up."""
        count = len(self.sources)
        for number in range(count):
            self.visit(number)
        chosen = torch.multinomial(
            torch.tensor(self.fitness).clamp(min=1e-6), count, replacement=True, generator=self.draw
        )
        for number in chosen.tolist():
            self.visit(number)
        for number in range(count):
            if self.fruitless[number] > self.settings.limit:
                self.sources[number] = torch.rand(len(self.groups), generator=self.draw)
                self.fitness[number], self.fruitless[number] = self.value(self.sources[number]), 0


def _search(context: Context) -> Scores:
    colony = _Colony(context)
    with progress_bar("bee colony", context.settings.cycles, "cycles") as bar:
        for _ in range(context.settings.cycles):
            colony.cycle()
            bar.advance(1, f"{colony.best_fitness:.1f} %")
    return colony.scores(colony.best)


METHODS = {
    "abc": Method(
        _search,
        lambda settings: 40 * settings.sources * (2 * settings.cycles + 1),
        BeeSettings,
        each_budget=True,
        coupled=True,
    )
}
