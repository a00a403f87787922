"""The one training loop: epochs, learning rate, checkpoints, metrics, progress.

A Stage says what a step does; the loop does the rest. All randomness is derived from
(seed, epoch, step), so a checkpoint needs only tensors and counters.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pass_transfer.errors import DivergedError
from pass_transfer.progress import progress_bar, say
from pass_transfer.tasks import Split
from pass_transfer.training.batches import batches, generator
from pass_transfer.training.interrupt import Interrupt
from pass_transfer.training.run_folder import RunFolder
from pass_transfer.training.runtime import Runtime

CHECKPOINT_SECONDS = 60.0  # what a kill may cost


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast.

    Fields:
        epochs: passes over the training images.
        batch_size: images per step, over all processes.
        warmup: share of all steps over which the learning rate rises from zero.
        seed: of order and augmentation.
        steps_per_epoch: fewer steps than a whole pass, if given.
    """

    epochs: int
    batch_size: int = 128
    warmup: float = 0.1
    seed: int = 0
    steps_per_epoch: int | None = None

    @classmethod
    def of_steps(
        cls,
        steps: int,
        images: int,
        batch_size: int,
        *,
        rows: int = 1,
        warmup: float = 0.1,
        seed: int = 0,
    ) -> LoopConfig:
        """A number of steps, whatever the number of images: in `rows` epochs, or in more where one pass over the images has fewer steps; rounded up to whole rows."""
        batch_size = min(batch_size, images)
        rows = max(min(rows, steps), math.ceil(steps / (images // batch_size)))
        return cls(rows, batch_size, warmup, seed, math.ceil(steps / rows))


class Stage(ABC):
    """One stage of training. `modules` and `optimizers` hold all the state it has."""

    name: str
    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]

    @abstractmethod
    def step(
        self, pixels: torch.Tensor, labels: torch.Tensor, draw: torch.Generator, number: int
    ) -> dict[str, float]:
        """Forward, backward and optimizer step on uint8 images (B, 3, S, S); returns metrics with at least "loss".

        `draw` is the step's own source of randomness and `number` its place in the epoch.
        """

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Metrics on held-out images after an epoch; "top1" selects the best epoch, if it is there."""

    def start_epoch(self, epoch: int, step: int) -> None:
        """Called before an epoch's first step (step 0), and before continuing at a later one."""

    def order(self, epoch: int, steps: int, batch_size: int) -> list[torch.Tensor] | None:
        """Positions of each step's images in an epoch, where a stage chooses them itself."""
        return None


def learning_rate_factor(progress: float, warmup: float) -> float:
    """One-cycle shape over progress in [0, 1]: a linear rise over `warmup`, then a cosine to zero."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(1e-9, 1 - warmup)))


def run_stage(
    stage: Stage,
    train: Split,
    config: LoopConfig,
    runtime: Runtime,
    run: RunFolder | None = None,
    start_top1: float | None = None,
) -> list[dict[str, Any]]:
    """Train a stage to its end, or from its last checkpoint to its end.

    Returns one row of metrics per epoch (also in metrics.jsonl). The stage's modules
    end in the state of the epoch with the best held-out "top1" (the later of equal ones), the last one where the
    stage does not select.

    Args:
        start_top1: held-out "top1" before the first epoch, if that state is to be one of those chosen from.

    Raises:
        DivergedError: the loss is no longer a number.
        KeyboardInterrupt: after the step and a checkpoint; its text says how to continue.
    """
    return _Loop(stage, train, config, runtime, run, start_top1).run()


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
        self.stage, self.train, self.config, self.runtime, self.run_folder = (
            stage,
            train,
            config,
            runtime,
            run,
        )
        self.start_top1 = start_top1
        whole = max(1, len(train) // config.batch_size)
        self.steps = min(whole, config.steps_per_epoch or whole)
        self.epoch = self.step = 0
        self.rows: list[dict[str, Any]] = []
        self.best: dict[str, dict[str, torch.Tensor]] | None = None
        self.best_top1 = -1.0
        self.running: dict[str, float] = {}
        self.base = {
            name: [g["lr"] for g in o.param_groups] for name, o in stage.optimizers.items()
        }
        self.saved_at = time.monotonic()
        self.epoch_seconds = 0.0  # spent on this epoch by the processes before
        self.interrupt = Interrupt()

    def run(self) -> list[dict[str, Any]]:
        self._restore()
        if self.start_top1 is not None and self.best is None and not self.epoch:
            self.best_top1, self.best = self.start_top1, self._state()
        with self.interrupt:
            while self.epoch < self.config.epochs:
                self._run_epoch()
                self._stop_if_asked()
        if self.best is not None:
            if self.start_top1 is not None and all(
                row["held_out_top1"] < self.best_top1 for row in self.rows
            ):
                say(
                    f"{self.stage.name}: no epoch is as good as the network was before the first one ({self.best_top1:.1f} % on held-out images), so that is kept"
                )
            for name, module in self.stage.modules.items():
                module.load_state_dict(self.best[name])
        return self.rows

    def _run_epoch(self) -> None:
        config, stage = self.config, self.stage
        stage.start_epoch(self.epoch, self.step)
        world, rank = self.runtime.accelerator.num_processes, self.runtime.accelerator.process_index
        loader = batches(
            self.train,
            config.batch_size,
            seed=config.seed,
            epoch=self.epoch,
            start=self.step,
            rank=rank,
            world=world,
            order=stage.order(self.epoch, self.steps, config.batch_size),
        )
        start = time.monotonic() - self.epoch_seconds
        title = f"{stage.name} {self.epoch + 1}/{config.epochs}"
        with progress_bar(title, (self.steps - self.step) * config.batch_size, "images") as bar:
            for pixels, labels in loader:
                self._set_learning_rate()
                metrics = stage.step(
                    pixels, labels, generator(config.seed, self.epoch, self.step, rank), self.step
                )
                self._note(metrics)
                self.step += 1
                bar.advance(config.batch_size, f"loss {self.running['loss'] / self.step:.3f}")
                self.epoch_seconds = time.monotonic() - start
                if self.step >= self.steps:
                    break
                if self.interrupt.asked or time.monotonic() - self.saved_at > CHECKPOINT_SECONDS:
                    self._save()
                self._stop_if_asked()
        self._end_epoch(start)

    def _stop_if_asked(self) -> None:
        if self.interrupt.asked:
            saved = (
                "" if self.run_folder is None else "; everything is saved, continue with --resume"
            )
            raise KeyboardInterrupt(
                f"interrupted in {self.stage.name}, epoch {min(self.epoch + 1, self.config.epochs)}{saved}"
            )

    def _note(self, metrics: dict[str, float]) -> None:
        self._check_finite(metrics, f"epoch {self.epoch + 1}, step {self.step + 1}")
        for key, value in metrics.items():
            self.running[key] = self.running.get(key, 0.0) + value

    def _check_finite(self, metrics: dict[str, float], place: str) -> None:
        for key, value in metrics.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"{self.stage.name}: {key} is {value} in {place}; try a lower learning rate (--lr) or --precision no"
                )

    def _set_learning_rate(self) -> None:
        progress = (self.epoch * self.steps + self.step) / (self.config.epochs * self.steps)
        factor = learning_rate_factor(progress, self.config.warmup)
        for name, optimizer in self.stage.optimizers.items():
            for group, base in zip(optimizer.param_groups, self.base[name]):
                group["lr"] = base * factor

    def _end_epoch(self, start: float) -> None:
        row = {"stage": self.stage.name, "epoch": self.epoch + 1}
        row |= {f"train_{k}": v / self.steps for k, v in self.running.items()}
        row |= {f"held_out_{k}": v for k, v in self.stage.evaluate().items()}
        self._check_finite(
            {k: v for k, v in row.items() if k.startswith("held_out_")}, f"epoch {self.epoch + 1}"
        )
        row |= {"seconds": round(time.monotonic() - start, 2)}
        self.rows.append(row)
        shown = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, float))
        say(f"{self.stage.name} {self.epoch + 1}/{self.config.epochs}: {shown}")
        if row.get("held_out_top1", -2.0) >= self.best_top1:
            self.best_top1 = row["held_out_top1"]
            self.best = self._state()
        self.epoch, self.step, self.running, self.epoch_seconds = self.epoch + 1, 0, {}, 0.0
        if self.run_folder is not None and self.runtime.accelerator.is_main_process:
            self.run_folder.log(row)
        self._save()

    def _state(self) -> dict[str, dict[str, torch.Tensor]]:
        """A copy of the stage's modules as they are."""
        return {
            n: {k: t.detach().clone() for k, t in m.state_dict().items()}
            for n, m in self.stage.modules.items()
        }

    def _save(self) -> None:
        self.saved_at = time.monotonic()
        if self.run_folder is None or not self.runtime.accelerator.is_main_process:
            return
        self.run_folder.save_checkpoint(
            self.stage.name,
            {
                "epoch": self.epoch,
                "step": self.step,
                "running": self.running,
                "rows": self.rows,
                "epoch_seconds": self.epoch_seconds,
                "best_top1": self.best_top1,
                "best": self.best,
                "modules": {n: m.state_dict() for n, m in self.stage.modules.items()},
                "optimizers": {n: o.state_dict() for n, o in self.stage.optimizers.items()},
            },
        )

    def _restore(self) -> None:
        if self.run_folder is None:
            return
        state = self.run_folder.load_checkpoint(self.stage.name)
        if self.runtime.accelerator.is_main_process and self.run_folder.resumed:
            self.run_folder.keep_metrics(self.stage.name, len(state["rows"]) if state else 0)
        if state is None:
            return
        self.epoch, self.step, self.running, self.rows = (
            state["epoch"],
            state["step"],
            state["running"],
            state["rows"],
        )
        self.epoch_seconds = state.get("epoch_seconds", 0.0)
        self.best_top1, self.best = state["best_top1"], state["best"]
        for name, module in self.stage.modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in self.stage.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self.epoch < self.config.epochs:
            say(f"resuming {self.stage.name} at epoch {self.epoch + 1}, step {self.step + 1}")
