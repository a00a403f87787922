"""A run's page: how its networks and its prompt were trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pass_transfer.report.drawing import Picture
from pass_transfer.report.page import Html, card, cards, details, element, figure, table
from pass_transfer.report.pictures import curves_picture
from pass_transfer.report.run_record import RunRecord

METRICS = (
    "epoch",
    "train_loss",
    "train_top1",
    "held_out_loss",
    "held_out_top1",
    "held_out_top5",
    "seconds",
)
STAGES = {"prompt": "prompt tuning", "finetune": "small", "dense": "dense"}
CURVES = {"finetuning": ("finetune", "dense"), "prompt_tuning": ("prompt",)}
TITLES = {"finetuning": "Fine-tuning", "prompt_tuning": "Prompt tuning"}


def curves(record: RunRecord) -> list[Picture]:
    """Training curves of the stages that have metrics."""
    made = []
    for name, stages in CURVES.items():
        trained = {STAGES[stage]: record.rows(stage) for stage in _present(record, stages)}
        if trained:
            made.append(curves_picture(name, trained))
    return made


def training(record: RunRecord, drawn: Mapping[str, Picture]) -> list[Html]:
    """Those curves, each with its numbers."""
    boxes = []
    for name, stages in CURVES.items():
        if name in drawn:
            numbers = [_numbers(record, stage) for stage in _present(record, stages)]
            boxes.append(card(figure(drawn[name]), *numbers, title=TITLES[name]))
    heading = element("h2", "Training")
    if not boxes:
        return [heading, card(element("p", "This run has no metrics.jsonl."))]
    return [heading, cards(*boxes)]


def _present(record: RunRecord, stages: Sequence[str]) -> list[str]:
    return [stage for stage in stages if record.rows(stage)]


def _numbers(record: RunRecord, stage: str) -> Html:
    rows = record.rows(stage)
    present = set().union(*rows)
    keys = [key for key in METRICS if key in present]
    header = [key.replace("_", " ").replace("held out", "held-out") for key in keys]
    cells = []
    for row in rows:
        cells.append([_number(key, row[key]) for key in keys])
    return details(f"{STAGES[stage]}, in numbers", table(header, cells))


def _number(key: str, value: Any) -> Any:
    if key.endswith("loss"):
        return f"{value:.4f}"
    return f"{value:.2f}" if isinstance(value, float) else value
