"""The one training loop and what it needs: device, batches, checkpoints, metrics."""

from pass_transfer.training.batches import batches, to_images
from pass_transfer.training.evaluate import Accuracy, confusion_matrix, evaluate
from pass_transfer.training.loop import run_stage
from pass_transfer.training.run_folder import RunFolder
from pass_transfer.training.runtime import Runtime, choose_runtime
from pass_transfer.training.schedule import LoopConfig
from pass_transfer.training.stage import Stage

__all__ = [
    "Accuracy",
    "LoopConfig",
    "RunFolder",
    "Runtime",
    "Stage",
    "batches",
    "choose_runtime",
    "confusion_matrix",
    "evaluate",
    "run_stage",
    "to_images",
]
