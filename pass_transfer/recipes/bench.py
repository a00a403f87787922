"""Latency and throughput of a run's small network beside the dense one, on several engines."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pass_transfer.errors import UsageError
from pass_transfer.latency import ROUNDS, interleave, random_images
from pass_transfer.networks import build_backbone
from pass_transfer.networks.named import named_spec
from pass_transfer.networks.network import Network
from pass_transfer.progress import say
from pass_transfer.pruned import PrunedModel, export_model, load_pruned
from pass_transfer.recipes.given_network import (
    AskedNetwork,
    GivenNetwork,
    choose_network,
    module_network,
)
from pass_transfer.recipes.options import refuse_unknown, take, take_budget
from pass_transfer.runs.dense import DENSE
from pass_transfer.scoring.magnitude import group_l1
from pass_transfer.scoring.pretrained import cut_network
from pass_transfer.scoring.prior import standardise
from pass_transfer.scoring.random import random_scores
from pass_transfer.settings import check_whole, is_whole, shown
from pass_transfer.surroundings import as_guest
from pass_transfer.training import choose_runtime

ENGINES = ("eager", "eager channels_last", "compile", "onnxruntime")
Engine = Callable[[torch.Tensor], object]


CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What is measured.

    Engines are torch in both layouts, torch.compile of it in channels_last, and onnxruntime.
    """

    batch_sizes: tuple[int, ...] = (1, 8, 64)
    engines: tuple[str, ...] = ENGINES
    rounds: int = ROUNDS

    def __post_init__(self) -> None:
        check_whole(self, rounds=1)
        for name in self.engines:
            if name not in ENGINES:
                raise UsageError(f"unknown engine {name!r}; choose of {', '.join(ENGINES)}")
        wrong = [size for size in self.batch_sizes if not is_whole(size)]
        if wrong or not self.batch_sizes:
            given = shown(wrong[0]) if wrong else "not given"
            raise UsageError(f"batch is {given}; it is a whole number from 1", "batch")


DEFAULT = BenchConfig()


@as_guest
def bench(
    run: str | Path | None = None,
    config: BenchConfig = DEFAULT,
    device: str = "auto",
    **options: Any,
) -> dict[str, Any]:
    """Measure both networks, interleaved, in float32.

    Args:
        run: a run folder of adapt. The dense network is the one kept there, or has random
            weights.
        options: in place of a run, network="resnet50" (with weights= and image_size=; see
            load_network) and a budget, as budget= or as the arguments of Budget: the network is
            cut by magnitude. Without weights it has random ones, and its channels are drawn.

    Returns:
        "run" (null without one), "network" (where one was named), "macs" and "dense_macs" with
        it, "device", "threads", "image_size", versions, and "rows": network ("small" or
        "dense"), engine (onnxruntime with the provider that it took), batch, median_ms,
        q1_ms, q3_ms, images_per_second. An engine that cannot run here has none.

    Raises:
        UsageError, RunError, StorageError: see BenchConfig, load_pruned and load_network.
    """
    if (run is None) == (options.get("network") is None):
        given = "neither is given" if run is None else "both are given"
        raise UsageError(f"give a run folder, or a network by its name (network); {given}")
    found: dict[str, Any] = {"run": None if run is None else str(run)}
    if run is None:
        models, more = _named(options)
        found |= more
    else:
        models = _of_run(Path(run), options)
    place = choose_runtime(device, "no").device
    return found | {
        "device": str(place),
        "threads": torch.get_num_threads(),
        "image_size": models["small"].spec.image_size,
        "torch": torch.__version__,
        "rows": compare(models, config, place),
    }


def _of_run(run: Path, options: dict[str, Any]) -> dict[str, PrunedModel]:
    """A run's small network and its dense one. Raises UsageError for what is a network's."""
    odd = [name for name, value in options.items() if value is not None]
    if odd:
        raise UsageError(f"{odd[0]} is for a network by its name (network), not for a run", odd[0])
    small, kept = load_pruned(run), run / DENSE
    return {
        "small": small,
        "dense": load_pruned(kept) if kept.is_dir() else _untrained(small),
    }


def _named(options: dict[str, Any]) -> tuple[dict[str, PrunedModel], dict[str, Any]]:
    """A network cut at a budget and the whole one, and what is said of them."""
    budget = take_budget(options)
    asked = take(AskedNetwork, options)
    refuse_unknown(options, "bench")
    given = _whole(asked)
    dense, groups = given.dense, given.dense.groups
    scores: Mapping[str, torch.Tensor] = random_scores(groups, 0)
    if asked.weights is not None:
        scores = standardise(group_l1(dense.module, groups))
    masks = budget.cut(scores, cut_network(dense, None, None, CPU))
    names = [str(number) for number in range(dense.spec.classes)]
    models = {}
    for name, cut in (("small", masks), ("dense", None)):
        models[name] = PrunedModel(dense.network(cut), dense.spec, names, dense.units(cut)).eval()
    macs = {"macs": dense.table.macs(masks.kept), "dense_macs": dense.table.dense}
    return models, {"network": given.network} | macs


def _whole(asked: AskedNetwork) -> GivenNetwork:
    """The network that is asked for; with random weights where none are given."""
    if asked.weights is not None:
        return choose_network(asked)
    spec, tag = named_spec(str(asked.network), None, asked.image_size)
    if tag is not None:
        return choose_network(asked)
    say("random weights, which cost the same time, and channels that are drawn")
    return module_network(build_backbone(spec).eval(), spec)


@as_guest
def compare(
    models: Mapping[str, PrunedModel], config: BenchConfig, device: torch.device = CPU
) -> list[dict[str, Any]]:
    """Measure models of one image size, by name, interleaved; the rows are those of bench."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        for engine in config.engines:
            try:
                rows += _compare_on(engine, models, config, device, Path(scratch))
            except RuntimeError as error:  # torch.compile wants a C++ compiler
                if engine != "compile":
                    raise
                why = str(error).strip().splitlines()[0]
                say(f"torch.compile cannot run here, so it is left out: {why}")
    return rows


def _compare_on(
    engine: str,
    models: Mapping[str, PrunedModel],
    config: BenchConfig,
    device: torch.device,
    scratch: Path,
) -> list[dict[str, Any]]:
    """The rows of one engine."""
    size = next(iter(models.values())).spec.image_size
    calls = {}
    for name, model in models.items():
        calls[name] = _engine(engine, model, device, scratch / f"{name}.onnx")
    title = f"{engine} ({_provider(device)})" if engine == "onnxruntime" else engine
    rows = []
    for batch in config.batch_sizes:
        say(f"{title}, batch {batch}")
        images = random_images(batch, size, device, _layout(engine))
        rows += _measure(title, calls, images, config.rounds)
    return rows


def _untrained(small: PrunedModel) -> PrunedModel:
    """The dense network of a small one, with random weights, which cost the same time."""
    spec = small.spec
    network = Network(build_backbone(spec), spec.mean, spec.std, small.network.prompt)
    return PrunedModel(network, spec, small.class_names, {}).eval()


def _layout(engine: str) -> torch.memory_format:
    """The layout of the images that an engine is given."""
    plain = engine in ("eager", "onnxruntime")
    return torch.contiguous_format if plain else torch.channels_last


def _engine(engine: str, model: PrunedModel, device: torch.device, path: Path) -> Engine:
    if engine == "onnxruntime":
        return _onnxruntime(model, device, path)
    network: nn.Module = model.to(device).to(memory_format=_layout(engine))
    return torch.compile(network) if engine == "compile" else network


def _provider(device: torch.device) -> str:
    """Where onnxruntime runs: its package for CPUs has no other."""
    import onnxruntime

    known = onnxruntime.get_available_providers()
    return "CUDA" if device.type == "cuda" and "CUDAExecutionProvider" in known else "CPU"


def _onnxruntime(model: PrunedModel, device: torch.device, path: Path) -> Engine:
    import onnxruntime

    export_model(model.to("cpu").to(memory_format=torch.contiguous_format), path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    wanted = [f"{_provider(device)}ExecutionProvider", "CPUExecutionProvider"]
    providers = list(dict.fromkeys(wanted))
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    return lambda images: session.run(["logits"], {"images": images.cpu().numpy()})


def _measure(
    title: str, calls: Mapping[str, Engine], images: torch.Tensor, rounds: int
) -> list[dict[str, Any]]:
    """One row a network: median and quartiles of its milliseconds."""
    runs = {name: partial(call, images) for name, call in calls.items()}
    times = interleave(runs, rounds, images.device)
    rows, batch = [], len(images)
    for name, values in times.items():
        low, median, high = _quartiles(values)
        row = {"network": name, "engine": title, "batch": batch, "median_ms": round(median, 3)}
        row |= {"q1_ms": round(low, 3), "q3_ms": round(high, 3)}
        rows.append(row | {"images_per_second": round(1000 * batch / median, 1)})
    return rows


def _quartiles(values: list[float]) -> list[float]:
    if len(values) == 1:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")
