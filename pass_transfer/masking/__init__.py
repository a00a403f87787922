"""A backbone under channel masks while they are being searched."""

from pass_transfer.masking.forward import masked_forward
from pass_transfer.masking.hooks import batch_statistics, mask_layers, masked
from pass_transfer.masking.orders import capacity_for

__all__ = ["batch_statistics", "mask_layers", "masked", "masked_forward", "capacity_for"]
