"""A small network to the Hugging Face hub: its two files, and a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pass_transfer.hub import HUB_PREFIX, check_repository
from pass_transfer.hub.card import ACCURACY, ModelFacts, with_metadata
from pass_transfer.hub.upload import upload
from pass_transfer.pruned.deployed import DeployedNetwork
from pass_transfer.pruned.folder import DESCRIPTION, WEIGHTS
from pass_transfer.tasks.public_name import public_name

CARD = "README.md"
SIZES = {"macs": "MACs", "parameters": "Parameters"}
TEXT = """# {name}

{architecture} for images of {size} pixels and {classes} classes, made smaller with pass-transfer:
{channels:,} of its channels are left.

{figures}```python
import pass_transfer as pt

model = pt.load_pruned("{where}")
model.predict(["photo.jpg"], top=3)
```

Preprocessing and class names are inside. What is loaded is JSON and safetensors: no pickle.
"""


def push_folder(
    folder: Path,
    model: DeployedNetwork,
    repository: str,
    *,
    private: bool = False,
    license: str | None = None,
    result: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Push the two files of a model that lies in a folder; see PrunedModel.push_to_hub."""
    repository = check_repository(repository)
    card = _card(model, repository, license, result)
    files: dict[str, Path | bytes] = {name: folder / name for name in (DESCRIPTION, WEIGHTS)}
    return upload(repository, files | {CARD: card.encode()}, private=private)


def _card(
    model: DeployedNetwork,
    repository: str,
    license: str | None,
    result: Mapping[str, Any] | None,
) -> str:
    spec, name = model.spec, repository.split("/")[1]
    task, dataset, accuracy, sizes = "not measured", None, {}, {}
    if result is not None:
        task, dataset = public_name(result["task"])
        accuracy = {title: result[key] for key, title in ACCURACY.items()}
        sizes = {title: result[key] for key, title in SIZES.items()}
    text = TEXT.format(
        name=name,
        architecture=spec.architecture,
        size=spec.image_size,
        classes=spec.classes,
        channels=sum(map(len, model.kept.values())),
        figures="" if result is None else _figures(task, result),
        where=f"{HUB_PREFIX}{repository}",
    )
    facts = ModelFacts(name, spec.architecture, license, task, dataset, accuracy, sizes)
    return with_metadata(text, facts)


def _figures(task: str, result: Mapping[str, Any]) -> str:
    """A table of what a run measured."""
    rows = [
        (
            f"top-1 / top-5 on {result['images']:,} test images of {task}",
            f"{result['top1']:.2f} % / {result['top5']:.2f} %",
        ),
        ("MACs, of the dense network's", f"{result['macs']:,} of {result['dense_macs']:,}"),
        (
            "parameters, of the dense network's",
            f"{result['parameters']:,} of {result['dense_parameters']:,}",
        ),
        ("method", result["method"]),
    ]
    lines = [f"| {what} | {value} |" for what, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines, "", ""])
