"""A backbone under channel masks while they are being searched."""

from pass_transfer.masking.forward import masked_forward
from pass_transfer.masking.hooks import batch_statistics, mask_layers, masked
from pass_transfer.masking.orders import capacity_for
from pass_transfer.masking.plan import why_unplanned

__all__ = [
    "batch_statistics",
    "capacity_for",
    "mask_layers",
    "masked",
    "masked_forward",
    "why_unplanned",
]
