"""The processes that work on one job, as accelerate launch and torchrun start them.

All of them run the same program. They share the images out and add up what they made of them, so
that each has the same sums, and comes to the same decisions. The first one alone writes.

A process alone needs nothing of accelerate. Of several, the state that a program's own
Accelerator has, or will have, is shared: it says nothing of a precision.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import distributed, nn

GLIMPSE = 2  # images; a batch's statistics cannot be made of one

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """What a process has of every batch: each `count`-th image, from its own number on.

    Fields:
        images: of the whole batch; None where all of them are here.
    """

    count: int = 1
    rank: int = 0
    images: int | None = None

    def of(self, drawn: torch.Tensor) -> torch.Tensor:
        """This process's rows of what was drawn for every image of the batch."""
        return drawn[self.rank :: self.count]

    def weight(self, here: int) -> float:
        """What a mean over the `here` images counts in the mean of all processes' means."""
        return 1.0 if self.images is None else here * self.count / self.images


WHOLE = Part()


@dataclass(frozen=True)
class Share:
    """A batch as a process sees it: its own, or a glimpse of another process's.

    A glimpse draws what the batch draws, so that every process's draws for its own batches are
    those of one process alone.

    Fields:
        positions: of its images; of a glimpse, the first GLIMPSE.
    """

    positions: torch.Tensor
    mine: bool


@dataclass(frozen=True)
class Processes:
    """How many there are, and which one this is.

    Fields:
        group: for what is exchanged on the CPU, where there are several.
    """

    count: int = 1
    rank: int = 0
    group: Any = field(default=None, compare=False, repr=False)

    @property
    def first(self) -> bool:
        """Whether this one writes what all have made."""
        return self.rank == 0

    def joined(self, network: M) -> M | nn.parallel.DistributedDataParallel:
        """A network whose gradients are the mean over all processes; itself where there is one."""
        if self.count == 1:
            return network
        device = next(network.parameters()).device
        places = None if device.type == "cpu" else [device.index]
        return nn.parallel.DistributedDataParallel(network, device_ids=places)

    def part(self, images: int) -> Part:
        """What this process has of a batch of so many images."""
        return Part(self.count, self.rank, images if self.count > 1 else None)

    def mine(self, batches: Sequence[T]) -> Sequence[T]:
        """Which of several batches this process looks at: they are dealt out in turn."""
        return batches[self.rank :: self.count]

    def shares(self, batches: Sequence[torch.Tensor]) -> list[Share]:
        """Every batch in turn, this process's own as they are, the others' as glimpses."""
        seen = []
        for number, positions in enumerate(batches):
            mine = number % self.count == self.rank
            seen.append(Share(positions if mine else positions[:GLIMPSE], mine))
        return seen

    def gathered(self, made: Sequence[T]) -> list[T]:
        """What all processes made of their batches, in the order of the batches."""
        if self.count == 1:
            return list(made)
        of_each: list[Any] = [None] * self.count
        distributed.all_gather_object(of_each, list(made), group=self.group)
        turns = range(max(map(len, of_each)))
        return [of_one[turn] for turn in turns for of_one in of_each if turn < len(of_one)]

    def add_up(self, sums: Iterable[torch.Tensor]) -> None:
        """Replace every sum by that over all processes."""
        if self.count == 1:
            return
        for total in sums:
            there = total.cpu()
            distributed.all_reduce(there, group=self.group)
            total.copy_(there)

    def average(self, gradients: Iterable[torch.Tensor | None], weight: float = 1.0) -> None:
        """Replace gradients, where they are, by their mean over all processes.

        Args:
            weight: of this process's (Part.weight).
        """
        if self.count == 1:
            return
        there = [gradient for gradient in gradients if gradient is not None]
        if not there:
            return
        together = torch.cat([gradient.flatten().float() for gradient in there]).mul_(weight)
        self.add_up([together])
        together.div_(self.count)
        parts = together.split([gradient.numel() for gradient in there])
        for gradient, part in zip(there, parts):
            gradient.copy_(part.view_as(gradient))

    def as_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all of them."""
        if self.count == 1:
            return make()
        shared: list[Any] = [make() if self.first else None]
        distributed.broadcast_object_list(shared, src=0, group=self.group)
        return shared[0]

    def align(self, module: nn.Module) -> None:
        """Give every process the first one's weights and statistics."""
        if self.count == 1:
            return
        with torch.no_grad():
            for tensor in module.state_dict().values():
                there = tensor.cpu().contiguous()
                distributed.broadcast(there, src=0, group=self.group)
                tensor.copy_(there)

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.count > 1:
            distributed.barrier(group=self.group)


ALONE = Processes()


def meet_processes(device: torch.device) -> tuple[Processes, torch.device]:
    """The processes that were started together, and this one's device of the kind that is given."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE, device
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu")
    return Processes(state.num_processes, state.process_index, _on_the_cpu()), state.device


@functools.cache
def _on_the_cpu() -> Any:
    """The group in which the CPU's tensors are exchanged; made once, by all together."""
    return distributed.new_group(backend="gloo")
