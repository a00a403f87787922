"""Knowledge distillation: a network learns what a larger one says of an image, beside its label.

Hinton et al., arXiv 1503.02531: the cross-entropy, and the divergence of the two networks'
predictions softened by a temperature, times its square so that both gradients stay of one size.
Zhao et al., arXiv 2203.08679, equation 7, take that divergence apart: how likely the label is, and
what is said of the other classes, which counts little where the teacher is sure of the label.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pass_transfer.networks.network import Network
from pass_transfer.training import Runtime

TEMPERATURE = 4.0


def softened_divergence(
    teacher: torch.Tensor, student: torch.Tensor, temperature: float
) -> torch.Tensor:
    """T^2 * KL(teacher || student) of logits (B, classes) divided by T, mean over the batch."""
    expected, predicted = (
        nn.functional.log_softmax(logits.float() / temperature, dim=1)
        for logits in (teacher, student)
    )
    return temperature**2 * nn.functional.kl_div(
        predicted, expected, reduction="batchmean", log_target=True
    )


def decoupled_divergence(
    teacher: torch.Tensor,
    student: torch.Tensor,
    labels: torch.Tensor,
    temperature: float,
    others: float,
) -> torch.Tensor:
    """T^2 * (KL of the label against the rest + others * KL among the other classes).

    Args:
        teacher, student: logits (B, classes).
        labels: (B,).
        others: a number in place of how unlikely the teacher finds the label, which it would be
            in softened_divergence.
    """
    own = nn.functional.one_hot(labels, teacher.shape[1]).bool()
    of_label, of_others = [], []
    for logits in (teacher, student):
        softened = logits.float() / temperature
        rest = softened.masked_fill(own, -torch.inf)
        both = torch.stack([softened[own], rest.logsumexp(1)], 1)
        of_label.append(both.log_softmax(1))
        of_others.append(rest[~own].view(len(rest), -1).log_softmax(1))

    def divergence(of: list[torch.Tensor]) -> torch.Tensor:
        return nn.functional.kl_div(of[1], of[0], reduction="batchmean", log_target=True)

    return temperature**2 * (divergence(of_label) + others * divergence(of_others))


@dataclass(frozen=True)
class Teacher:
    """A trained network whose predictions are learned, too.

    Fields:
        network: on the runtime's device, frozen, in eval mode.
        weight: share of the divergence in the loss, above 0 and at most 1; the labels' loss has
            the rest.
        temperature: what logits are divided by.
        others: weight of what is said of the other classes, where it is taught apart; 0 for the
            divergence as a whole.
    """

    network: Network
    weight: float
    temperature: float = TEMPERATURE
    others: float = 0.0

    @classmethod
    def of(
        cls,
        network: Network,
        weight: float,
        temperature: float,
        runtime: Runtime,
        others: float = 0.0,
    ) -> Teacher:
        """A network made a teacher: placed, frozen, in eval mode."""
        placed = runtime.place(network).requires_grad_(False).eval()
        return cls(placed, weight, temperature, others)

    def loss(
        self,
        images: torch.Tensor,
        logits: torch.Tensor,
        labels: torch.Tensor,
        labelled: torch.Tensor,
        runtime: Runtime,
    ) -> torch.Tensor:
        """The student's loss.

        Args:
            images: (B, 3, S, S) in [0, 1], as the student saw them.
            logits: the student's, (B, classes) float32.
            labels: (B,).
            labelled: its loss by the labels.
        """
        with torch.no_grad(), runtime.autocast():
            said = self.network(images)
        if self.others:
            taught = decoupled_divergence(said, logits, labels, self.temperature, self.others)
        else:
            taught = softened_divergence(said, logits, self.temperature)
        return (1 - self.weight) * labelled + self.weight * taught
