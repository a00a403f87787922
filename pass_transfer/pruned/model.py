"""PrunedModel: the small network that adapt hands over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pass_transfer.errors import TaskError, UsageError
from pass_transfer.pruned.deployed import DeployedNetwork
from pass_transfer.pruned.export import export_model
from pass_transfer.pruned.folder import read_folder, write_folder

if TYPE_CHECKING:
    from pass_transfer.training import Accuracy


class PrunedModel(DeployedNetwork):
    """A plain, physically smaller network with everything around it; see DeployedNetwork.

    Images go in as RGB at `spec.image_size`, in [0, 1] or as uint8; prompt, clamping, normalisation
    and the classifier with one row per class are inside.

    Args:
        network: the small network.
        spec: architecture, classes, size and preprocessing.
        class_names: in the order of the logits.
        kept: indices of the units kept in each channel group.
    """

    @torch.no_grad()
    def predict(
        self, paths: Sequence[str | Path], top: int = 1, batch_size: int = 32
    ) -> list[list[tuple[str, float]]]:
        """The `top` likeliest classes of image files, each with its probability, likeliest first.

        Images are resized as in training, on the device and in the dtype the model is in.

        Raises:
            TaskError: a file that is missing or no image; it is named.
            UsageError: a `top` that is not between 1 and the number of classes, no list of
                paths, or no batch_size.
        """
        import numpy as np

        from pass_transfer.tasks.images import to_batch

        if not 1 <= top <= len(self.class_names):
            raise UsageError(f"top is {top}; the model knows {len(self.class_names)} classes")
        if isinstance(paths, (str, Path)) or batch_size < 1:
            raise UsageError("predict takes a list of paths and a batch_size of at least 1")
        weight = next(self.network.parameters())
        found = []
        for first in range(0, len(paths), batch_size):
            pixels = [self._decode(path) for path in paths[first : first + batch_size]]
            images = to_batch(np.stack(pixels)).to(weight.device, weight.dtype) / 255
            best = self(images).float().softmax(1).topk(top)
            for classes, shares in zip(best.indices.tolist(), best.values.tolist()):
                names = [self.class_names[number] for number in classes]
                found.append(list(zip(names, shares)))
        return found

    def _decode(self, path: str | Path) -> Any:
        """An image file's pixels at the model's size. Raises TaskError with the file's name."""
        from pass_transfer.tasks.images import decode

        try:
            return decode(str(path), self.spec.image_size)
        except TaskError as error:
            raise TaskError(f"{path} cannot be read as an image: {error}") from error

    def export(self, path: str | Path, format: str | None = None) -> dict[str, Any]:
        """Write it for other runtimes, as ONNX or .pt2; see export_model."""
        return export_model(self, path, format)

    def evaluate(
        self, task: str, data_dir: str | None = None, device: str = "auto", precision: str = "auto"
    ) -> Accuracy:
        """Top-1 and top-5, in percent, on a task's test images.

        The model moves to the device and stays there.

        Raises:
            TaskError: a task that cannot be loaded, or whose classes are not the model's.
            UsageError: an unknown device or precision.
        """
        from pass_transfer.tasks import load_task
        from pass_transfer.training import choose_runtime, evaluate

        runtime = choose_runtime(device, precision)
        data = load_task(task, self.spec.image_size, data_dir)
        if data.class_names != self.class_names:
            raise TaskError(
                f"{task} has {data.classes} classes ({data.class_names[0]}, ...), the model was "
                f"made for {len(self.class_names)} ({self.class_names[0]}, ...); "
                "evaluate it on the task it was made for"
            )
        runtime.place(self.eval())
        return evaluate(self.network, data.test, runtime)

    def save(self, folder: str | Path) -> None:
        """Write model.json and model.safetensors.

        Raises:
            StorageError: it cannot be written. A reader never sees half a file.
        """
        write_folder(folder, self)


def load_pruned(folder: str | Path) -> PrunedModel:
    """Load the model of a run, in eval mode, on the CPU, in float32.

    Args:
        folder: a run folder of adapt, what PrunedModel.save wrote, or hf-hub:owner/name
            with these two files.

    Raises:
        RunError: no model there, or not to be had from the hub.
        StorageError: a file that is damaged, altered, does not fit its description, or
            does not belong to it.
    """
    saved = read_folder(folder)
    return PrunedModel(saved.network, saved.spec, saved.class_names, saved.kept).eval()
