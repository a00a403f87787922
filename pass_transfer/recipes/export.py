"""A run's small network, or a whole one by its name, as one file for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pass_transfer.errors import UsageError
from pass_transfer.networks.named import load_network
from pass_transfer.networks.network import Network
from pass_transfer.pruned import PrunedModel, choose_format, export_model, load_pruned
from pass_transfer.surroundings import as_guest


@as_guest
def export(
    run: str | Path | None = None,
    out: str | Path | None = None,
    format: str | None = None,
    *,
    network: str | None = None,
    weights: str | Path | None = None,
    image_size: int | None = None,
) -> dict[str, Any]:
    """Write a network as one file; see export_model.

    Args:
        run: a run folder of adapt, or hf-hub:owner/name.
        out, format: the file, and what its ending does not say.
        network, weights, image_size: in place of a run, a whole network; see load_network. Its
            classes are called by their numbers.

    Raises:
        UsageError: not exactly one of run and network, no file, or an unknown format.
        PassTransferError: see load_pruned, load_network and export_model.
    """
    if out is None:
        raise UsageError("out is missing; give the file to write, such as small.onnx", "out")
    choose_format(out, format)
    if (run is None) == (network is None):
        given = "neither is given" if run is None else "both are given"
        raise UsageError(f"give a run folder, or a network by its name (network); {given}")
    for name, value in (("weights", weights), ("image_size", image_size)):
        if network is None and value is not None:
            raise UsageError(f"{name}= goes with a network by its name (network)")
    model = load_pruned(run) if run is not None else _whole(str(network), weights, image_size)
    return export_model(model, out, format)


def _whole(name: str, weights: str | Path | None, image_size: int | None) -> PrunedModel:
    """A network of which nothing is cut."""
    module, spec = load_network(name, weights, image_size)
    names = [str(number) for number in range(spec.classes)]
    return PrunedModel(Network(module, spec.mean, spec.std), spec, names, {}).eval()
