"""A backbone under channel masks while they are being searched."""

from pass_transfer.masking.forward import capacity_for, masked_forward
from pass_transfer.masking.hooks import batch_statistics, mask_layers, masked

__all__ = ["batch_statistics", "mask_layers", "masked", "masked_forward", "capacity_for"]
