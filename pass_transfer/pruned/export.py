"""A small network for other runtimes: ONNX, or torch.export's .pt2.

The file's metadata say what is needed to feed it.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from pass_transfer.arguments import check_path
from pass_transfer.errors import StorageError, UsageError
from pass_transfer.files import PART, make_folder
from pass_transfer.pruned.deployed import DeployedNetwork
from pass_transfer.settings import shown
from pass_transfer.surroundings import as_guest

FORMATS = ("onnx", "pt2")
BATCHES = (1, 4, 32)  # at which a file is compared with the network it was made from
TOLERANCE = 1e-4  # of the largest logit
METADATA = "pass_transfer"


@as_guest
def export_model(
    model: DeployedNetwork, path: str | Path, format: str | None = None
) -> dict[str, Any]:
    """Write a PrunedModel as one file from "images" to "logits".

    Images are RGB in [0, 1], any number of them. The file is run at several batch sizes and
    compared before it gets its name. Its metadata `pass_transfer` is JSON: architecture,
    how images are made ready, class names.

    Args:
        model: left as it is; written in float32, wherever and in whatever dtype it is.
        path: the file; its ending names the format if that is not given.
        format: "onnx" (torch's dynamo exporter, run by onnxruntime) or "pt2" (torch.export).

    Returns:
        "path", "format", "bytes", and "difference", the largest from torch's logits as a
        share of the largest logit.

    Raises:
        UsageError: an unknown format.
        StorageError: it cannot be written, or does not compute what the network computes.
    """
    check_path("path", path)
    path, chosen = Path(path), choose_format(path, format)
    if path.is_dir():
        raise StorageError(f"{path} is a folder; give the name of a file")
    make_folder(path.parent)
    part = path.with_name(f".{path.name}{PART}")
    plain = copy.deepcopy(model).to("cpu", torch.float32).eval()
    plain = plain.to(memory_format=torch.contiguous_format)
    try:
        difference = (_write_onnx if chosen == "onnx" else _write_pt2)(plain, part)
        if not difference <= TOLERANCE:
            raise StorageError(
                f"the exported network differs from torch's by {difference:.1e} of the largest "
                f"logit; nothing is written to {path}"
            )
        os.replace(part, path)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    return {
        "path": str(path),
        "format": chosen,
        "bytes": path.stat().st_size,
        "difference": difference,
    }


def choose_format(path: str | Path, format: str | None = None) -> str:
    """The format of a file to write: the given one, or that of its ending.

    Raises UsageError for an unknown one, StorageError for a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise StorageError(f"{path} is a folder; give the name of a file")
    ending = path.suffix.removeprefix(".").lower()
    chosen = format or ending
    if chosen != ending and chosen in FORMATS and ending in FORMATS:
        raise UsageError(f"{path} ends like {ending}, and format is {chosen}; give one of them")
    if chosen not in FORMATS:
        known = ", ".join(FORMATS)
        if format is None:
            given = f"ends with {path.suffix}" if path.suffix else "has no ending"
            raise UsageError(f"{path} {given}, which names no format; choose one of {known}")
        raise UsageError(f"unknown format {shown(chosen)}; choose one of {known}")
    return chosen


def metadata(model: DeployedNetwork) -> str:
    """What a user of the file needs to know, as JSON."""
    spec = dataclasses.asdict(model.spec)
    return json.dumps(
        {
            "architecture": spec["architecture"],
            "image_size": spec["image_size"],
            "input": "RGB in [0, 1], (batch, 3, image_size, image_size)",
            "fit": spec["fit"],
            "crop_share": spec["crop_share"],
            "interpolation": spec["interpolation"],
            "resize": str(model.spec.preprocessing),
            "normalisation": "inside",
            "class_names": list(model.class_names),
        }
    )


def _images(model: DeployedNetwork, batch: int) -> torch.Tensor:
    size = model.spec.image_size
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))


def _dynamic() -> dict[str, Any]:
    return {"images": {0: torch.export.Dim("batch", min=1)}}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters talk on stdout, which is for results, and warn of what users cannot change."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(_OtherThreads(sys.stdout)):
        warnings.simplefilter("ignore")
        yield


class _OtherThreads:
    """A stream on which this thread's words are lost, and no other's."""

    def __init__(self, stream: Any):
        self.stream, self.silent = stream, threading.get_ident()

    def write(self, text: str) -> int:
        """Say it, if another thread does."""
        heard = threading.get_ident() != self.silent and self.stream is not None
        return self.stream.write(text) if heard else len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _write_onnx(model: DeployedNetwork, path: Path) -> float:
    import onnxruntime

    with _quiet():
        program = torch.onnx.export(
            model,
            (_images(model, 2),),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=_dynamic(),
            external_data=False,
            verbose=False,
        )
        if program is None:
            raise StorageError("torch.onnx gave no network")
        program.model.metadata_props[METADATA] = metadata(model)
        program.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return _difference(
        model,
        lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0]),
    )


def _write_pt2(model: DeployedNetwork, path: Path) -> float:
    with _quiet():
        program = torch.export.export(model, (_images(model, 2),), dynamic_shapes=_dynamic())
        with open(path, "wb") as file:
            torch.export.save(program, file, extra_files={METADATA: metadata(model)})
        with open(path, "rb") as file:
            loaded = torch.export.load(file).module()
    return _difference(model, loaded)


@torch.no_grad()
def _difference(model: DeployedNetwork, exported: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Largest difference from the network's own logits, as a share of the largest."""
    shares = []
    for batch in BATCHES:
        images = _images(model, batch)
        expected = model(images)
        shares.append((exported(images) - expected).abs().max() / expected.abs().max())
    return torch.stack(shares).max().item()  # NaN, if one is
