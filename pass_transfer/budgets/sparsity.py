"""How many single weights go: a share of all, or a pattern of N in every M."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pass_transfer import ops
from pass_transfer.budgets.ranking import layer_names
from pass_transfer.errors import MaskError, UsageError
from pass_transfer.settings import is_number, shown
from pass_transfer.weight_masks import WeightMasks

PATTERN = re.compile(r"(\d{1,3}):(\d{1,3})")
LONGEST = 64  # inputs that a pattern looks at together


@dataclass(frozen=True)
class Sparsity:
    """What goes of a network's single weights: the budget where these are the units.

    Example: Sparsity(0.9), Sparsity(pattern="2:4", keep_layers=["conv1"])

    Fields:
        sparsity: share of all weights that goes, wherever they are: one ranking over all
            layers. Or None, with a pattern.
        pattern: "N:M" keeps N of every M inputs that follow each other, for each output and each
            place of a kernel. Or None.
        keep_layers: layers to leave alone, by name or pattern ("layer1.*").

    Raises:
        UsageError: both or neither of the first two, or a value that is not allowed.
    """

    sparsity: float | None = None
    pattern: str | None = None
    keep_layers: Sequence[str] = ()

    kind = "sparsity"  # as a Budget has it: nothing is measured
    batch = 1

    def __post_init__(self) -> None:
        if (self.sparsity is None) == (self.pattern is None):
            raise UsageError("give sparsity or pattern for single weights, one of them", "sparsity")
        if self.sparsity is not None and not (is_number(self.sparsity) and 0 < self.sparsity < 1):
            message = f"sparsity is {shown(self.sparsity)}; it is the share of weights that goes"
            raise UsageError(f"{message}, above 0 and below 1, such as 0.9", "sparsity")
        if self.pattern is not None:
            self._numbers()
        object.__setattr__(self, "keep_layers", layer_names(self.keep_layers))

    def _numbers(self) -> tuple[int, int]:
        """N and M of the pattern. Raises UsageError where they are none."""
        found = PATTERN.fullmatch(self.pattern) if isinstance(self.pattern, str) else None
        kept, of = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 0 < kept < of <= LONGEST:
            message = f"pattern is {shown(self.pattern)}; it keeps N of every M inputs, such as 2:4"
            raise UsageError(f"{message}, with M up to {LONGEST}", "pattern")
        return kept, of

    @property
    def share(self) -> float:
        """The share of the weights that goes."""
        if self.pattern is None:
            return float(self.sparsity or 0)
        kept, of = self._numbers()
        return 1 - kept / of

    def at(self, share: float) -> Sparsity:
        """A share of the same layers' weights, on the way there."""
        return Sparsity(share, keep_layers=self.keep_layers)

    def saved(self) -> dict[str, Any]:
        """What a run keeps of it, as JSON has it; Sparsity(**saved) is the same again."""
        value = {"sparsity": self.sparsity} if self.pattern is None else {"pattern": self.pattern}
        return {**value, "keep_layers": list(self.keep_layers)}

    def check(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Refuse what these weights (O, I, ...) do not allow. Raises MaskError."""
        if not weights:
            raise MaskError("no weight is left that could go; keep fewer layers (keep_layers)")
        if self.pattern is None:
            return
        _, of = self._numbers()
        odd = {n.removesuffix(".weight"): w.shape[1] for n, w in weights.items() if w.shape[1] % of}
        if odd:
            name, inputs = next(iter(odd.items()))
            others = f" (and {len(odd) - 1} more layers do not)" if len(odd) > 1 else ""
            raise MaskError(
                f"pattern {self.pattern} does not divide the {inputs} inputs of {name}{others}; "
                f"leave alone what it does not divide, such as keep_layers={name}",
                "pattern",
            )

    def select(
        self, scores: Mapping[str, torch.Tensor], magnitude: bool = False
    ) -> dict[str, torch.Tensor]:
        """Which weights are kept, bool, where the scores are; equal scores keep the lower index.

        Args:
            scores: of each weight's shape.
            magnitude: whether their absolute values are compared.
        """
        if self.pattern is not None:
            kept, of = self._numbers()
            return {n: _best_of_each(s.detach(), kept, of, magnitude) for n, s in scores.items()}
        total = sum(part.numel() for part in scores.values())
        count = round((1 - self.share) * total)
        masks = ops.global_topk_weights(list(scores.values()), count, magnitude)
        return dict(zip(scores, masks))

    def cut(
        self, scores: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]
    ) -> WeightMasks:
        """The masks that keep the weights of the highest scores.

        Raises:
            MaskError: scores of another network, or that are not finite; see check.
        """
        self.check(weights)
        if {n: s.shape for n, s in scores.items()} != {n: w.shape for n, w in weights.items()}:
            raise MaskError("these scores belong to another network")
        if not all(bool(part.isfinite().all()) for part in scores.values()):
            raise MaskError("weight scores hold NaN or infinite values")
        return WeightMasks(self.select({name: scores[name] for name in weights}))


def _best_of_each(scores: torch.Tensor, kept: int, of: int, magnitude: bool) -> torch.Tensor:
    """The `kept` best of every `of` inputs (axis 1) that follow each other."""
    last = scores.abs() if magnitude else scores
    inputs = last.movedim(1, -1)
    grouped = inputs.reshape(*inputs.shape[:-1], -1, of)
    best = torch.sort(grouped, dim=-1, descending=True, stable=True).indices[..., :kept]
    mask = torch.zeros_like(grouped, dtype=torch.bool).scatter_(-1, best, True)
    return mask.view(inputs.shape).movedim(-1, 1).contiguous()
