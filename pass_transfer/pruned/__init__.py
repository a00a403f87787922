"""The small network that adapt hands over: saved, loaded without training code, exported."""

from pass_transfer.pruned.export import FORMATS, choose_format, export_model
from pass_transfer.pruned.model import PrunedModel, load_pruned

__all__ = ["FORMATS", "PrunedModel", "choose_format", "export_model", "load_pruned"]
