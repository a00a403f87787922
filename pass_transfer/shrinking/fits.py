"""How a layer's kept inputs take over what cut ones carried, from sums over rows of its inputs."""

from __future__ import annotations

from typing import Protocol

import torch

from pass_transfer.float64 import to_float64
from pass_transfer.training.processes import Processes

RIDGE = 1e-2  # of the mean variance: what the kept inputs hardly explain is left as it was
GRAM_RIDGE = 1e-3  # of the mean square of the kept channels


class Fit(Protocol):
    """What is known of a layer's inputs, and what follows for its weights.

    `kept` is bool (D,), of the flattened weight's inputs.
    """

    kept: torch.Tensor

    def add(self, rows: torch.Tensor) -> None:
        """Rows (N, D) of inputs."""

    def join(self, processes: Processes) -> None:
        """Take in what the other processes saw."""

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What to add to the weights of the kept inputs, (O, K), and to the bias, (O,)."""


class FitKind(Protocol):
    """A way to fit: from the weight (O, C, ...) of the outputs that stay, and bool (C,)."""

    def __call__(self, weight: torch.Tensor, kept: torch.Tensor) -> Fit:
        """A fit that was shown nothing yet."""


class LeastSquares:
    """Ridge regression of what a layer made of its cut inputs on its kept ones.

    It is solved from sums over rows of inputs.

    Args:
        weight: (O, C, ...) of the outputs that stay.
        kept: bool (C,).
    """

    def __init__(self, weight: torch.Tensor, kept: torch.Tensor):
        self.kept = kept.repeat_interleave(weight[0, 0].numel())
        self.lost_weight = weight.flatten(1)[:, ~self.kept]
        self.count = 0
        ins, outs = int(self.kept.sum()), len(weight)
        shapes = (ins,), (outs,), (ins, ins), (ins, outs)
        self.sums = [torch.zeros(shape, device=weight.device) for shape in shapes]

    def add(self, rows: torch.Tensor) -> None:
        """Rows (N, D) of inputs."""
        x, y = rows[:, self.kept], rows[:, ~self.kept] @ self.lost_weight.T.to(rows)
        sums = [x.sum(0), y.sum(0), x.T @ x, x.T @ y]
        self.sums = [a + b for a, b in zip(self.sums, sums)]
        self.count += len(rows)

    def join(self, processes: Processes) -> None:
        """Take in what the other processes saw."""
        processes.add_up(self.sums)
        self.count = sum(processes.gathered([self.count]))

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What to add to the weights of the kept inputs, (O, K), and to the bias, (O,)."""
        x, y, xx, xy = (to_float64(total) / self.count for total in self.sums)
        inside = xx.addr_(x, x, alpha=-1)
        inside.diagonal().add_(RIDGE * inside.diagonal().mean().clamp(min=1e-12))
        added = torch.linalg.solve(inside, xy.addr_(x, y, alpha=-1)).T
        return added, y - added @ x


class MeanOnly(LeastSquares):
    """The bias takes over the mean of what is lost (variance-based pruning, arXiv 2507.12988)."""

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Nothing to add to the weights, (O, K), and what to add to the bias, (O,)."""
        lost = to_float64(self.sums[1]) / self.count
        return lost.new_zeros(len(lost), int(self.kept.sum())), lost


class GramRidge:
    """Ridge regression of all channels on the kept ones, by the Gram matrix of channels.

    GRAIL (arXiv 2602.23795): W becomes W B with B = G_k' (G_kk + ridge)^-1. Unlike in least
    squares, a channel is the same at every place of a kernel, nothing is centred, and the bias
    stays.

    Args:
        weight: (O, C, ...) of the outputs that stay.
        kept: bool (C,).
    """

    def __init__(self, weight: torch.Tensor, kept: torch.Tensor):
        self.weight, self.channels = weight.reshape(*weight.shape[:2], -1), kept
        self.kept = kept.repeat_interleave(self.weight.shape[2])
        self.gram = to_float64(weight.new_zeros(len(kept), len(kept)))

    def add(self, rows: torch.Tensor) -> None:
        """Rows (N, D) of inputs."""
        by_channel = rows.view(len(rows), len(self.channels), -1).transpose(1, 2).flatten(0, 1)
        self.gram = self.gram + to_float64(by_channel.T @ by_channel)

    def join(self, processes: Processes) -> None:
        """Take in what the other processes saw."""
        processes.add_up([self.gram])

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What to add to the weights of the kept inputs, (O, K), and to the bias, (O,)."""
        weight, among = to_float64(self.weight), self.gram[self.channels][:, self.channels]
        among.diagonal().add_(GRAM_RIDGE * among.diagonal().mean().clamp(min=1e-12))
        mixing = torch.linalg.solve(among, self.gram[self.channels]).T  # (C, kept channels)
        made = torch.einsum("ocp,ck->okp", weight, mixing)
        return (made - weight[:, self.channels]).flatten(1), weight.new_zeros(len(weight))


class FitOfPlaces:
    """A fit for a layer behind a flattening: channels stand in for others at their own place.

    One fit of the cut channels by the kept ones serves all places, so that its size
    is that of the channels, not of channels times places.

    Args:
        weight: (O, D) of the outputs that stay.
        mask: bool (C,), the channels that stay.
        inputs: (C, P), where each channel's places are among the D inputs.
        kind: of fit.
    """

    def __init__(
        self, weight: torch.Tensor, mask: torch.Tensor, inputs: torch.Tensor, kind: FitKind
    ):
        self.weight, self.mask, self.inputs = weight, mask, inputs
        self.kept = torch.zeros(weight.shape[1], dtype=torch.bool, device=mask.device)
        self.kept[inputs[mask].flatten()] = True
        every_channel = torch.eye(len(mask), dtype=weight.dtype, device=weight.device)
        self.fit = kind(every_channel, mask)

    def add(self, rows: torch.Tensor) -> None:
        """Rows (N, D) of inputs."""
        of_channels = rows[:, self.inputs]  # (N, C, P)
        self.fit.add(of_channels.transpose(1, 2).flatten(0, 1))

    def join(self, processes: Processes) -> None:
        """Take in what the other processes saw."""
        self.fit.join(processes)

    def solve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What to add to the weights of the kept inputs, (O, K), and to the bias, (O,)."""
        of_lost, shift = self.fit.solve()  # (C, kept channels) and (C,)
        weight = to_float64(self.weight)[:, self.inputs]  # (O, C, P)
        added = torch.einsum("ocp,ck->okp", weight, of_lost)
        full = torch.zeros_like(weight)
        full[:, self.mask] = added
        in_place = torch.empty_like(weight).flatten(1)
        in_place[:, self.inputs.flatten()] = full.flatten(1)
        return in_place[:, self.kept], weight.sum(2) @ shift
