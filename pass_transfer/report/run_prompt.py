"""A run's page: its prompt, and what the network sees."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pass_transfer.prompts import Prompt
from pass_transfer.report.drawing import Picture
from pass_transfer.report.page import Html, card, cards, element, figure, image
from pass_transfer.report.run_record import RunRecord
from pass_transfer.runs.evaluation import EVALUATION


def shown_prompts(record: RunRecord) -> dict[str, torch.Tensor]:
    """The frames (3, S, S) of a run's prompts by title.

    A frame of zeros, which version 0.1 kept for forward selection, is no prompt and left out.
    """
    frames = {} if record.prompt is None else {"gave the masks": record.prompt}
    deployed = record.model.network.prompt
    if isinstance(deployed, Prompt):
        frames["in the small network"] = deployed.frame().detach()
    return {title: frame for title, frame in frames.items() if frame.any()}


def prompt_and_samples(
    record: RunRecord, drawn: Mapping[str, Picture], samples: Mapping[str, bytes]
) -> list[Html]:
    """The prompt, if there is one, beside test images.

    Args:
        samples: PNGs of the record's samples, in their order.
    """
    if "prompt" not in drawn:
        return [element("h2", "What the network sees"), cards(_samples(record, samples))]
    prompt = card(figure(drawn["prompt"], _caption(record)), title="Prompt")
    return [
        element("h2", "The prompt and what the network sees"),
        cards(prompt, _samples(record, samples)),
    ]


def _caption(record: RunRecord) -> str:
    said = "Grey changes nothing; full colour is the strongest value, in brightness from 0 to 1."
    if record.model.network.prompt is None:
        said += " The small network was saved without a prompt."
    elif record.rows("finetune"):
        said += " The small network's own learned along while it was fine-tuned."
    return said


def _samples(record: RunRecord, samples: Mapping[str, bytes]) -> Html:
    evaluation = record.evaluation
    if evaluation is None:
        missing = f"This run saved no {EVALUATION}, so there are no samples."
        return card(element("p", missing), title="Samples")
    names = record.model.class_names
    labels, predictions = evaluation.sample_labels.tolist(), evaluation.sample_predictions.tolist()
    found = []
    for png, label, prediction in zip(samples.values(), labels, predictions):
        wrong = None if label == prediction else names[prediction]
        found.append(_sample(png, names[label], wrong))
    under = "" if record.model.network.prompt is None else ", under its prompt"
    note = f"Test images at even distances, as the small network sees them{under}."
    return card(
        element("div", *found, class_="samples"),
        element("p", note, class_="note"),
        title="Samples",
    )


def _sample(png: bytes, name: str, wrong: str | None) -> Html:
    """A test image with its class, and what it was taken for wrongly (None: it was not)."""
    said = "recognised" if wrong is None else f"taken for {wrong}"
    mark = element("span", said, class_="right" if wrong is None else "wrong")
    return element(
        "figure",
        image("png", png, f"A test image of {name}, {said}"),
        element("figcaption", name, Html("<br>"), mark),
    )
