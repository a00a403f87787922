"""A run's page: where the network errs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pass_transfer.report.confusions import (
    ClassAccuracy,
    Confused,
    confused_pairs,
    lowest_classes,
)
from pass_transfer.report.drawing import Picture
from pass_transfer.report.page import Html, card, cards, element, figure, stack, table
from pass_transfer.report.run_record import RunRecord
from pass_transfer.report.words import counted
from pass_transfer.runs.evaluation import EVALUATION

SHOWN_CLASSES = 10
SHOWN_ROWS = 7


def mistakes(record: RunRecord, drawn: Mapping[str, Picture]) -> list[Html]:
    """The confusion of classes, as a picture and as tables of the worst."""
    heading = element("h2", "Where it errs")
    if record.evaluation is None:
        missing = (
            f"This run saved no {EVALUATION}, so there is no confusion to show: "
            "an earlier version of pass-transfer made it."
        )
        return [heading, card(element("p", missing))]
    confusion, names = record.evaluation.confusion, record.model.class_names
    pairs = confused_pairs(confusion, SHOWN_ROWS)
    if not pairs:
        return [heading, card(element("p", "Every test image was recognised."))]
    picture = card(figure(drawn["confusion"], _caption(len(names))), title="Confusion")
    lowest = lowest_classes(confusion, SHOWN_ROWS)
    return [heading, cards(picture, stack(_lowest(lowest, names), _pairs(pairs, names)))]


def _caption(classes: int) -> str:
    said = "Per cent of each class's test images."
    if classes > SHOWN_CLASSES:
        said += (
            " Only classes of the most confused pairs are shown; "
            "what is missing from a row was taken for other classes."
        )
    return said


def _lowest(found: Sequence[ClassAccuracy], names: Sequence[str]) -> Html:
    rows = []
    for one in found:
        worst = ""
        if one.worst is not None:
            worst = f"{names[one.worst.prediction]} ({counted(one.worst.count, 'image')})"
        rows.append((names[one.label], f"{one.top1:.2f}", one.images, worst))
    header = ("class", "top-1 (%)", "images", "most often taken for")
    return card(table(header, rows, words=(3,)), title="Classes of the lowest accuracy")


def _pairs(found: Sequence[Confused], names: Sequence[str]) -> Html:
    rows = [
        (names[pair.label], names[pair.prediction], f"{pair.count} of {pair.images}")
        for pair in found
    ]
    header = ("true", "taken for", "images")
    return card(table(header, rows, words=(1,)), title="Most confused pairs")
