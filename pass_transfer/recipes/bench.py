"""Latency and throughput of a run's small network beside the dense one, on several engines."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pass_transfer.errors import UsageError
from pass_transfer.latency import ROUNDS, interleave, random_images
from pass_transfer.networks import build_backbone
from pass_transfer.networks.network import Network
from pass_transfer.progress import say
from pass_transfer.pruned import PrunedModel, export_model, load_pruned
from pass_transfer.runs.dense import DENSE
from pass_transfer.settings import check_whole
from pass_transfer.training import choose_runtime

ENGINES = ("eager", "eager channels_last", "compile", "onnxruntime")


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """What is measured. Engines are torch in both layouts, torch.compile of it in channels_last, and onnxruntime."""

    batch_sizes: tuple[int, ...] = (1, 8, 64)
    engines: tuple[str, ...] = ENGINES
    rounds: int = ROUNDS

    def __post_init__(self) -> None:
        check_whole(self, rounds=1)
        for name in self.engines:
            if name not in ENGINES:
                raise UsageError(f"unknown engine {name!r}; choose of {', '.join(ENGINES)}")
        if not self.batch_sizes or any(
            isinstance(b, bool) or not isinstance(b, int) or b < 1 for b in self.batch_sizes
        ):
            raise UsageError(f"--batch is {self.batch_sizes}; give whole numbers of at least 1")


def bench_run(
    run: str | Path, config: BenchConfig = BenchConfig(), device: str = "auto"
) -> dict[str, Any]:
    """Measure both networks, interleaved, in float32.

    Args:
        run: a run folder of adapt. The dense network is the one kept there, or has random weights.

    Returns:
        "device", "threads", "image_size", versions, and "rows": network ("small" or
        "dense"), engine (onnxruntime with the provider that it took), batch, median_ms,
        q1_ms, q3_ms, images_per_second. An engine that cannot run here has none.

    Raises:
        UsageError, RunError, StorageError: see BenchConfig and load_pruned.
    """
    small = load_pruned(run)
    spec = small.spec
    dense = load_pruned(Path(run) / DENSE) if (Path(run) / DENSE).is_dir() else _untrained(small)
    place = choose_runtime(device, "no").device
    rows = compare({"small": small, "dense": dense}, config, place)
    return {
        "run": str(run),
        "device": str(place),
        "threads": torch.get_num_threads(),
        "image_size": spec.image_size,
        "torch": torch.__version__,
        "rows": rows,
    }


def compare(
    models: Mapping[str, PrunedModel],
    config: BenchConfig,
    device: torch.device = torch.device("cpu"),
) -> list[dict[str, Any]]:
    """Measure models of one image size, by name, interleaved; the rows are those of bench_run."""
    rows, size = [], next(iter(models.values())).spec.image_size
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        for engine in config.engines:
            calls = {
                name: _engine(engine, model, device, Path(scratch) / f"{name}.onnx")
                for name, model in models.items()
            }
            title = f"{engine} ({_provider(device)})" if engine == "onnxruntime" else engine
            try:
                for batch in config.batch_sizes:
                    say(f"{title}, batch {batch}")
                    rows += _measure(title, calls, batch, size, device, config.rounds)
            except RuntimeError as error:  # torch.compile wants a C++ compiler
                if engine != "compile":
                    raise
                say(
                    f"torch.compile cannot run here, so it is left out: {str(error).strip().splitlines()[0]}"
                )
    return rows


def _untrained(small: PrunedModel) -> PrunedModel:
    """The dense network of a small one, with random weights, which cost the same time."""
    spec = small.spec
    return PrunedModel(
        Network(build_backbone(spec), spec.mean, spec.std, small.network.prompt),
        spec,
        small.class_names,
        {},
    ).eval()


def _engine(
    engine: str, model: PrunedModel, device: torch.device, path: Path
) -> Callable[[torch.Tensor], object]:
    if engine == "onnxruntime":
        return _onnxruntime(model, device, path)
    network: nn.Module = model.to(
        device, memory_format=torch.contiguous_format if engine == "eager" else torch.channels_last
    )
    return torch.compile(network) if engine == "compile" else network


def _provider(device: torch.device) -> str:
    """Where onnxruntime runs: its package for CPUs has no other."""
    import onnxruntime

    return (
        "CUDA"
        if device.type == "cuda"
        and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        else "CPU"
    )


def _onnxruntime(
    model: PrunedModel, device: torch.device, path: Path
) -> Callable[[torch.Tensor], object]:
    import onnxruntime

    with torch.inference_mode(False):
        export_model(model.to("cpu", memory_format=torch.contiguous_format), path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        str(path),
        options,
        providers=list(
            dict.fromkeys([f"{_provider(device)}ExecutionProvider", "CPUExecutionProvider"])
        ),
    )
    return lambda images: session.run(["logits"], {"images": images.cpu().numpy()})


def _measure(
    engine: str,
    calls: dict[str, Callable],
    batch: int,
    size: int,
    device: torch.device,
    rounds: int,
) -> list[dict[str, Any]]:
    images = random_images(
        batch,
        size,
        device,
        torch.contiguous_format
        if engine == "eager" or engine.startswith("onnxruntime")
        else torch.channels_last,
    )
    times = interleave(
        {name: lambda call=call: call(images) for name, call in calls.items()}, rounds, device
    )
    rows = []
    for name, values in times.items():
        low, median, high = (
            statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        )
        rows.append(
            {
                "network": name,
                "engine": engine,
                "batch": batch,
                "median_ms": round(median, 3),
                "q1_ms": round(low, 3),
                "q3_ms": round(high, 3),
                "images_per_second": round(1000 * batch / median, 1),
            }
        )
    return rows
