"""PrunedModel: the small network that adapt hands over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pass_transfer.errors import TaskError, UsageError
from pass_transfer.networks import BackboneSpec
from pass_transfer.networks.network import Network

if TYPE_CHECKING:
    from pass_transfer.training import Accuracy


class PrunedModel(nn.Module):
    """A plain, physically smaller network with everything around it.

    Images go in as RGB in [0, 1] at `spec.image_size`; prompt, clamping, normalisation
    and the classifier with one row per class are inside.

    Args:
        network: the small network.
        spec: architecture, classes, size and preprocessing.
        class_names: in the order of the logits.
        kept: indices of the units kept in each channel group.
    """

    def __init__(
        self,
        network: Network,
        spec: BackboneSpec,
        class_names: Sequence[str],
        kept: Mapping[str, Sequence[int]],
    ):
        super().__init__()
        self.network = network
        self.spec, self.class_names = spec, tuple(class_names)
        self.kept = {name: list(units) for name, units in kept.items()}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) for images (B, 3, S, S) in [0, 1]. Raises UsageError for another shape."""
        size = self.spec.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise UsageError(
                f"images are {tuple(images.shape)}; this model takes (batch, 3, {size}, {size}) in [0, 1], and predict() takes image files of any size"
            )
        return self.network(images)

    @torch.no_grad()
    def predict(
        self, paths: Sequence[str | Path], top: int = 1, batch_size: int = 32
    ) -> list[list[tuple[str, float]]]:
        """The `top` likeliest classes of image files, each with its probability, likeliest first.

        Images are resized as in training, on the device and in the dtype the model is in.

        Raises:
            TaskError: a file that is missing or no image; it is named.
            UsageError: a `top` that is not between 1 and the number of classes, no list of paths, or no batch_size.
        """
        import numpy as np

        from pass_transfer.tasks.images import decode, to_batch

        if not 1 <= top <= len(self.class_names):
            raise UsageError(f"top is {top}; the model knows {len(self.class_names)} classes")
        if isinstance(paths, (str, Path)) or batch_size < 1:
            raise UsageError("predict takes a list of paths and a batch_size of at least 1")
        found, weight = [], next(self.network.parameters())
        for first in range(0, len(paths), batch_size):
            pixels = []
            for path in paths[first : first + batch_size]:
                try:
                    pixels.append(decode(str(path), self.spec.image_size))
                except TaskError as error:
                    raise TaskError(f"{path} cannot be read as an image: {error}") from error
            images = to_batch(np.stack(pixels)).to(weight.device, weight.dtype) / 255
            best = self(images).float().softmax(1).topk(top)
            found += [
                [(self.class_names[c], p) for c, p in zip(*row)]
                for row in zip(best.indices.tolist(), best.values.tolist())
            ]
        return found

    def export(self, path: str | Path, format: str | None = None) -> dict[str, Any]:
        """Write it for other runtimes, as ONNX or .pt2; see export_model."""
        from pass_transfer.pruned.export import export_model

        return export_model(self, path, format)

    def evaluate(
        self, task: str, data_dir: str | None = None, device: str = "auto", precision: str = "auto"
    ) -> Accuracy:
        """Top-1 and top-5, in percent, on a task's test images; the model moves to the device and stays there.

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
                f"{task} has {data.classes} classes ({data.class_names[0]}, ...), the model was made for "
                f"{len(self.class_names)} ({self.class_names[0]}, ...); evaluate it on the task it was made for"
            )
        return evaluate(runtime.place(self.eval()).network, data.test, runtime)

    def save(self, folder: str | Path) -> None:
        """Write model.json and model.safetensors; see save_pruned."""
        from pass_transfer.pruned.folder import save_pruned

        save_pruned(self, folder)
