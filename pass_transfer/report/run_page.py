"""The page of one run: its pictures, and its sections in their order."""

from __future__ import annotations

from collections.abc import Mapping

from pass_transfer import __version__
from pass_transfer.report import image_pictures, pictures
from pass_transfer.report.confusions import classes_to_show, confused_pairs
from pass_transfer.report.data import images_section
from pass_transfer.report.drawing import Picture
from pass_transfer.report.page import element, page
from pass_transfer.report.run_again import again
from pass_transfer.report.run_mistakes import SHOWN_CLASSES, mistakes
from pass_transfer.report.run_prompt import prompt_and_samples, shown_prompts
from pass_transfer.report.run_record import RunRecord
from pass_transfer.report.run_results import lead, numbers, small_beside_dense
from pass_transfer.report.run_training import curves, training


def run_pictures(record: RunRecord) -> dict[str, Picture]:
    """The pictures of a run by name, as far as it has saved what they show."""
    made = [
        pictures.accuracy_picture(record.result),
        pictures.channels_picture(record.result),
        pictures.latency_picture(record.result),
        *curves(record),
    ]
    prompts = shown_prompts(record)
    if prompts:
        made.append(image_pictures.prompt_picture(prompts))
    if record.evaluation is not None:
        confusion = record.evaluation.confusion
        if confused_pairs(confusion, 1):
            shown, names = classes_to_show(confusion, SHOWN_CLASSES), record.model.class_names
            made.append(image_pictures.confusion_picture(confusion, shown, names))
    return {picture.name: picture for picture in made}


def run_page(record: RunRecord, drawn: Mapping[str, Picture], samples: Mapping[str, bytes]) -> str:
    """The whole page as HTML.

    Args:
        drawn: run_pictures of it.
        samples: PNGs of the record's samples, in their order.
    """
    result = record.result
    made_by = (
        f"Made by pass-transfer {__version__} from the files in this folder; "
        "the pictures are in report/ as PNG, too."
    )
    return page(
        f"{result['task']}: a smaller network",
        f"pass-transfer, run {result['run']}",
        lead(result),
        numbers(result),
        *small_beside_dense(result, drawn),
        *prompt_and_samples(record, drawn, samples),
        *training(record, drawn),
        *mistakes(record, drawn),
        *images_section(result, record.model.spec.preprocessing),
        *again(record),
        element("footer", made_by),
    )
