"""What a finished run of adapt has left in its folder, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pass_transfer.errors import RunError, StorageError
from pass_transfer.files import read_object, read_tensors, sha256
from pass_transfer.pruned import PrunedModel, load_pruned
from pass_transfer.pruned.folder import DESCRIPTION, WEIGHTS
from pass_transfer.runs.dense import DENSE
from pass_transfer.runs.evaluation import EVALUATION, Evaluation, load_evaluation
from pass_transfer.runs.files import (
    MASKS,
    OLD_PRIOR,
    PROMPT,
    RESULT,
    SCORES,
    read_config,
    read_result,
)
from pass_transfer.tasks.record import DATA
from pass_transfer.training import to_images
from pass_transfer.training.run_folder import CONFIG, METRICS, read_metrics

FILES = (
    CONFIG,
    METRICS,
    RESULT,
    DESCRIPTION,
    WEIGHTS,
    SCORES,
    OLD_PRIOR,
    PROMPT,
    MASKS,
    EVALUATION,
    DATA,
    f"{DENSE}/{DESCRIPTION}",
    f"{DENSE}/{WEIGHTS}",
)


@dataclass(frozen=True)
class RunRecord:
    """A run's files.

    Fields:
        config, result: the content of config.json and result.json.
        metrics: the rows of metrics.jsonl.
        model: the small network.
        prompt: the frame (3, S, S) that gave the masks, if the method has one.
        evaluation: None for a run that saved none.
        hashes: sha-256 by file name.
    """

    folder: Path
    config: dict[str, Any]
    result: dict[str, Any]
    metrics: list[dict[str, Any]]
    model: PrunedModel
    prompt: torch.Tensor | None
    evaluation: Evaluation | None
    hashes: dict[str, str]

    def rows(self, stage: str) -> list[dict[str, Any]]:
        """The metrics of one stage: "prompt", "finetune" or "dense"."""
        return [row for row in self.metrics if row["stage"] == stage]

    @torch.no_grad()
    def samples(self) -> torch.Tensor:
        """The saved samples (n, 3, S, S) in [0, 1], as the small network's backbone sees them.

        They are under the deployed prompt, if there is one; none where nothing was saved.
        """
        if self.evaluation is None:
            return torch.empty(0)
        images = to_images(self.evaluation.samples, torch.device("cpu"))
        return images if self.model.network.prompt is None else self.model.network.prompt(images)


def read_run(run: str | Path) -> RunRecord:
    """Read a run folder of adapt.

    Raises:
        RunError: no run of adapt, or not a finished one.
        StorageError: a file that is missing, damaged, or of another run.
    """
    folder = Path(run)
    found = read_object(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if found.get("recipe") != "adapt":
        raise RunError(f"{folder} is no run folder of adapt; give one, such as runs/c100")
    if not (folder / RESULT).is_file():
        message = f"{folder} is not a finished run: it holds no {RESULT}"
        raise RunError(f"{message}. Continue it: adapt with resume=True.")
    config, result, model = read_config(folder), read_result(folder), load_pruned(folder)
    evaluation = load_evaluation(folder, len(model.class_names))
    counted = 0 if evaluation is None else int(evaluation.confusion.sum())
    if evaluation is not None and counted != result["images"]:
        raise StorageError(
            f"{folder / EVALUATION} counts {counted} images, {RESULT} {result['images']}; they are "
            f"of different runs"
        )
    return RunRecord(
        folder,
        config,
        result,
        read_metrics(folder),
        model,
        _read_prompt(folder / PROMPT, model.spec.image_size),
        evaluation,
        {name: sha256(folder / name) for name in FILES if (folder / name).exists()},
    )


def _read_prompt(path: Path, size: int) -> torch.Tensor | None:
    """The frame that gave a run's masks; None where its method has none."""
    if not path.exists():
        return None
    frame = read_tensors(path).get("values")
    if frame is None or frame.shape != (3, size, size):
        raise StorageError(f"{path} does not hold a prompt for images of {size} pixels")
    return frame
