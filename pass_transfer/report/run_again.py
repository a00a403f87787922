"""A run's page, last part: what it takes to get the run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pass_transfer.report.command import adapt_command, evaluation_command, report_command
from pass_transfer.report.page import Html, card, cards, command, element, facts, text
from pass_transfer.report.run_record import RunRecord


def again(record: RunRecord) -> list[Html]:
    """Commands, versions, hashes of the files, and settings."""
    config = record.config
    fingerprint = f"Fingerprint of {config['entry']}: {config['fingerprint']}"
    if config.get("from"):
        fingerprint = f"sha-256 of the weights of {config['from_run']}: {config['from']}"
    elif config.get("network"):
        fingerprint = f"Fingerprint of the weights of {config['network']}: {config['backbone']}"
    versions = card(
        facts(config["versions"].items()),
        element("p", fingerprint, class_="note"),
        title="Versions",
    )
    return [
        element("h2", "To get it again"),
        cards(_commands(record), versions),
        card(_codes(record.hashes), title="sha-256 of the files", wide=True),
        card(_codes(_settings(config)), title="config.json", wide=True),
    ]


def _commands(record: RunRecord) -> Html:
    config, result = record.config, record.result
    lines = (
        adapt_command(config, result),
        evaluation_command(config, result),
        report_command(result),
    )
    said = element("p", "The run, its accuracy from the saved files, and this page.")
    return card(said, *map(command, lines), title="Commands")


def _codes(values: Mapping[str, Any]) -> Html:
    """A table of names and values that are code."""
    return facts((name, element("code", value)) for name, value in values.items())


def _settings(config: Mapping[str, Any]) -> dict[str, Html]:
    return {
        name: text(value if isinstance(value, str) else json.dumps(value))
        for name, value in config.items()
        if name != "versions"
    }
