"""Top-1 and top-5 accuracy, in percent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import torch

from pass_transfer.tasks import Split
from pass_transfer.training.batches import batches, to_images
from pass_transfer.training.runtime import Runtime

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Accuracy:
    """Percentages over `images` images. top5 counts the five best (fewer where there are fewer classes)."""

    top1: float
    top5: float
    loss: float
    images: int


@torch.no_grad()
def evaluate(network: Callable[[torch.Tensor], torch.Tensor], split: Split, runtime: Runtime) -> Accuracy:
    """Accuracy of a network (images in [0, 1] to logits) on a split, without augmentation.

    The caller puts the network in eval mode and on the runtime's device.
    """
    hits = torch.zeros(3, dtype=torch.float64)
    for pixels, labels in batches(split, EVALUATION_BATCH):
        with runtime.autocast():
            logits = network(to_images(pixels, runtime.device)).float().cpu()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices.eq(labels[:, None])
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        hits += torch.stack([best[:, 0].sum(), best.sum(), loss]).double()
    top1, top5, loss = (hits / len(split)).tolist()
    return Accuracy(100 * top1, 100 * top5, loss, len(split))
