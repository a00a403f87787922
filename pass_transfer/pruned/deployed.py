"""The small network with its preprocessing: what is saved and exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from pass_transfer.arguments import check_is
from pass_transfer.errors import UsageError
from pass_transfer.networks import BackboneSpec
from pass_transfer.networks.network import Network
from pass_transfer.weight_masks import WeightMasks


class DeployedNetwork(nn.Module):
    """A plain, physically smaller network with everything around it, from images to logits.

    Images go in as RGB at `spec.image_size`, in [0, 1] or as uint8; prompt, clamping, normalisation
    and the classifier with one row per class are inside.

    Args:
        network: the small network.
        spec: architecture, classes, size and preprocessing.
        class_names: in the order of the logits.
        kept: indices of the units kept in each channel group.
        masks: of single weights, where some are zeros; by their names in the backbone. They can
            be held in further training (WeightMasks.hold).

    Raises MaskError where a weight that went is not zero.
    """

    def __init__(
        self,
        network: Network,
        spec: BackboneSpec,
        class_names: Sequence[str],
        kept: Mapping[str, Sequence[int]],
        masks: WeightMasks | None = None,
    ):
        super().__init__()
        self.network = network
        self.spec, self.class_names = spec, tuple(class_names)
        self.masks = masks
        if masks is not None:
            masks.check_zeros(network.backbone)
        self.kept = {name: list(units) for name, units in kept.items()}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) for images (B, 3, S, S) in [0, 1], or uint8 ones in 0 to 255.

        Raises:
            UsageError: no images, or of another shape or device, or of other whole numbers.
        """
        size = self.spec.image_size
        if not torch.compiler.is_compiling():
            _check_images(images, self.network.mean)
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


def _check_images(images: torch.Tensor, own: torch.Tensor) -> None:
    """Refuse what is no tensor, or cannot meet one of the model's own. Raises UsageError."""
    check_is("images", images, torch.Tensor, "a tensor (batch, 3, S, S) in [0, 1]")
    if images.device != own.device:
        raise UsageError(
            f"images are on {images.device}, the model is on {own.device}; "
            "move one of them with to(device)"
        )
    kind = images.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    if not autocast and torch.promote_types(images.dtype, own.dtype) != own.dtype:
        raise UsageError(
            f"images are {images.dtype}, the model computes in {own.dtype}; "
            "convert one of them with to(dtype)"
        )
