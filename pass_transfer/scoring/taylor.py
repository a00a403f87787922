"""First-order Taylor importance: how much the loss changes when a channel is switched off.

The gradient of each sample's loss to a gate on each channel, where its readers take it
in, squared and averaged over samples (Molchanov et al., arXiv 1906.10771, equation 8,
with gates in place of weights).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from pass_transfer.errors import BackboneError
from pass_transfer.masking import batch_statistics, masked
from pass_transfer.networks import ChannelGroups
from pass_transfer.scoring.judge import Loss, summed_loss
from pass_transfer.training.processes import ALONE, Processes


def taylor(
    backbone: nn.Module,
    groups: ChannelGroups,
    samples: Iterable[tuple[torch.Tensor, torch.Tensor]],
    forward: Callable[[torch.Tensor], torch.Tensor],
    loss: Loss = summed_loss,
    processes: Processes = ALONE,
) -> dict[str, torch.Tensor]:
    """Scores (width,) of every group: mean squared gate gradient over samples.

    Args:
        backbone: the network `forward` runs; its parameters need no gradient.
        samples: batches of images (B, 3, S, S) in [0, 1] and labels (B,), on the backbone's device.
        forward: images to logits (B, classes), through the backbone.
        loss: logits and labels to the loss, summed over the batch.
        processes: whose samples are added up.

    Raises:
        BackboneError: logits that do not depend on any group.
    """
    total, count = torch.zeros(groups.total, dtype=torch.float64), 0
    for images, labels in samples:
        gates = torch.ones(len(images), groups.total, device=images.device, requires_grad=True)
        parts = dict(zip(groups, gates.split([g.width for g in groups.values()], dim=1)))
        with batch_statistics(backbone), masked(backbone, groups, parts):
            logits = forward(images).float()
        loss(logits, labels).backward()
        if gates.grad is None:
            raise BackboneError("the logits do not depend on any channel group")
        total += gates.grad.double().square().sum(0).cpu()
        count += len(images)
    processes.add_up([total])
    return groups.split(total / sum(processes.gathered([count])))
