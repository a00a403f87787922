"""The small network that adapt hands over: saved, loaded without training code, exported."""

from pass_transfer.pruned.export import FORMATS, export_model
from pass_transfer.pruned.folder import load_pruned, save_pruned
from pass_transfer.pruned.model import PrunedModel

__all__ = ["FORMATS", "PrunedModel", "export_model", "load_pruned", "save_pruned"]
