"""ABCPruner (arXiv 2001.08565): a bee colony searches how many channels each group keeps.

Which channels these are is left to their magnitude. Fitness is held-out accuracy of the
removed network with recalibrated BatchNorm and a classifier from class means, which stands
for the few epochs of training of the paper. Each structure is scaled so that it uses the
whole budget.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from pass_transfer.budgets import Budget
from pass_transfer.progress import progress_bar
from pass_transfer.random_streams import stream
from pass_transfer.scoring.magnitude import group_l1
from pass_transfer.scoring.method import Context, Scores, register
from pass_transfer.settings import check_whole
from pass_transfer.shrinking.shrink import ShrinkConfig, shrink
from pass_transfer.training import evaluate

STEPS_A_SOURCE = 40  # that one visit takes, about


@dataclass(frozen=True)
class BeeSettings:
    """The colony.

    Fields:
        sources: food sources, each a structure.
        cycles: rounds of visits.
        limit: fruitless visits after which a source is given up.
    """

    sources: int = 4
    cycles: int = 4
    limit: int = 3

    def __post_init__(self) -> None:
        check_whole(self, sources=2, cycles=1, limit=1)


class _Colony:
    def __init__(self, context: Context, budget: Budget):
        self.context, self.settings = context, context.settings
        self.groups = context.groups
        self.budget = budget.replace(fill=False, uniform=False)
        magnitude = group_l1(context.dense.fresh(), self.groups)
        self.order = {}
        for name, scores in magnitude.items():
            self.order[name] = torch.argsort(scores, descending=True, stable=True)
        self.draw = stream(context.seed, "bee colony")
        self.sources = [self._random_source() for _ in range(self.settings.sources)]
        self.best, self.best_fitness = self.sources[0], -1.0
        self.fitness = [self.value(source) for source in self.sources]
        self.fruitless = [0] * self.settings.sources

    def _random_source(self) -> torch.Tensor:
        return torch.rand(len(self.groups), generator=self.draw)

    def _random_number(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self.draw))

    def scores(self, source: torch.Tensor) -> Scores:
        """Scores whose cut keeps shares of the groups in proportion to a source.

        Inside a group the largest magnitudes come first.
        """
        found = {}
        for share, (name, group) in zip(source.tolist(), self.groups.items()):
            places = torch.empty(group.width)
            places[self.order[name]] = torch.arange(group.width, dtype=torch.float32) / group.width
            found[name] = (0.1 + share) / (places + 1 / group.width)
        return found

    def value(self, source: torch.Tensor) -> float:
        """Held-out accuracy in per cent."""
        context = self.context
        masks = self.budget.cut(self.scores(source), context.cut_network())
        config = ShrinkConfig(reconstruct=False, seed=context.seed)
        dense, prompt = context.dense, copy.deepcopy(context.dense.prompt)
        network = shrink(dense, self.groups, masks, prompt, context.task, config, context.runtime)
        found = evaluate(network.eval(), context.task.held_out, context.runtime).top1
        if found > self.best_fitness:
            self.best, self.best_fitness = source.clone(), found
        return found

    def visit(self, number: int) -> None:
        """A bee tries a neighbour of a source.

        One group moves towards another source's share, or away from it.
        """
        source, count = self.sources[number], len(self.sources)
        other = self.sources[(number + 1 + self._random_number(count - 1)) % count]
        group = self._random_number(len(source))
        step = 2 * torch.rand((), generator=self.draw) - 1
        near = source.clone()
        near[group] = (source[group] + step * (source[group] - other[group])).clamp(0, 1)
        found = self.value(near)
        if found > self.fitness[number]:
            self.sources[number], self.fitness[number], self.fruitless[number] = near, found, 0
        else:
            self.fruitless[number] += 1

    def cycle(self) -> None:
        """Employed bees visit every source, onlookers the good ones.

        Scouts replace the sources that are given up.
        """
        count = len(self.sources)
        for number in range(count):
            self.visit(number)
        weights = torch.tensor(self.fitness).clamp(min=1e-6)
        chosen = torch.multinomial(weights, count, replacement=True, generator=self.draw)
        for number in chosen.tolist():
            self.visit(number)
        for number in range(count):
            if self.fruitless[number] > self.settings.limit:
                self.sources[number] = self._random_source()
                self.fitness[number], self.fruitless[number] = self.value(self.sources[number]), 0


def _steps(settings: BeeSettings) -> float:
    return STEPS_A_SOURCE * settings.sources * (2 * settings.cycles + 1)


@register("abc", BeeSettings, steps=_steps, each_budget=True, coupled=True)
def bee_colony(context: Context) -> Scores:
    """The structure of the best source, as scores."""
    budget = context.budget if isinstance(context.budget, Budget) else Budget(macs=0.5)
    colony = _Colony(context, budget)
    with progress_bar("bee colony", context.settings.cycles, "cycles") as bar:
        for _ in range(context.settings.cycles):
            colony.cycle()
            bar.advance(1, f"{colony.best_fitness:.1f} %")
    return colony.scores(colony.best)
