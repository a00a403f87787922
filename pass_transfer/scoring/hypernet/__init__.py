"""The hypernetwork: prompt encoder, recurrence over a backbone's layers, heads."""

from pass_transfer.scoring.hypernet.config import HypernetConfig
from pass_transfer.scoring.hypernet.fitting import fitting_shape
from pass_transfer.scoring.hypernet.model import Hypernet

__all__ = ["Hypernet", "HypernetConfig", "fitting_shape"]
