"""The dense network of a run, fine-tuned for the task.

The small network may be cut from it, learn from it, and is compared with it. What is cut or
teaches is read from its files, also by the process that trained it. So a run that is continued
ends with the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from pass_transfer.files import read_json, write_json
from pass_transfer.networks.network import Network
from pass_transfer.recipes import pipeline
from pass_transfer.recipes.adapt_config import AdaptConfig, plan_epochs
from pass_transfer.recipes.pipeline import Job, Masks
from pass_transfer.runs.dense import DENSE, load_dense, save_dense
from pass_transfer.runs.files import COMPARED, DENSE_DONE
from pass_transfer.shrinking.distill import Teacher
from pass_transfer.training import RunFolder, evaluate


class DenseNetwork:
    """The dense network of one run.

    Args:
        job: as the run begins, before the network knows the task.
        config: with dense_epochs the network knows the task before it is cut, and is compared
            after as many more epochs as the small one has. Without, it is fine-tuned as long as
            the small one.
        folder: of the run.
        given: the folder of a dense network that is taken instead of one trained here.
    """

    def __init__(self, job: Job, config: AdaptConfig, folder: RunFolder, given: Path | None):
        self.job, self.config, self.folder, self.given = job, config, folder, given

    @property
    def first(self) -> bool:
        """Whether it knows the task before it is cut."""
        return self.config.dense_epochs > 0

    @property
    def compared(self) -> bool:
        """Whether the result tells its accuracy."""
        if self.first:
            return self.config.with_dense
        return bool(self.config.with_dense or self.config.distill or self.given)

    def ready(self) -> Job:
        """The job that a small network is made by: from the dense one as it is to be cut."""
        if not self.first:
            return self.job
        if self.given is None and not self._note(DENSE_DONE).exists():
            self._learn_the_task()
        return pipeline.from_dense(self.job, self._kept())

    def teacher(self, masks: Masks, prompt: nn.Module | None) -> Teacher | None:
        """The dense network as it teaches, if it does; arguments as of figures."""
        if not self.config.distill:
            return None
        if not self.first:
            self.figures(masks, prompt)
        told = self.config.distill, self.config.temperature, self.job.runtime
        return Teacher.of(self._kept(), *told)

    def figures(self, masks: Masks, prompt: nn.Module | None) -> dict[str, Any]:
        """Its accuracy by the small network's recipe, and the seconds that took. Made once.

        Args:
            masks: of the small network, which has as many epochs.
            prompt: stands before the network, where it is trained here.
        """
        note = self._note(COMPARED if self.first else DENSE_DONE)
        if not note.exists():
            write_json(note, self._compared(masks) if self.first else self._alike(masks, prompt))
        return read_json(note)

    def _learn_the_task(self) -> None:
        """Its epochs before anything is scored or cut."""
        job, folder = pipeline.with_epochs(self.job, self.config.dense_epochs), self.folder
        prompt = pipeline.deployed_prompt(job)
        network = pipeline.tuned(job, None, prompt, run=folder, stage="dense")
        save_dense(network, job.dense, job.task, folder.path / DENSE)
        write_json(self._note(DENSE_DONE), {})

    def _compared(self, masks: Masks) -> dict[str, Any]:
        """The network that was cut, not cut, by the recipe of the small one."""
        start, job = self.folder.begin("compared"), self._for_as_long(self.ready(), masks)
        prompt = pipeline.deployed_prompt(job)
        teacher = self.teacher(masks, prompt)
        network = pipeline.tuned(
            job, None, prompt, run=self.folder, stage="compared", teacher=teacher
        )
        return self._measured(network, start)

    def _alike(self, masks: Masks, prompt: nn.Module | None) -> dict[str, Any]:
        """The given network, or one that is trained as long as the small one, and kept."""
        if self.given is not None:
            network = self.job.runtime.place(load_dense(self.given))
            return self._measured(network, None)
        start, job = self.folder.begin("dense"), self._for_as_long(self.job, masks)
        network = pipeline.tuned(job, None, prompt, run=self.folder, stage="dense")
        figures = self._measured(network, start)
        save_dense(network, job.dense, job.task, self.folder.path / DENSE)
        return figures

    def _for_as_long(self, job: Job, masks: Masks) -> Job:
        return pipeline.with_epochs(job, small_epochs(job, self.config, masks))

    def _measured(self, network: Network, start: float | None) -> dict[str, Any]:
        accuracy = evaluate(network, self.job.task.test, self.job.runtime)
        seconds = None if start is None else round(self.folder.seconds - start, 1)
        return {"dense_top1": accuracy.top1, "dense_seconds": seconds}

    def _kept(self) -> Network:
        return load_dense(self.given or self.folder.path / DENSE)

    def _note(self, name: str) -> Path:
        return self.folder.work / name


def small_epochs(job: Job, config: AdaptConfig, masks: Masks) -> int:
    """Epochs that the effort has for a network under masks."""
    macs = job.dense.table.macs(job.channels_kept(masks))
    return plan_epochs(config, len(job.task.train), macs, job.runtime.device.type)
