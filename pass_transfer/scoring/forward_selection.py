"""Forward selection: channels in the order in which they explain what their readers compute.

What a channel adds is measured with least squares from those chosen before it.
A reader is a layer that takes a group's channels in. Of what it makes of all of them, a set
of channels explains a part (the regression that shrinking/reconstruct.py does after removal);
what is left over is weighted by the squared gradient of the loss to the reader's outputs.
The next channel is always the one that lowers this most (greedy forward selection, as in
channel selection by reconstruction: arXiv 1707.06168, section 3.1; 1707.06342, section 3.2).
So a channel that others can stand in for comes late, however large or important it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from pass_transfer.errors import BackboneError
from pass_transfer.float64 import to_float64
from pass_transfer.masking import batch_statistics
from pass_transfer.networks import ChannelGroups, kind_of
from pass_transfer.networks.labels import NONE
from pass_transfer.progress import progress_bar
from pass_transfer.scoring.judge import Loss, summed_loss
from pass_transfer.training.processes import ALONE, Processes

PLACES = 16  # of every map that are looked at: neighbours say the same
RIDGE = 1e-2  # of the mean variance
LEAST = 1e-12  # variance that counts as some
AT_ONCE = 64  # choices that are taken off in one product
IN_CACHE = 2**17  # numbers that are squared at once


def forward_selection(
    backbone: nn.Module,
    groups: ChannelGroups,
    samples: Iterable[tuple[torch.Tensor, torch.Tensor, bool]],
    forward: Callable[[torch.Tensor], torch.Tensor],
    draw: torch.Generator,
    loss: Loss = summed_loss,
    processes: Processes = ALONE,
) -> dict[str, torch.Tensor]:
    """Scores (width,) of every group: the first channel's is the width, the last one's 1.

    Args:
        backbone: the network `forward` runs; its parameters need no gradient.
        samples: batches of images (B, 3, S, S) in [0, 1] and labels (B,), on the backbone's device,
            and whether each is this process's own; else the places of its maps are drawn alone.
        forward: images to logits (B, classes), through the backbone.
        draw: of the places of a map that are looked at, on the CPU.
        loss: logits and labels to the loss, summed over the batch.
        processes: whose samples are added up.

    Raises:
        BackboneError: a group that only convolutions with groups of their own read.
    """
    readers = _readers(backbone, groups)
    handles = [
        backbone.get_submodule(name).register_forward_hook(
            lambda layer, given, made, reader=reader: reader.look(given[0], made, draw)
        )
        for (name, _), reader in readers.items()
    ]
    try:
        with batch_statistics(backbone):
            for images, labels, mine in samples:
                for reader in readers.values():
                    reader.idle = not mine
                logits = forward(images.requires_grad_(mine)).float()
                if mine:
                    loss(logits, labels).backward()
    finally:
        for handle in handles:
            handle.remove()
    for reader in readers.values():
        reader.join(processes)
    found = {}
    with progress_bar("forward selection", groups.total, "channels") as bar:
        for name, group in groups.items():
            mixing = [readers[r, name] for r in group.reads if (r, name) in readers]
            moments = [reader.moments() for reader in mixing]
            blocks = any(len(covariance) > group.width for covariance, _ in moments)
            ordering = order_of_blocks if blocks else order
            found[name] = ordering(moments, group.width)
            bar.advance(group.width)
    return found


def _readers(backbone: nn.Module, groups: ChannelGroups) -> dict[tuple[str, str], _Reader]:
    """By its name and the group's, each layer that mixes a group's channels.

    Raises BackboneError for a group without.
    """
    readers: dict[tuple[str, str], _Reader] = {}
    for group in groups.values():
        for name, units in group.reads.items():
            layer = backbone.get_submodule(name)
            if kind_of(layer).mixes_channels:
                readers[name, group.name] = _Reader(layer, group.width, units, name in group.places)
        if not any((name, group.name) in readers for name in group.reads):
            raise BackboneError(
                f"forward selection cannot rank {group.name}: "
                "no layer but grouped convolutions reads its channels"
            )
    return readers


class _Reader:
    """What a layer sees of its input units, and how much the loss cares for each of its outputs.

    Args:
        layer: one that mixes its channels.
        width: units of the group that it reads.
        units: (inputs,), the unit of each input; NONE for one of another group.
        flattened: whether it stands behind a flattening.

    Behind a flattening a unit's inputs are the places of its map. Else a unit may have several
    inputs, as a head of attention has: then these are chosen together.
    """

    def __init__(self, layer: nn.Module, width: int, units: torch.Tensor, flattened: bool):
        self.kind = kind_of(layer)
        mine = torch.argsort(units, stable=True)  # unit by unit; those of other groups come first
        self.inputs = mine[int((units == NONE).sum()) :]
        columns = width if flattened else len(self.inputs)
        weight = self.kind.weight_by_input(layer)
        by_unit = weight[:, self.inputs.to(weight.device)].reshape(len(weight), columns, -1)
        self.weight = to_float64(by_unit)  # (outputs, columns, the rest)
        self.count, self.idle = 0, False
        self.columns, self.flattened = columns, flattened
        self.sums = self.weight.new_zeros(columns)
        self.products = self.weight.new_zeros(columns, columns)
        self.slopes = self.weight.new_zeros(len(weight))

    def look(self, given: torch.Tensor, made: torch.Tensor, draw: torch.Generator) -> None:
        """Inputs (B, C, ...) and outputs of one batch."""
        with torch.autocast(given.device.type, enabled=False):
            channels = self.kind.channels_first(given.detach())
            maps = self._maps(channels)
            places = torch.randperm(maps.shape[2], generator=draw)[:PLACES].to(given.device)
            if self.idle:
                return
            seen = maps[:, :, places]
            if not self.flattened:  # few places before all channels: less to copy
                seen = seen[:, self.inputs.to(given.device)]
            rows = to_float64(seen.float().transpose(1, 2).flatten(0, 1))
            self.count += len(rows)
            self.sums = self.sums + rows.sum(0)
            self.products = self.products + rows.T @ rows
        made.register_hook(self._weigh)

    def _maps(self, channels: torch.Tensor) -> torch.Tensor:
        """Inputs (B, C, ...) as maps (B, C, places)."""
        if self.flattened:
            in_order = channels[:, self.inputs.to(channels.device)]
            return in_order.reshape(len(channels), self.columns, -1)
        return channels.flatten(2) if channels.ndim > 2 else channels.unsqueeze(2)

    def _weigh(self, gradient: torch.Tensor) -> None:
        by_channel = self.kind.channels_first(gradient.detach())
        for part in by_channel.split(max(1, IN_CACHE // by_channel[0].numel())):
            squares = to_float64(part).square()
            added = squares.flatten(2).sum((0, 2)) if squares.ndim > 2 else squares.sum(0)
            self.slopes = self.slopes + added

    def join(self, processes: Processes) -> None:
        """Take in what the other processes saw."""
        processes.add_up([self.sums, self.products, self.slopes])
        self.count = sum(processes.gathered([self.count]))

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Covariance (C, C) of the inputs, and what their errors cost, (C, C).

        The cost is in shares of what losing all of them would cost.
        """
        mean = self.sums / self.count
        covariance = self.products / self.count - torch.outer(mean, mean)
        covariance.diagonal().add_(RIDGE * covariance.diagonal().mean().clamp(min=1e-12))
        weighted = (self.weight * self.slopes[:, None, None]).permute(1, 0, 2).flatten(1)
        cost = weighted @ self.weight.permute(1, 0, 2).flatten(1).T
        return covariance, cost / (cost * covariance).sum().clamp(min=1e-30)


def order(moments: list[tuple[torch.Tensor, torch.Tensor]], width: int) -> torch.Tensor:
    """Scores (width,) float64 by greedy forward selection over readers of the same channels.

    Args:
        moments: of each reader, the inputs' covariance (C, C) and the cost of their errors,
            (C, C).
    """
    device = moments[0][0].device
    left = torch.ones(width, dtype=torch.bool, device=device)
    scores = torch.zeros(width, dtype=torch.float64, device=device)
    readers = [_Unexplained(covariance, cost) for covariance, cost in moments]
    for place in range(width, 0, -1):
        gain = sum((reader.gain() for reader in readers), scores.new_zeros(width))
        chosen = int(gain.masked_fill(~left, -torch.inf).argmax())
        left[chosen], scores[chosen] = False, place
        for reader in readers:
            reader.choose(chosen)
    return scores.cpu()


class _Unexplained:
    """What the chosen inputs leave unexplained of all of them.

    R (C, C) is the covariance of what is left over of each input, and P = R Q R its price, with
    the cost Q of errors. An input c that is chosen takes s r' from R, and s w' + w s' from P. Here
    r and v are the rows of R and P at c, s = r / r_c, and w = v - v_c s / 2. The diagonals are
    kept up to date. The rest waits until it can be taken off for several choices in one product,
    as in a blocked Cholesky decomposition with pivots.
    """

    def __init__(self, covariance: torch.Tensor, cost: torch.Tensor):
        self.rest, self.priced = covariance.clone(), covariance @ cost @ covariance
        self.variance = self.rest.diagonal().clone()
        self.price = self.priced.diagonal().clone()
        # s, r and w of the choices that wait.
        self.shares, self.rows, self.prices = covariance.new_empty(3, AT_ONCE, len(covariance))
        self.waiting = 0

    def gain(self) -> torch.Tensor:
        """How much of the price each input (C,) would explain, if chosen next."""
        return self.price / self.variance.clamp(min=LEAST)

    def choose(self, chosen: int) -> None:
        """Explain what an input can explain."""
        n = self.waiting
        share_of, price_of = self.shares[:n, chosen], self.prices[:n, chosen]
        row = self.rest[chosen] - share_of @ self.rows[:n]
        price = self.priced[chosen] - share_of @ self.prices[:n] - price_of @ self.shares[:n]
        share = row / row[chosen].clamp(min=LEAST)
        price = price - share * (price[chosen] / 2)
        self.variance -= share * row
        self.price -= 2 * share * price
        self.shares[n], self.rows[n], self.prices[n] = share, row, price
        self.waiting = n + 1
        if self.waiting == AT_ONCE:
            self._take_off()

    def _take_off(self) -> None:
        self.rest.addmm_(self.shares.T, self.rows, alpha=-1.0)
        product = self.shares.T @ self.prices
        self.priced.sub_(product).sub_(product.T)
        self.waiting = 0


def order_of_blocks(moments: list[tuple[torch.Tensor, torch.Tensor]], width: int) -> torch.Tensor:
    """The same for units of several inputs, which are chosen together.

    What a unit explains is the trace of R_uu^-1 (R Q R)_uu, with R and Q as in `order` and u the
    unit's inputs.
    """
    device = moments[0][0].device
    left, scores = list(range(width)), torch.zeros(width, dtype=torch.float64)
    rest = [covariance.clone() for covariance, _ in moments]
    for place in range(width, 0, -1):
        gains = torch.zeros(len(left), dtype=torch.float64, device=device)
        for r, (_, cost) in zip(rest, moments):
            each = len(r) // width
            priced = r @ cost @ r
            for number, unit in enumerate(left):
                own = slice(unit * each, (unit + 1) * each)
                gains[number] += torch.linalg.solve(_ridged(r[own, own]), priced[own, own]).trace()
        chosen = left.pop(int(gains.argmax()))
        scores[chosen] = place
        for r in rest:
            each = len(r) // width
            own = slice(chosen * each, (chosen + 1) * each)
            r -= r[:, own] @ torch.linalg.solve(_ridged(r[own, own]), r[own])
    return scores


def _ridged(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix that can be inverted also where everything in it is explained."""
    least = 1e-12 + 1e-9 * matrix.diagonal().mean().abs()
    return matrix + least * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
