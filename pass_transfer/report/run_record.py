"""What a finished run of adapt has left in its folder, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pass_transfer.errors import RunError, StorageError
from pass_transfer.files import read_json, read_tensors, sha256
from pass_transfer.pruned import PrunedModel, load_pruned
from pass_transfer.pruned.folder import DESCRIPTION, WEIGHTS
from pass_transfer.recipes.adapt import PROMPT, RESULT
from pass_transfer.runs.dense import DENSE
from pass_transfer.runs.evaluation import EVALUATION, Evaluation, load_evaluation
from pass_transfer.scoring.task_prior import PRIOR
from pass_transfer.training import to_images
from pass_transfer.training.run_folder import CONFIG, METRICS, read_metrics

FILES = (
    CONFIG,
    METRICS,
    RESULT,
    DESCRIPTION,
    WEIGHTS,
    "masks.safetensors",
    PROMPT,
    PRIOR,
    EVALUATION,
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
        prompt: the frame (3, S, S) that gave the masks.
        evaluation: None for a run that saved none.
        hashes: sha-256 by file name.
    """

    folder: Path
    config: dict[str, Any]
    result: dict[str, Any]
    metrics: list[dict[str, Any]]
    model: PrunedModel
    prompt: torch.Tensor
    evaluation: Evaluation | None
    hashes: dict[str, str]

    def rows(self, stage: str) -> list[dict[str, Any]]:
        """The metrics of one stage: "prompt", "finetune" or "dense"."""
        return [row for row in self.metrics if row["stage"] == stage]

    @torch.no_grad()
    def samples(self) -> torch.Tensor:
        """The saved samples (n, 3, S, S) in [0, 1], as the small network's backbone sees them: under the deployed prompt, if there is one."""
        images = to_images(self.evaluation.samples, torch.device("cpu"))
        return images if self.model.network.prompt is None else self.model.network.prompt(images)


def read_run(run: str | Path) -> RunRecord:
    """Read a run folder of adapt.

    Raises:
        RunError: no run of adapt, or not a finished one.
        StorageError: a file that is missing, damaged, or of another run.
    """
    folder = Path(run)
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if not isinstance(config, dict) or config.get("recipe") != "adapt":
        raise RunError(
            f"{folder} is no run folder of pass-transfer adapt; give one, such as runs/c100"
        )
    if not (folder / RESULT).is_file():
        raise RunError(
            f"{folder} is not a finished run: it holds no {RESULT}. Continue it with pass-transfer adapt --resume."
        )
    result, model = read_json(folder / RESULT), load_pruned(folder)
    prompt = read_tensors(folder / PROMPT).get("values")
    if prompt is None or prompt.shape != (3, model.spec.image_size, model.spec.image_size):
        raise StorageError(
            f"{folder / PROMPT} does not hold a prompt for images of {model.spec.image_size} pixels"
        )
    evaluation = load_evaluation(folder, len(model.class_names))
    if evaluation is not None and int(evaluation.confusion.sum()) != result["images"]:
        raise StorageError(
            f"{folder / EVALUATION} counts {int(evaluation.confusion.sum())} images, {RESULT} {result['images']}; they are of different runs"
        )
    hashes = {name: sha256(folder / name) for name in FILES if (folder / name).exists()}
    return RunRecord(
        folder, config, result, read_metrics(folder), model, prompt, evaluation, hashes
    )
