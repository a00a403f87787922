"""The processes that train together, as accelerate launch and torchrun start them.

A process alone needs nothing of accelerate. Of several, the state that a program's own
Accelerator has, or will have, is shared: it says nothing of a precision.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Processes:
    """How many there are, and which one this is."""

    count: int = 1
    rank: int = 0

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


def meet_processes(device: torch.device) -> tuple[Processes, torch.device]:
    """The processes that were started together, and this one's device of the kind that is given."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(), device
    from accelerate import PartialState

    state = PartialState(cpu=device.type == "cpu")
    return Processes(state.num_processes, state.process_index), state.device
