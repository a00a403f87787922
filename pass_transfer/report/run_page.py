"""The page of one run: what it says, and in which order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pass_transfer import __version__
from pass_transfer.report import image_pictures, pictures
from pass_transfer.report.command import adapt_command, evaluation_command, report_command
from pass_transfer.report.confusions import classes_to_show, confused_pairs, lowest_classes
from pass_transfer.report.drawing import Picture
from pass_transfer.report.page import (
    Html,
    card,
    cards,
    command,
    details,
    element,
    facts,
    figure,
    image,
    page,
    stack,
    table,
    text,
    tiles,
)
from pass_transfer.report.run_record import RunRecord
from pass_transfer.report.table import COLUMNS, comparison
from pass_transfer.runs.evaluation import EVALUATION

SHOWN_CLASSES = 10
SHOWN_ROWS = 7
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


def run_pictures(record: RunRecord) -> dict[str, Picture]:
    """The pictures of a run by name, as far as it has saved what they show."""
    made = [
        pictures.accuracy_picture(record.result),
        pictures.channels_picture(record.result),
        pictures.latency_picture(record.result),
    ]
    trained = {
        STAGES[stage]: record.rows(stage) for stage in ("finetune", "dense") if record.rows(stage)
    }
    made += [pictures.curves_picture("finetuning", trained)] if trained else []
    made += (
        [pictures.curves_picture("prompt_tuning", {STAGES["prompt"]: record.rows("prompt")})]
        if record.rows("prompt")
        else []
    )
    made += [image_pictures.prompt_picture(prompts)] if (prompts := _prompts(record)) else []
    if record.evaluation is not None and confused_pairs(record.evaluation.confusion, 1):
        shown = classes_to_show(record.evaluation.confusion, SHOWN_CLASSES)
        made.append(
            image_pictures.confusion_picture(
                record.evaluation.confusion, shown, record.model.class_names
            )
        )
    return {picture.name: picture for picture in made}


def run_page(record: RunRecord, drawn: Mapping[str, Picture], samples: Mapping[str, bytes]) -> str:
    """The whole page as HTML.

    Args:
        drawn: run_pictures of it.
        samples: PNGs of the record's samples, in their order.
    """
    result = record.result
    return page(
        f"{result['task']}: a smaller network",
        f"pass-transfer, run {result['run']}",
        _lead(result),
        _tiles(result),
        *_comparison(record, drawn),
        *_prompt(record, drawn, samples),
        *_training(record, drawn),
        *_confusion(record, drawn),
        *_again(record),
        element(
            "footer",
            f"Made by pass-transfer {__version__} from the files in this folder; the pictures are in report/ as PNG, too.",
        ),
    )


def _lead(result: Mapping[str, Any]) -> str:
    batch = next(iter(result["latency_ms"]))
    small, dense = result["latency_ms"][batch], result["dense_latency_ms"][batch]
    found = f"were chosen by the method {result['method']}"
    return (
        f"With {_share(result, 'macs')} of the dense network's multiply-accumulates and {_share(result, 'parameters')} of its parameters, it recognises "
        f"{result['top1']:.2f} % of {result['images']} test images and is {dense / small:.2f} times as fast at batch {batch}. Its channels "
        f"{found}; finding them took {result['search_seconds']:.0f} s, the whole job {result['seconds']:.0f} s."
    )


def _share(result: Mapping[str, Any], key: str) -> str:
    return f"{100 * result[key] / result[f'dense_{key}']:.1f} %"


def _tiles(result: Mapping[str, Any]) -> Html:
    dense = (
        "dense: not trained"
        if result["dense_top1"] is None
        else f"dense {result['dense_top1']:.2f} %"
    )
    values = [("top-1", f"{result['top1']:.2f} %", dense)]
    for name, key in (("MACs", "macs"), ("parameters", "parameters")):
        values.append(
            (
                name,
                f"{result[key] / 1e6:.2f} M",
                f"{_share(result, key)} of {result[f'dense_{key}'] / 1e6:.2f} M",
            )
        )
    for batch, small in result["latency_ms"].items():
        values.append(
            (
                f"latency, batch {batch}",
                f"{small:.2f} ms",
                f"dense {result['dense_latency_ms'][batch]:.2f} ms",
            )
        )
    return tiles(values)


def _comparison(record: RunRecord, drawn: Mapping[str, Picture]) -> list[Html]:
    result = record.result
    groups = details(
        "Channels in numbers",
        table(
            ("group", "kept", "of"),
            [
                (name, kept, result["channels"][name])
                for name, kept in result["channels_kept"].items()
            ],
        ),
    )
    missing = Html(
        f"The dense network was not fine-tuned; the same command with {element('code', '--resume --with-dense')} adds it."
    )
    timing = f"Median of a forward pass in float32 on {result['device']}, both networks measured in turn."
    return [
        element("h2", "Small beside dense"),
        cards(
            stack(
                card(table(COLUMNS, comparison(result))),
                card(figure(drawn["channels"]), groups, title="Channels kept"),
            ),
            stack(
                card(
                    figure(drawn["accuracy"], missing if result["dense_top1"] is None else None),
                    title="Accuracy against MACs",
                ),
                card(figure(drawn["latency"], timing), title="Latency"),
            ),
        ),
    ]


def _prompts(record: RunRecord) -> dict[str, Any]:
    """The prompts of a run that say something; one of zeros, as forward selection has it, is none."""
    deployed = record.model.network.prompt
    frames = ({} if record.prompt is None else {"gave the masks": record.prompt}) | (
        {} if deployed is None else {"in the small network": deployed.frame().detach()}
    )
    return {title: frame for title, frame in frames.items() if frame.any()}


def _prompt(
    record: RunRecord, drawn: Mapping[str, Picture], samples: Mapping[str, bytes]
) -> list[Html]:
    if "prompt" not in drawn:
        return [element("h2", "What the network sees"), cards(_samples(record, samples))]
    caption = "Grey changes nothing; full colour is the strongest value, in brightness from 0 to 1."
    if record.model.network.prompt is None:
        caption += " The small network was saved without a prompt."
    elif record.rows("finetune"):
        caption += " The small network's own learned along while it was fine-tuned."
    return [
        element("h2", "The prompt and what the network sees"),
        cards(card(figure(drawn["prompt"], caption), title="Prompt"), _samples(record, samples)),
    ]


def _samples(record: RunRecord, samples: Mapping[str, bytes]) -> Html:
    if record.evaluation is None:
        return card(
            element("p", f"This run saved no {EVALUATION}, so there are no samples."),
            title="Samples",
        )
    names, found = record.model.class_names, []
    for png, label, prediction in zip(
        samples.values(),
        record.evaluation.sample_labels.tolist(),
        record.evaluation.sample_predictions.tolist(),
    ):
        said = "recognised" if label == prediction else f"taken for {names[prediction]}"
        found.append(
            element(
                "figure",
                image("png", png, f"A test image of {names[label]}, {said}"),
                element(
                    "figcaption",
                    names[label],
                    Html("<br>"),
                    element("span", said, class_="right" if label == prediction else "wrong"),
                ),
            )
        )
    under = "" if record.model.network.prompt is None else ", under its prompt"
    return card(
        element("div", *found, class_="samples"),
        element(
            "p",
            f"Test images at even distances, as the small network sees them{under}.",
            class_="note",
        ),
        title="Samples",
    )


def _training(record: RunRecord, drawn: Mapping[str, Picture]) -> list[Html]:
    boxes = []
    for name, title, stages in (
        ("finetuning", "Fine-tuning", ("finetune", "dense")),
        ("prompt_tuning", "Prompt tuning", ("prompt",)),
    ):
        if name in drawn:
            boxes.append(
                card(
                    figure(drawn[name]),
                    *(
                        details(f"{STAGES[s]}, in numbers", _metrics(record, s))
                        for s in stages
                        if record.rows(s)
                    ),
                    title=title,
                )
            )
    return (
        [element("h2", "Training"), cards(*boxes)]
        if boxes
        else [element("h2", "Training"), card(element("p", "This run has no metrics.jsonl."))]
    )


def _metrics(record: RunRecord, stage: str) -> Html:
    rows = record.rows(stage)
    keys = [key for key in METRICS if any(key in row for row in rows)]
    cells = [
        [
            f"{row[key]:.4f}"
            if key.endswith("loss")
            else f"{row[key]:.2f}"
            if isinstance(row[key], float)
            else row[key]
            for key in keys
        ]
        for row in rows
    ]
    return table([key.replace("_", " ").replace("held out", "held-out") for key in keys], cells)


def _confusion(record: RunRecord, drawn: Mapping[str, Picture]) -> list[Html]:
    heading = element("h2", "Where it errs")
    if record.evaluation is None:
        return [
            heading,
            card(
                element(
                    "p",
                    f"This run saved no {EVALUATION}, so there is no confusion to show: an earlier version of pass-transfer made it.",
                )
            ),
        ]
    confusion, names = record.evaluation.confusion, record.model.class_names
    pairs = [
        (names[c.label], names[c.prediction], f"{c.count} of {c.images}")
        for c in confused_pairs(confusion, SHOWN_ROWS)
    ]
    if not pairs:
        return [heading, card(element("p", "Every test image was recognised."))]
    lowest = [
        (
            names[c.label],
            f"{c.top1:.2f}",
            c.images,
            ""
            if c.worst is None
            else f"{names[c.worst.prediction]} ({c.worst.count} image{'s' * (c.worst.count > 1)})",
        )
        for c in lowest_classes(confusion, SHOWN_ROWS)
    ]
    caption = "Per cent of each class's test images."
    if len(names) > SHOWN_CLASSES:
        caption += " Only classes of the most confused pairs are shown; what is missing from a row was taken for other classes."
    return [
        heading,
        cards(
            card(figure(drawn["confusion"], caption), title="Confusion"),
            stack(
                card(
                    table(
                        ("class", "top-1 (%)", "images", "most often taken for"), lowest, words=(3,)
                    ),
                    title="Classes of the lowest accuracy",
                ),
                card(
                    table(("true", "taken for", "images"), pairs, words=(1,)),
                    title="Most confused pairs",
                ),
            ),
        ),
    ]


def _again(record: RunRecord) -> list[Html]:
    config, result = record.config, record.result
    commands = map(
        command,
        (adapt_command(config, result), evaluation_command(config, result), report_command(result)),
    )
    return [
        element("h2", "To get it again"),
        cards(
            card(
                element("p", "The run, its accuracy from the saved files, and this page."),
                *commands,
                title="Commands",
            ),
            card(
                facts(config["versions"].items()),
                element(
                    "p", f"Fingerprint of {config['entry']}: {config['fingerprint']}", class_="note"
                ),
                title="Versions",
            ),
        ),
        card(
            facts((name, element("code", value)) for name, value in record.hashes.items()),
            title="sha-256 of the files",
            wide=True,
        ),
        card(
            facts((name, element("code", value)) for name, value in _settings(config)),
            title="config.json",
            wide=True,
        ),
    ]


def _settings(config: Mapping[str, Any]) -> list[tuple[str, Html]]:
    return [
        (name, text(value if isinstance(value, str) else json.dumps(value)))
        for name, value in config.items()
        if name != "versions"
    ]
