"""From source classes to a task's classes, keeping the source classifier.

Frequency-based mapping (VPNs, arXiv 2312.01397) counts which source class the network
predicts for each target class, and pairs them greedily, one to one. Iterative mapping
(arXiv 2211.11635) does so again whenever the prompt has changed what is predicted. A mapped
classifier is the source classifier with the chosen rows only.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from pass_transfer.errors import UsageError
from pass_transfer.networks import kind_of
from pass_transfer.settings import check_choice

KINDS = ("auto", "linear", "frequency", "iterative")


def choose_mapping(kind: str, classes: int, source_classes: int, own: bool = False) -> str:
    """The mapping to use: "linear" (a new head), "frequency" or "iterative".

    "auto" is a new head: from Tiny-ImageNet's classes at 64 pixels a mapping starts at
    13-16 % on CIFAR-100, a linear probe at 49 %. One's own classifier (`own`) with as many
    classes as the task is taken for a classifier of the task, in whatever order. It is mapped
    by frequency.

    Raises:
        UsageError: an unknown kind, or one-to-one mapping to more classes than the source has.
    """
    check_choice("label_mapping", kind, KINDS)
    if kind in ("frequency", "iterative") and classes > source_classes:
        raise UsageError(
            f"a {kind} mapping needs as many source classes as the task has; "
            f"the source has {source_classes}, the task {classes}. Use label_mapping 'linear'."
        )
    if kind == "auto":
        return "frequency" if own and classes == source_classes else "linear"
    return kind


def count_predictions(logits: torch.Tensor, labels: torch.Tensor, classes: int) -> torch.Tensor:
    """How often each source class is predicted for each target class.

    Args:
        logits: (images, source classes).
        labels: target classes (images,).
        classes: how many target classes there are.

    Returns:
        Counts (classes, source classes), int64.
    """
    counts = torch.zeros(classes, logits.shape[1], dtype=torch.int64)
    one = torch.ones(1, dtype=torch.int64)
    return counts.index_put_((labels, logits.argmax(1)), one, accumulate=True)


def frequency_mapping(counts: torch.Tensor) -> torch.Tensor:
    """The source class of each target class, (classes,) int64, all different.

    The largest count is paired first; ties go to the lower target, then the lower source class.
    """
    classes, sources = counts.shape
    if classes > sources:
        raise UsageError(f"cannot map {classes} classes one to one onto {sources}")
    chosen = torch.full((classes,), -1)
    taken = torch.zeros(sources, dtype=torch.bool)
    largest_first = torch.sort(counts.flatten(), descending=True, stable=True).indices
    for cell in largest_first.tolist():
        target, source = divmod(cell, sources)
        if chosen[target] < 0 and not taken[source]:
            chosen[target], taken[source] = source, True
            if (chosen >= 0).all():
                break
    return chosen


def mapped_classifier(classifier: nn.Module, mapping: torch.Tensor) -> nn.Module:
    """The source classifier's rows that classes map to, in the task's order."""
    head = copy.deepcopy(classifier)
    kind_of(head).keep_outputs(head, mapping)
    return head.requires_grad_(True)
