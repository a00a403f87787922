"""How large the small network may be: one value, from the caller to the cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pass_transfer.budgets.kinds import BUDGET_KINDS, BudgetKind, CutNetwork
from pass_transfer.budgets.ranking import RankedCuts, layer_names
from pass_transfer.errors import UsageError
from pass_transfer.masks import ChannelMasks
from pass_transfer.settings import is_whole

ROUND_TO = 8  # channels: the steps that arithmetic comes in (docs/speed.md)


@dataclass(frozen=True, init=False)
class Budget:
    """A bound on the small network, and how channels are cut within it.

    Example: Budget(macs=0.4), Budget(params="3M"), Budget(latency_ms=60, batch=32)

    Args:
        batch: images at once that a latency is for.
        round_to: groups keep a multiple of this many channels, or all of them; 1 keeps just
            the best.
        keep_layers: layers to leave alone, by name or pattern ("layer1.*").
        uniform: whether every group keeps the same share, instead of one ranking over all.
        fill: whether single channels further down the ranking are kept too, where they still
            fit. A smaller budget's channels are then no longer a subset of a larger one's.
        bound: exactly one of macs=, params= (a share of the dense network's, such as 0.5, or
            an amount, such as "70M"), density= (a share of all channels) or latency_ms=
            (milliseconds for `batch` images, measured when the cut is made).

    Raises:
        UsageError: not exactly one bound, or a value that is not allowed; it is named.
    """

    kind: str
    value: Any
    batch: int
    round_to: int
    keep_layers: tuple[str, ...]
    uniform: bool
    fill: bool

    def __init__(
        self,
        *,
        batch: int = 1,
        round_to: int = ROUND_TO,
        keep_layers: Sequence[str] = (),
        uniform: bool = False,
        fill: bool = False,
        **bound: Any,
    ):
        kind = _only_bound(bound)
        if not is_whole(batch):
            raise UsageError(f"batch is {batch}; it is a number of images, at least 1", "batch")
        if not is_whole(round_to):
            message = f"round_to is {round_to}; it is a whole number from 1"
            raise UsageError(message, "round_to")
        if fill and round_to > 1:
            raise UsageError(f"fill keeps single channels; it cannot go with round_to {round_to}")
        fields = {
            "kind": kind,
            "value": BUDGET_KINDS[kind].parse(bound[kind]),
            "batch": batch,
            "round_to": round_to,
            "keep_layers": layer_names(keep_layers),
            "uniform": uniform,
            "fill": fill,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def saved(self) -> dict[str, Any]:
        """What a run keeps of it, as JSON has it; Budget(**saved) is the same again."""
        found: dict[str, Any] = {self.kind: self.value, "round_to": self.round_to}
        found |= {"keep_layers": list(self.keep_layers)}
        if self.batch > 1:
            found["batch"] = self.batch
        return found | {name: True for name in ("uniform", "fill") if getattr(self, name)}

    def replace(self, **changes: Any) -> Budget:
        """The same budget with other fields, such as round_to=1."""
        return Budget(**self.saved() | changes)

    def filled(self) -> Budget:
        """The same budget, filled up with single channels where it keeps single channels."""
        return self.replace(fill=self.round_to == 1)

    @property
    def _kind(self) -> BudgetKind:
        return BUDGET_KINDS[self.kind]

    def cut(self, scores: Mapping[str, torch.Tensor], network: CutNetwork) -> ChannelMasks:
        """The masks that keep the highest scores (width,) of every group within this budget.

        Raises:
            UsageError: a layer to be kept that the network lacks.
            MaskError: a budget that the floors (a tenth of every group) exceed, or scores of
                another network.
        """
        cuts = self._cuts(scores, network)
        make = self._kind.filled if self.fill else self._kind.masks
        return make(self.value, self.batch, cuts, network)

    def check(self, scores: Mapping[str, torch.Tensor], network: CutNetwork) -> None:
        """Refuse a budget that cannot be met, before any work is done for it; errors as of cut.

        Of milliseconds, only the smallest cut is measured.
        """
        self._kind.check(self.value, self.batch, self._cuts(scores, network), network)

    def _cuts(self, scores: Mapping[str, torch.Tensor], network: CutNetwork) -> RankedCuts:
        return RankedCuts(
            scores,
            network.groups,
            uniform=self.uniform,
            round_to=self.round_to,
            keep_layers=self.keep_layers,
        )


def choose_budget(given: object, parts: Mapping[str, Any]) -> Budget:
    """A given budget, or one of the arguments of Budget.

    Raises:
        UsageError: both, or neither, or what is given is no Budget.
    """
    if given is None:
        return Budget(**parts)
    if not isinstance(given, Budget):
        message = f"budget is {given!r}; it is a Budget, such as Budget(macs=0.4)"
        raise UsageError(message, "budget")
    if parts:
        raise UsageError(f"give budget= or {', '.join(parts)}, not both")
    return given


def _only_bound(bound: Mapping[str, Any]) -> str:
    """The name of the one bound that is given."""
    kinds = ", ".join(BUDGET_KINDS)
    unknown = [name for name in bound if name not in BUDGET_KINDS]
    if unknown:
        raise UsageError(f"{unknown[0]} is no budget; choose one of {kinds}", unknown[0])
    given = [name for name, value in bound.items() if value is not None]
    if len(given) == 1:
        return given[0]
    here = " and ".join(f"{name}={bound[name]}" for name in given) or "none"
    raise UsageError(f"give exactly one budget of {kinds}; here is {here}")
