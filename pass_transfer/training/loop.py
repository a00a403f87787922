"""The one training loop: epochs, learning rate, checkpoints, metrics, progress.

A Stage says what a step does; the loop does the rest. All randomness is derived from
(seed, epoch, step), so a checkpoint needs only tensors and counters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from pass_transfer.errors import DivergedError
from pass_transfer.progress import progress_bar, say
from pass_transfer.random_streams import seed_layers, stream, stream_seed
from pass_transfer.tasks import Split
from pass_transfer.training.batches import Batches, batches
from pass_transfer.training.interrupt import Interrupt
from pass_transfer.training.run_folder import RunFolder
from pass_transfer.training.runtime import Runtime
from pass_transfer.training.schedule import LoopConfig, learning_rate_factor
from pass_transfer.training.stage import Stage

CHECKPOINT_SECONDS = 60.0  # what a kill may cost


def run_stage(
    stage: Stage,
    train: Split,
    config: LoopConfig,
    runtime: Runtime,
    run: RunFolder | None = None,
    start_top1: float | None = None,
) -> list[dict[str, Any]]:
    """Train a stage to its end, or from its last checkpoint to its end.

    The stage's modules end in the state of the epoch with the best held-out "top1", the
    later of equal ones. Where the stage does not select, they end as the last epoch left them.

    Args:
        start_top1: held-out "top1" before the first epoch, if that state is to be one of
            those chosen from.

    Returns:
        One row of metrics per epoch, as in metrics.jsonl.

    Raises:
        DivergedError: the loss is no longer a number.
        KeyboardInterrupt: after the step and a checkpoint; its text says how to continue.
    """
    return _Loop(stage, train, config, runtime, run, start_top1).run()


State = dict[str, dict[str, torch.Tensor]]  # of every module, by its name


@dataclass
class _Progress:
    """How far a stage is; a checkpoint holds these fields under these names.

    Fields:
        epoch, step: those to be done next.
        running: metrics summed over this epoch's steps.
        rows: metrics of the finished epochs.
        epoch_seconds: spent on this epoch, also by processes before this one.
        best_top1, best: of the epoch that is chosen so far, and the modules' state after it.
    """

    epoch: int = 0
    step: int = 0
    running: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    epoch_seconds: float = 0.0
    best_top1: float = -1.0
    best: State | None = None

    def note(self, metrics: dict[str, float]) -> None:
        """Count a step and add its metrics."""
        for key, value in metrics.items():
            self.running[key] = self.running.get(key, 0.0) + value
        self.step += 1

    def start_next_epoch(self) -> None:
        """Count an epoch; its steps begin at zero."""
        self.epoch, self.step = self.epoch + 1, 0
        self.running, self.epoch_seconds = {}, 0.0


class _Loop:
    def __init__(
        self,
        stage: Stage,
        train: Split,
        config: LoopConfig,
        runtime: Runtime,
        run: RunFolder | None,
        start_top1: float | None,
    ):
        self.stage, self.train, self.config = stage, train, config
        self.runtime, self.run_folder, self.start_top1 = runtime, run, start_top1
        whole = max(1, len(train) // config.batch_size)
        self.steps = min(whole, config.steps_per_epoch or whole)
        self.done = _Progress()
        self.base_rates = {name: _rates(one) for name, one in stage.optimizers.items()}
        self.saved_at = time.monotonic()
        self.interrupt, self.stopping = Interrupt(), False
        stage.part = runtime.processes.part(min(config.batch_size, len(train)))

    def run(self) -> list[dict[str, Any]]:
        self._restore()
        done = self.done
        if self.start_top1 is not None and done.best is None and done.epoch == 0:
            done.best_top1, done.best = self.start_top1, self._state()
        with self.interrupt, self._averaging():
            while done.epoch < self.config.epochs:
                self._run_epoch()
                self._stop_if_asked()
        self._take_best()
        for module in self.stage.modules.values():
            self.runtime.processes.align(module)
        return done.rows

    def _take_best(self) -> None:
        """Load the best epoch's state; it may be that of before the first one."""
        best, best_top1 = self.done.best, self.done.best_top1
        if best is None:
            return
        if self.start_top1 is not None:
            found = [row["held_out_top1"] for row in self.done.rows]
            if all(top1 < best_top1 for top1 in found):
                say(
                    f"{self.stage.name}: no epoch is as good as the network was before the first "
                    f"one ({best_top1:.1f} % on held-out images), so that is kept"
                )
        for name, module in self.stage.modules.items():
            module.load_state_dict(best[name])

    def _run_epoch(self) -> None:
        config, stage, done = self.config, self.stage, self.done
        stage.start_epoch(done.epoch, done.step)
        loader = self._batches()
        start = time.monotonic() - done.epoch_seconds
        images_left = (self.steps - done.step) * config.batch_size
        with progress_bar(self._title(), images_left, "images") as bar:
            for pixels, labels in loader:
                self._set_learning_rate()
                place = (done.epoch, done.step)
                draw = stream(config.seed, "augmentation", *place, 0)
                layers = stream_seed(config.seed, "dropout", *place, stage.part.rank)
                seed_layers(layers, self.runtime.device)
                self.here = len(labels)
                metrics = self._over_all(stage.step(pixels, labels, draw, done.step))
                self._check_finite(metrics, f"epoch {done.epoch + 1}, step {done.step + 1}")
                done.note(metrics)
                bar.advance(config.batch_size, f"loss {done.running['loss'] / done.step:.3f}")
                done.epoch_seconds = time.monotonic() - start
                if done.step >= self.steps:
                    break
                if self.stopping or time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
                    self._save()
                self._stop_if_asked()
        self._end_epoch(start)

    @contextmanager
    def _averaging(self) -> Iterator[None]:
        """Optimizers step by the mean of all processes' gradients."""
        stage, processes = self.stage, self.runtime.processes

        def average(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            learned = [one for group in optimizer.param_groups for one in group["params"]]
            weight = stage.part.weight(self.here)
            processes.average([parameter.grad for parameter in learned], weight)

        alone = processes.count == 1 or stage.joined
        optimizers = [] if alone else stage.optimizers.values()
        handles = [optimizer.register_step_pre_hook(average) for optimizer in optimizers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _over_all(self, metrics: dict[str, float]) -> dict[str, float]:
        """A step's metrics over all processes; all stop where one was asked to."""
        processes = self.runtime.processes
        if processes.count == 1:
            self.stopping = self.interrupt.asked
            return metrics
        weight = self.stage.part.weight(self.here) / processes.count
        shared = torch.tensor([float(self.interrupt.asked), *metrics.values()]).double()
        shared[1:] *= weight
        processes.add_up([shared])
        self.stopping = bool(shared[0])
        return dict(zip(metrics, shared[1:].tolist()))

    def _title(self) -> str:
        return f"{self.stage.name} {self.done.epoch + 1}/{self.config.epochs}"

    def _batches(self) -> Batches:
        """This process's share of the batches that are left of the epoch."""
        config, processes = self.config, self.runtime.processes
        return batches(
            self.train.uncropped(),
            config.batch_size,
            seed=config.seed,
            epoch=self.done.epoch,
            start=self.done.step,
            rank=processes.rank,
            world=processes.count,
            order=self.stage.order(self.done.epoch, self.steps, config.batch_size),
        )

    def _stop_if_asked(self) -> None:
        if not self.stopping:
            return
        epoch = min(self.done.epoch + 1, self.config.epochs)
        saved = "" if self.run_folder is None else "; everything is saved, continue it (resume)"
        raise KeyboardInterrupt(f"interrupted in {self.stage.name}, epoch {epoch}{saved}")

    def _check_finite(self, metrics: dict[str, float], place: str) -> None:
        for key, value in metrics.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"{self.stage.name}: {key} is {value} in {place}; "
                    "try a lower learning rate (lr), or precision 'no'"
                )

    def _set_learning_rate(self) -> None:
        steps_done = self.done.epoch * self.steps + self.done.step
        progress = steps_done / (self.config.epochs * self.steps)
        factor = learning_rate_factor(progress, self.config.warmup, self.config.decay)
        for name, optimizer in self.stage.optimizers.items():
            for group, base_rate in zip(optimizer.param_groups, self.base_rates[name]):
                group["lr"] = base_rate * factor

    def _end_epoch(self, start: float) -> None:
        done = self.done
        trained = {f"train_{key}": value / self.steps for key, value in done.running.items()}
        held_out = {f"held_out_{key}": value for key, value in self.stage.evaluate().items()}
        self._check_finite(held_out, f"epoch {done.epoch + 1}")
        seconds = round(time.monotonic() - start, 2)
        row = {
            "stage": self.stage.name,
            "epoch": done.epoch + 1,
            **trained,
            **held_out,
            "seconds": seconds,
        }
        done.rows.append(row)
        numbers = {key: value for key, value in row.items() if isinstance(value, float)}
        shown = ", ".join(f"{key} {value:.4g}" for key, value in numbers.items())
        say(f"{self._title()}: {shown}")
        top1 = held_out.get("held_out_top1")
        if top1 is not None and top1 >= done.best_top1:
            done.best_top1, done.best = top1, self._state()
        done.start_next_epoch()
        if self.run_folder is not None and self.runtime.processes.first:
            self.run_folder.log(row)
        self._save()

    def _state(self) -> State:
        """A copy of the stage's modules as they are."""
        return {name: _copy(module) for name, module in self.stage.modules.items()}

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        if self.run_folder is None or not self.runtime.processes.first:
            return
        stage = self.stage
        state = {
            **vars(self.done),
            "modules": {name: module.state_dict() for name, module in stage.modules.items()},
            "optimizers": {name: one.state_dict() for name, one in stage.optimizers.items()},
        }
        self.run_folder.save_checkpoint(stage.name, state)

    def _restore(self) -> None:
        if self.run_folder is None:
            return
        state = self.run_folder.load_checkpoint(self.stage.name)
        if self.runtime.processes.first and self.run_folder.resumed:
            rows_done = len(state["rows"]) if state else 0
            self.run_folder.keep_metrics(self.stage.name, rows_done)
        if state is None:
            return
        self.done = _Progress(
            state["epoch"],
            state["step"],
            state["running"],
            state["rows"],
            state.get("epoch_seconds", 0.0),
            state["best_top1"],
            state["best"],
        )
        for name, module in self.stage.modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in self.stage.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self.done.epoch < self.config.epochs:
            epoch, step = self.done.epoch + 1, self.done.step + 1
            say(f"resuming {self.stage.name} at epoch {epoch}, step {step}")


def _rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def _copy(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = module.state_dict()
    return {name: tensor.detach().clone() for name, tensor in state.items()}
