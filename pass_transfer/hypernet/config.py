"""The shape of a hypernetwork."""

from __future__ import annotations

from dataclasses import dataclass

from pass_transfer.errors import UsageError

PRIORS = ("l1", "none")


@dataclass(frozen=True)
class HypernetConfig:
    """What decides the shape and the scale of a hypernetwork's scores.

    Fields:
        hidden: width of the prompt's embedding and of the LSTM (arXiv 2407.17412 gives
            0.31 M parameters for ResNet-18, which is 64).
        pooled: length to which each layer's averaged weights are pooled.
        encoder: channels of the first two layers of the prompt encoder.
        prior: "l1" starts from the magnitude ranking inside each group, which the
            hypernetwork corrects; "none" starts from nothing.
        importance: share of a task's own Taylor importance in the scores that the
            hypernetwork is taught and a prompt is matched to; the rest is the prior's.
        correction: bound of a channel's correction before the group's mean is taken out
            of it, in standard deviations of the prior. Unbounded scores lose the prior
            within a few steps.
        drift: largest shift of a whole group's scores against the others, in the same
            unit. It moves width between layers, which costs accuracy after fine-tuning
            when the search is free to do it.
        iterations: passes of the recurrence; each feeds the average mask so far.
        reference_density: share of all channels kept in the masks that are fed.
    """

    hidden: int = 64
    pooled: int = 64
    encoder: tuple[int, int] = (8, 16)
    prior: str = "l1"
    importance: float = 0.5
    correction: float = 2.0
    drift: float = 0.3
    iterations: int = 2
    reference_density: float = 0.7

    def __post_init__(self) -> None:
        if self.prior not in PRIORS:
            raise UsageError(f"unknown prior {self.prior!r}; choose one of {', '.join(PRIORS)}")
        if min(self.hidden, self.pooled, self.iterations, *self.encoder) < 1:
            raise UsageError("hidden, pooled, encoder and iterations are at least 1")
        if not 0 < self.reference_density <= 1:
            raise UsageError(f"reference_density is {self.reference_density}; it is above 0 and at most 1")
        if not 0 <= self.importance <= 1:
            raise UsageError(f"importance is {self.importance}; it is a share, between 0 and 1")
        object.__setattr__(self, "encoder", tuple(self.encoder))
