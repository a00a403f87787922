"""The hypernetwork: prompt encoder, recurrence over a backbone's layers, heads."""

from pass_transfer.hypernet.config import HypernetConfig
from pass_transfer.hypernet.model import Hypernet
from pass_transfer.hypernet.prior import blend, make_prior, standardise

__all__ = ["Hypernet", "HypernetConfig", "blend", "make_prior", "standardise"]
