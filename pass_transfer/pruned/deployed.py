"""The small network with its preprocessing: what is saved and exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from pass_transfer.errors import UsageError
from pass_transfer.networks import BackboneSpec
from pass_transfer.networks.network import Network


class DeployedNetwork(nn.Module):
    """A plain, physically smaller network with everything around it, from images to logits.

    Images go in as RGB at `spec.image_size`, in [0, 1] or as uint8; prompt, clamping, normalisation
    and the classifier with one row per class are inside.

    Args:
        network: the small network.
        spec: architecture, classes, size and preprocessing.
        class_names: in the order of the logits.
        kept: indices of the units kept in each channel group.
    """

    def __init__(
        self,
        network: Network,
        spec: BackboneSpec,
        class_names: Sequence[str],
        kept: Mapping[str, Sequence[int]],
    ):
        super().__init__()
        self.network = network
        self.spec, self.class_names = spec, tuple(class_names)
        self.kept = {name: list(units) for name, units in kept.items()}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) for images (B, 3, S, S) in [0, 1], or uint8 ones in 0 to 255.

        Raises:
            UsageError: images of another shape, or of other whole numbers.
        """
        size = self.spec.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise UsageError(
                f"images are {tuple(images.shape)}; this model takes (batch, 3, {size}, {size}) "
                "in [0, 1], and predict() takes image files of any size"
            )
        if images.dtype == torch.uint8:
            images = images.to(next(self.network.parameters()).dtype) / 255
        elif not images.is_floating_point():
            raise UsageError(
                f"images are {images.dtype}, whose range is not known; this model takes floating "
                "point in [0, 1], or torch.uint8 in 0 to 255"
            )
        return self.network(images)
