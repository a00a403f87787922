"""A model card with the metadata that the hub lists, filters and shows models by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

LIBRARY, PIPELINE, METRIC = "pass-transfer", "image-classification", "accuracy"
UNKNOWN_LICENSE = "unknown"  # the hub's own word
OWN_IMAGES = "imagefolder"  # the hub's name for images that are no dataset on it
ACCURACY = {"top1": "top-1 accuracy (%)", "top5": "top-5 accuracy (%)"}  # by our own names
METADATA = re.compile(r"\A---\n(.*?)\n---\n+", re.DOTALL)


@dataclass(frozen=True)
class ModelFacts:
    """What the hub is told of a model.

    Fields:
        name: of the model.
        architecture: of its network; one of the tags.
        license: as the hub names them, such as "mit"; None for the one that the card has.
        task: what it was measured on, in words.
        dataset: the hub's name of it, if it is there.
        accuracy: per cent, by the name of the measure.
        sizes: counts, by their name.
    """

    name: str
    architecture: str
    license: str | None
    task: str
    dataset: str | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, float] = field(default_factory=dict)


def with_metadata(card: str, facts: ModelFacts) -> str:
    """A card, markdown, with these facts at its beginning in place of those it had."""
    from huggingface_hub import EvalResult, ModelCardData

    figures = [(METRIC, name, value) for name, value in facts.accuracy.items()]
    figures += [(name.lower(), name, value) for name, value in facts.sizes.items()]
    results = []
    for kind, name, value in figures:
        result = EvalResult(
            task_type=PIPELINE,
            dataset_type=facts.dataset or OWN_IMAGES,
            dataset_name=facts.task,
            dataset_split="test",
            metric_type=kind,
            metric_name=name,
            metric_value=value,
        )
        results.append(result)
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag=PIPELINE,
        license=facts.license or _license_of(card) or UNKNOWN_LICENSE,
        tags=[LIBRARY, "pruning", "structured-pruning", facts.architecture],
        datasets=None if facts.dataset is None else [facts.dataset],
        metrics=[METRIC] if facts.accuracy else None,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{without_metadata(card)}"


def without_metadata(card: str) -> str:
    """A card as it is read by people."""
    return METADATA.sub("", card)


def _license_of(card: str) -> str | None:
    """The license that a card's metadata names."""
    import yaml

    found = METADATA.match(card)
    try:
        data = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return None
    named = data.get("license") if isinstance(data, dict) else None
    return named if isinstance(named, str) else None
