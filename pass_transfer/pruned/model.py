"""PrunedModel: the small network that adapt hands over, saved as safetensors and JSON."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from pass_transfer import __version__
from pass_transfer.backbones import BackboneSpec, build_backbone
from pass_transfer.errors import RunError, StorageError, TaskError, UsageError
from pass_transfer.files import make_folder, read_json, read_tensors, sha256, write_json, write_tensors
from pass_transfer.network import Network
from pass_transfer.prompts import Prompt
from pass_transfer.surgery import resize_like

FORMAT = 1
DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"


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

    def __init__(self, network: Network, spec: BackboneSpec, class_names: Sequence[str], kept: Mapping[str, Sequence[int]]):
        super().__init__()
        self.network = network
        self.spec, self.class_names = spec, tuple(class_names)
        self.kept = {name: list(units) for name, units in kept.items()}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) for images (B, 3, S, S) in [0, 1]."""
        return self.network(images)

    @torch.no_grad()
    def predict(self, paths: Sequence[str | Path], top: int = 1, batch_size: int = 32) -> list[list[tuple[str, float]]]:
        """The `top` likeliest classes of image files, each with its probability, likeliest first.

        Images are resized as in training, on the device and in the dtype the model is in.

        Raises:
            TaskError: a file that is missing or no image; it is named.
            UsageError: a `top` that is not between 1 and the number of classes.
        """
        from pass_transfer.tasks.images import decode, to_batch

        if not 1 <= top <= len(self.class_names):
            raise UsageError(f"top is {top}; the model knows {len(self.class_names)} classes")
        found, weight = [], next(self.network.parameters())
        for first in range(0, len(paths), batch_size):
            pixels = []
            for path in paths[first:first + batch_size]:
                try:
                    pixels.append(decode(str(path), self.spec.image_size))
                except TaskError as error:
                    raise TaskError(f"{path} cannot be read as an image: {error}") from error
            images = to_batch(np.stack(pixels)).to(weight.device, weight.dtype) / 255
            best = self(images).float().softmax(1).topk(top)
            found += [[(self.class_names[c], p) for c, p in zip(*row)] for row in zip(best.indices.tolist(), best.values.tolist())]
        return found

    def export(self, path: str | Path, format: str | None = None) -> dict[str, Any]:
        """Write it for other runtimes, as ONNX or .pt2; see export_model."""
        from pass_transfer.pruned.export import export_model

        return export_model(self, path, format)

    def save(self, folder: str | Path) -> None:
        """Write model.json and model.safetensors. Raises StorageError; a reader never sees half a file."""
        folder = make_folder(folder)
        write_tensors(folder / WEIGHTS, self.network.state_dict())
        prompt = self.network.prompt
        write_json(folder / DESCRIPTION, {
            "format": FORMAT, "library": __version__,
            "backbone": dataclasses.asdict(self.spec), "class_names": list(self.class_names),
            "prompt": None if prompt is None else {"kind": prompt.kind, "size": prompt.size, "pad": prompt.pad},
            "kept": self.kept, "sha256": {WEIGHTS: sha256(folder / WEIGHTS)},
        })


def load_pruned(folder: str | Path) -> PrunedModel:
    """Load the model of a run, in eval mode, on the CPU, in float32.

    Args:
        folder: a run folder of adapt, or what PrunedModel.save wrote.

    Raises:
        RunError: no model there.
        StorageError: a file that is damaged, altered, or does not fit its description.
    """
    folder = Path(folder)
    if not (folder / DESCRIPTION).is_file():
        raise RunError(f"{folder} holds no {DESCRIPTION}: it is not a finished run. Continue it with pass-transfer adapt --resume.")
    note = read_json(folder / DESCRIPTION)
    try:
        return _rebuild(folder, note)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise StorageError(f"{folder / DESCRIPTION} does not describe {WEIGHTS}: {error}") from error


def _rebuild(folder: Path, note: dict[str, Any]) -> PrunedModel:
    if note["format"] != FORMAT:
        raise StorageError(f"{folder / DESCRIPTION} has format {note['format']}; this version reads {FORMAT}. Upgrade pass-transfer.")
    if not (folder / WEIGHTS).is_file() or sha256(folder / WEIGHTS) != note["sha256"][WEIGHTS]:
        raise StorageError(f"{folder / WEIGHTS} is missing or not the file that was saved (its sha-256 differs)")
    spec = BackboneSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in note["backbone"].items()})
    names = note["class_names"]
    if not isinstance(names, list) or len(names) != spec.classes or not all(isinstance(n, str) for n in names):
        raise StorageError(f"{folder / DESCRIPTION} does not name the {spec.classes} classes of its network")
    tensors = read_tensors(folder / WEIGHTS)
    backbone = build_backbone(spec)
    resize_like(backbone, {n.removeprefix("backbone."): t.shape for n, t in tensors.items() if n.startswith("backbone.")})
    prompt = Prompt(**note["prompt"]) if note["prompt"] else None
    network = Network(backbone, spec.mean, spec.std, prompt)
    network.load_state_dict(tensors, strict=True)
    return PrunedModel(network, spec, names, note["kept"]).eval()
