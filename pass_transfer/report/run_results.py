"""A run's page, first part: how small, how fast and how accurate the network is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pass_transfer.report.drawing import Picture
from pass_transfer.report.page import (
    Html,
    card,
    cards,
    details,
    element,
    figure,
    stack,
    table,
    tiles,
)
from pass_transfer.report.table import COLUMNS, comparison


def lead(result: Mapping[str, Any]) -> str:
    """The run in two sentences."""
    batch = next(iter(result["latency_ms"]))
    speed = result["dense_latency_ms"][batch] / result["latency_ms"][batch]
    return (
        f"With {_share(result, 'macs')} of the dense network's multiply-accumulates and "
        f"{_share(result, 'parameters')} of its parameters, it recognises {result['top1']:.2f} % "
        f"of {result['images']} test images and is {speed:.2f} times as fast at batch {batch}. "
        f"Its channels were chosen by the method {result['method']}; choosing them took "
        f"{result['search_seconds']:.0f} s, the whole job {result['seconds']:.0f} s."
        f"{_before(result)}"
    )


def _before(result: Mapping[str, Any]) -> str:
    """What the dense network is, where it was cut before."""
    if "from" not in result:
        return ""
    share = 100 * result["macs"] / result["whole_macs"]
    return (
        f" The dense network is that of {result['from']}, which was cut before; of the whole "
        f"network's multiply-accumulates {share:.1f} % are left."
    )


def _share(result: Mapping[str, Any], key: str) -> str:
    return f"{100 * result[key] / result[f'dense_{key}']:.1f} %"


def numbers(result: Mapping[str, Any]) -> Html:
    """The numbers that matter most, each beside the dense network's."""
    dense = "dense: not trained"
    if result["dense_top1"] is not None:
        dense = f"dense {result['dense_top1']:.2f} %"
    values = [("top-1", f"{result['top1']:.2f} %", dense)]
    for name, key in (("MACs", "macs"), ("parameters", "parameters")):
        whole = f"{_share(result, key)} of {result[f'dense_{key}'] / 1e6:.2f} M"
        values.append((name, f"{result[key] / 1e6:.2f} M", whole))
    for batch, small in result["latency_ms"].items():
        dense = f"dense {result['dense_latency_ms'][batch]:.2f} ms"
        values.append((f"latency, batch {batch}", f"{small:.2f} ms", dense))
    return tiles(values)


def small_beside_dense(result: Mapping[str, Any], drawn: Mapping[str, Picture]) -> list[Html]:
    """The table of both networks, and pictures of channels, accuracy and latency."""
    left = stack(
        card(table(COLUMNS, comparison(result))),
        card(figure(drawn["channels"]), _channels(result), title="Channels kept"),
    )
    timing = (
        f"Median of a forward pass in float32 on {result['device']}, "
        "both networks measured in turn."
    )
    right = stack(
        card(figure(drawn["accuracy"], _dense_missing(result)), title="Accuracy against MACs"),
        card(figure(drawn["latency"], timing), title="Latency"),
    )
    return [element("h2", "Small beside dense"), cards(left, right)]


def _channels(result: Mapping[str, Any]) -> Html:
    if "weights_kept" in result:
        return _single_weights(result)
    kept, widths = result["channels_kept"], result["channels"]
    rows = [(name, count, widths[name]) for name, count in kept.items()]
    return details("Channels in numbers", table(("group", "kept", "of"), rows))


def _single_weights(result: Mapping[str, Any]) -> Html:
    """Sparsity by layer, and what it is good for."""
    kept, sizes = result["weights_kept"], result["weights"]
    rows = [(n, f"{1 - kept[n] / size:.1%}", kept[n], size) for n, size in sizes.items()]
    said = (
        f"{result['sparsity']:.1%} of the single weights are zeros. The file has "
        f"{result['bytes']:,} bytes, the dense network in float32 {result['dense_bytes']:,}. "
        "Zeros that lie anywhere make nothing faster here: MACs and latency are the dense "
        "network's."
    )
    numbers = table(("weight", "zeros", "kept", "of"), rows)
    return details("Single weights in numbers", stack(element("p", said), numbers))


def _dense_missing(result: Mapping[str, Any]) -> Html | None:
    if result["dense_top1"] is not None:
        return None
    options = element("code", "--resume --with-dense")
    return Html(f"The dense network was not fine-tuned; the same command with {options} adds it.")
