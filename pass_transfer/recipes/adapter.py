"""One run of adapt: the pipeline's steps, each of which leaves its result in the run folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pass_transfer.files import read_json, write_json
from pass_transfer.latency import measure_latency
from pass_transfer.networks import build_backbone, count_macs, count_parameters
from pass_transfer.networks.network import Network
from pass_transfer.progress import say
from pass_transfer.prompts import Prompt
from pass_transfer.pruned import PrunedModel
from pass_transfer.pruned.folder import WEIGHTS
from pass_transfer.recipes import pipeline
from pass_transfer.recipes.adapt_config import AdaptConfig
from pass_transfer.recipes.dense_network import DenseNetwork, small_epochs
from pass_transfer.recipes.pipeline import Job, Masks, Measured
from pass_transfer.runs.evaluation import Evaluation
from pass_transfer.runs.files import MASKS, PROMPT, RESULT, SCORED, read_result
from pass_transfer.runs.found import prompt_like, read_found, stored_prompt, write_found
from pass_transfer.scoring.method import Found
from pass_transfer.training import RunFolder
from pass_transfer.weight_masks import WeightMasks

LATENCY_BATCHES = (1, 32)


class Adapter:
    """One run of adapt.

    Args:
        job: what is made.
        config: the run's settings.
        folder: where each step leaves its result.
        given_dense: the folder of a dense network that is taken instead of one trained here.
    """

    def __init__(
        self,
        job: Job,
        config: AdaptConfig,
        folder: RunFolder,
        given_dense: Path | None,
    ):
        self.job, self.config, self.folder = job, config, folder
        self.dense = DenseNetwork(job, config, folder, given_dense)

    def run(self) -> dict[str, Any]:
        """Do what is not done yet; returns the content of result.json."""
        result = self.folder.path / RESULT
        if not result.exists():
            write_json(result, self._small())
        elif self.folder.resumed:
            say(f"the small network in {self.folder.path} is already finished")
        if self.dense.compared and read_result(self.folder.path)["dense_top1"] is None:
            figures = self.dense.figures(self._stored_masks(), self._dense_prompt())
            write_json(result, read_result(self.folder.path) | figures)
        self.folder.drop_checkpoints()
        return read_result(self.folder.path)

    def _small(self) -> dict[str, Any]:
        """The small network made, saved and measured; the result but for the dense accuracy."""
        self.job = self.dense.ready()
        found, search_seconds = self._found()
        masks = self._masks(found)
        say(self._kept(masks))
        teacher = self.dense.teacher(masks, self._dense_prompt())
        prompt = pipeline.deployed_prompt(self.job, found)
        job = pipeline.with_epochs(self.job, small_epochs(self.job, self.config, masks))
        network = pipeline.tuned(
            job, masks, prompt, run=self.folder, stage="finetune", teacher=teacher
        )
        return self._measured(network, found, masks, search_seconds)

    def _found(self) -> tuple[Found, float]:
        """What the method finds, and its seconds; as an earlier process left it, if it did."""
        note, start = self.folder.work / SCORED, self.folder.begin("score")
        if not note.exists():
            found = pipeline.score(self.job, self.folder)
            seconds = self.folder.seconds - start
            write_found(self.folder.path, found)
            shape = None if found.prompt is None else found.prompt.shape
            said = {"seconds": seconds, "deployed": found.deployed, "prompt": shape}
            write_json(note, said)
        known = read_json(note)
        stored = read_found(self.folder.path, self._like(), known["deployed"])
        return stored, known["seconds"]

    def _like(self) -> Prompt | None:
        """A prompt of the shape of the method's, as far as the run tells; else the entry's."""
        like = prompt_like(self.folder.path, self.job.dense.spec.image_size)
        if like is not None or self.job.hypernet is None:
            return like
        return self.job.hypernet.prompt()

    def _masks(self, found: Found) -> Masks:
        """The masks within the budget; where it is measured, those that were measured first."""
        path = self.folder.path / MASKS
        if path.exists() and self.job.budget.kind == "latency_ms":
            return self._stored_masks()
        masks = self.job.runtime.processes.as_first(lambda: pipeline.cut(self.job, found))
        masks.save(path)
        return masks

    def _stored_masks(self) -> Masks:
        return self.job.load_masks(self.folder.path / MASKS)

    def _dense_prompt(self) -> nn.Module | None:
        """The prompt that the dense network is compared with: the small one's, if it stays."""
        like = self._like()
        deployed = getattr(self.job.chosen.settings, "deploy_prompt", False)
        if deployed and like is not None and (self.folder.path / PROMPT).exists():
            return stored_prompt(like, self.folder.path)
        return pipeline.deployed_prompt(self.job)

    def _measured(
        self, network: Network, found: Found, masks: Masks, search_seconds: float
    ) -> dict[str, Any]:
        """The network measured and saved; the result but for the dense accuracy."""
        job, folder, size = self.job, self.folder.path, self.job.dense.spec.image_size
        prompt = pipeline.deployed_prompt(job, found)
        dense = job.runtime.place(job.dense.network(None, prompt, job.task.classes))
        measured = pipeline.measure(job, network, masks)
        predictions = measured.test.predictions
        Evaluation.of(job.task.test, predictions, job.task.classes).save(folder)
        say("measuring the latency of both networks")
        batches = sorted({*LATENCY_BATCHES, job.budget.batch})
        latency = self._latency({"small": network, "dense": dense}, batches)
        spec = dataclasses.replace(job.dense.spec, classes=job.task.classes)
        sparse = masks if isinstance(masks, WeightMasks) else None
        kept = job.dense.units(None if isinstance(masks, WeightMasks) else masks)
        PrunedModel(network.cpu(), spec, job.task.class_names, kept, sparse).save(folder)
        return (
            self._result(measured, masks)
            | self._single_weights(masks, dense)
            | {
                "dense_macs": count_macs(dense.cpu(), size),
                "dense_parameters": count_parameters(dense.backbone),
                "latency_ms": {str(batch): ms for batch, ms in latency["small"].items()},
                "dense_latency_ms": {str(batch): ms for batch, ms in latency["dense"].items()},
                "search_seconds": round(search_seconds, 1),
                "seconds": round(self.folder.seconds, 1),
            }
        )

    def _single_weights(self, masks: Masks, dense: Network) -> dict[str, Any]:
        """Of single weights, how many are kept of each, and the size of the file."""
        if not isinstance(masks, WeightMasks):
            return {}
        stored = dense.state_dict().values()
        return {
            "unit": self.job.chosen.unit,
            "sparsity": masks.sparsity,
            "weights_kept": masks.kept,
            "weights": masks.sizes,
            "bytes": (self.folder.path / WEIGHTS).stat().st_size,
            "dense_bytes": sum(tensor.nbytes for tensor in stored),
        }

    def _latency(
        self, networks: dict[str, nn.Module], batches: list[int]
    ) -> dict[str, dict[int, float]]:
        """Milliseconds by network and batch size, on the first process's machine."""
        size = self.job.dense.spec.image_size
        return self.job.runtime.processes.as_first(lambda: measure_latency(networks, size, batches))

    def _result(self, measured: Measured, masks: Masks) -> dict[str, Any]:
        """What was asked, and the small network's figures."""
        task, hypernet = self.job.task, self.job.hypernet
        return {
            "task": task.name,
            "hypernet": None if hypernet is None else hypernet.name,
            "method": self.job.chosen.name,
            "seed": self.job.seed,
            "device": str(self.job.runtime.device),
            "top1": measured.test.top1,
            "top5": measured.test.top5,
            "top1_without_prompt": measured.top1_without_prompt,
            "dense_top1": None,
            "macs": measured.macs,
            "parameters": measured.parameters,
            "channels_kept": self.job.channels_kept(masks),
            "channels": {name: group.width for name, group in self.job.groups.items()},
            "skipped_images": task.skipped,
            "data": task.overview.saved(),
            "images": measured.test.images,
            "dense_seconds": None,
            "run": str(self.folder.path),
        } | self._before()

    def _before(self) -> dict[str, Any]:
        """Of a network asked for by its name, that; of one cut before, its run and whole MACs."""
        if self.job.dense.kept is None:
            named = {"network": self.job.dense.spec.architecture}
            return named if self.job.hypernet is None else {}
        return {"from": self.job.dense.name, "whole_macs": self._whole_macs()}

    def _whole_macs(self) -> int:
        """MACs of the whole architecture with the task's classifier."""
        spec = dataclasses.replace(self.job.dense.spec, classes=self.job.task.classes)
        with torch.device("meta"):
            whole = build_backbone(spec)
        return count_macs(whole, spec.image_size)

    def _kept(self, masks: Masks) -> str:
        """What is left, in words."""
        dense = self.job.dense
        if isinstance(masks, WeightMasks):
            said = f"keeping {1 - masks.sparsity:.1%} of {sum(masks.sizes.values())} weights"
            lost = f"; nothing is left of {', '.join(masks.empty)}" if masks.empty else ""
            return f"{said}, the others are zeros, which make nothing faster by themselves{lost}"
        share = dense.macs_share(masks.kept, self.job.task.classes)
        said = f"keeping {masks.density:.1%} of the channels, {share:.1%} of the dense MACs"
        if dense.kept is None:
            return said
        macs = dense.table.with_classes(self.job.task.classes).macs(masks.kept)
        whole = f"{macs / self._whole_macs():.1%} of a whole {dense.spec.architecture}'s"
        return f"{said}, which are those of {dense.name}, and {whole}"
