"""A backbone under channel masks while they are being searched."""

from pass_transfer.masking.forward import masked_forward, room_for
from pass_transfer.masking.hooks import batch_statistics, mask_layers, masked

__all__ = ["batch_statistics", "mask_layers", "masked", "masked_forward", "room_for"]
