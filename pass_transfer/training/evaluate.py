"""Top-1 and top-5 accuracy, in percent, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from pass_transfer.tasks import Split
from pass_transfer.training.batches import batches, to_images
from pass_transfer.training.runtime import Runtime

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Accuracy:
    """Accuracies in percent, and the mean loss, over `images` images.

    top5 counts the five likeliest classes, or all where there are fewer. `predictions`
    (N,) are the class numbers that top1 counts, in the split's order; -1 for an image that can
    no longer be read.
    """

    top1: float
    top5: float
    loss: float
    images: int
    predictions: torch.Tensor = field(repr=False, compare=False)


@torch.no_grad()
def evaluate(
    network: Callable[[torch.Tensor], torch.Tensor], split: Split, runtime: Runtime
) -> Accuracy:
    """Accuracy of a network (images in [0, 1] to logits) on a split, without augmentation.

    The caller puts the network in eval mode and on the runtime's device.
    """
    processes = runtime.processes
    order = processes.mine(torch.arange(len(split)).split(EVALUATION_BATCH))
    made = []
    for pixels, labels in batches(split, EVALUATION_BATCH, order=order):
        with runtime.autocast():
            logits = network(to_images(pixels, runtime.device)).float().cpu()
        likeliest = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = likeliest.eq(labels[:, None])
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        sums = torch.stack([hits[:, 0].sum(), hits.sum(), loss]).double()
        made.append((sums, likeliest[:, 0]))
    found = processes.gathered(made)
    whole = split.whole()
    total = torch.zeros(3, dtype=torch.float64)
    for sums, _ in found:
        total += sums
    top1, top5, mean_loss = (total / len(whole)).tolist()
    in_place = torch.full((len(split),), -1)
    in_place[torch.from_numpy(whole)] = torch.cat([predicted for _, predicted in found])
    return Accuracy(100 * top1, 100 * top5, mean_loss, len(whole), in_place)


def confusion_matrix(labels: torch.Tensor, predictions: torch.Tensor, classes: int) -> torch.Tensor:
    """How many images of class i were taken for class j, (classes, classes) int64.

    Labels and predictions are class numbers (N,).
    """
    cells = classes * labels.long() + predictions.long()
    return torch.bincount(cells, minlength=classes * classes).view(classes, classes)
