"""What the one pass over the test images leaves in a run folder: confusion and samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pass_transfer.errors import StorageError
from pass_transfer.files import read_tensors, write_tensors
from pass_transfer.tasks import Split
from pass_transfer.training import confusion_matrix

EVALUATION = "evaluation.safetensors"
SAMPLES = 12


@dataclass(frozen=True)
class Evaluation:
    """What a network made of the test images.

    Fields:
        confusion: (classes, classes) int64, how many images of class i were taken for class j.
        samples: some of the images, (n, 3, S, S) uint8, without a prompt.
        sample_labels, sample_predictions: (n,) int64, their classes.
    """

    confusion: torch.Tensor
    samples: torch.Tensor
    sample_labels: torch.Tensor
    sample_predictions: torch.Tensor

    @classmethod
    def of(cls, split: Split, predictions: torch.Tensor, classes: int) -> Evaluation:
        """From the class numbers (N,) predicted for a split; -1 where an image was not read.

        The samples lie evenly over it, whatever was predicted.
        """
        read = (predictions >= 0).nonzero().flatten()
        count = min(SAMPLES, len(read))
        evenly = torch.linspace(0, len(read) - 1, count, dtype=torch.float64).round().long()
        samples, whole = split.images.read_whole(split.indices[read[evenly].numpy()])
        places = read[evenly][torch.from_numpy(whole)]
        sample_labels = torch.from_numpy(split.labels)[places]
        return cls(
            confusion_matrix(torch.from_numpy(split.labels)[read], predictions[read], classes),
            samples,
            sample_labels.long(),
            predictions[places],
        )

    def save(self, folder: str | Path) -> None:
        """Write evaluation.safetensors. Raises StorageError."""
        write_tensors(Path(folder) / EVALUATION, vars(self))


def load_evaluation(folder: str | Path, classes: int) -> Evaluation | None:
    """What a run saved for so many classes, or None where it saved nothing.

    Raises StorageError for a file that does not fit.
    """
    path = Path(folder) / EVALUATION
    if not path.is_file():
        return None
    tensors = read_tensors(path)
    count, *side = (
        tensors["samples"].shape[::2]
        if "samples" in tensors and tensors["samples"].ndim == 4
        else (0, 0)
    )
    expected = {
        "confusion": (torch.int64, (classes, classes)),
        "samples": (torch.uint8, (count, 3, *side, *side)),
        "sample_labels": (torch.int64, (count,)),
        "sample_predictions": (torch.int64, (count,)),
    }
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    numbers = [
        number
        for name in ("sample_labels", "sample_predictions")
        for number in tensors.get(name, torch.empty(0)).flatten().tolist()
    ]
    if found != expected or not all(0 <= number < classes for number in numbers):
        raise StorageError(f"{path} does not hold the confusion of {classes} classes with samples")
    return Evaluation(**tensors)
