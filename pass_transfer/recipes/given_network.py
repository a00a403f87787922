"""What a small network is made from: a zoo entry's network, weights of one's own, or a run."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pass_transfer.errors import RunError, UsageError
from pass_transfer.files import read_object, sha256
from pass_transfer.hub import HUB_PREFIX, download
from pass_transfer.label_mapping import choose_mapping
from pass_transfer.networks import build_backbone, cut_groups, find_groups, has_classifier
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.progress import say
from pass_transfer.pruned import load_pruned
from pass_transfer.pruned.folder import DESCRIPTION, WEIGHTS
from pass_transfer.scoring.own_backbone import read_backbone, weights_of
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.registry import ChosenMethod, methods_without_hypernet
from pass_transfer.tasks import Task
from pass_transfer.training.run_folder import CONFIG
from pass_transfer.zoo.entry import load_hypernet


@dataclass(frozen=True)
class GivenNetwork:
    """What a small network is made from.

    Fields:
        dense: the network; what is cut is a share of it.
        hypernet: the zoo entry, if it is an entry's architecture.
        class_names: of a run's classifier, in its order.
        identity: what config.json says of it.
    """

    dense: PretrainedBackbone
    hypernet: PretrainedHypernet | None
    class_names: Sequence[str] | None
    identity: Mapping[str, Any]

    def mapping(self, wanted: str, task: Task) -> str:
        """How the task's classifier is made (see Job); says so. Raises UsageError."""
        classes = self.dense.spec.classes
        if self.class_names is not None:
            return self._of_names(wanted, task)
        own = self.hypernet is not None and self.hypernet.own_weights
        if own and wanted not in ("auto", "linear") and not has_classifier(self.dense.module):
            message = "the checkpoint has no classifier whose rows could be mapped; give 'linear'"
            raise UsageError(message, "label_mapping")
        mapping = choose_mapping(wanted, task.classes, classes, own)
        if own and mapping == "linear":
            say("the classifier is a new one, from class means")
        elif own:
            how = "one to one to the task's classes, by what they predict"
            say(f"the classifier's rows are mapped {how}")
        return mapping

    def _of_names(self, wanted: str, task: Task) -> str:
        """The classifier is kept where it is of the task's classes."""
        if wanted == "auto" and self.class_names == task.class_names:
            say(f"the classifier of {self.dense.name} is kept: its classes are the task's")
            return "same"
        mapping = choose_mapping(wanted, task.classes, self.dense.spec.classes)
        if mapping == "linear":
            say("the classifier is a new one, from class means")
        return mapping


def choose_network(
    hypernet: str | Path | PretrainedHypernet | None,
    backbone: str | Path | None,
    from_run: str | Path | None,
) -> GivenNetwork:
    """The network that was asked for.

    Raises:
        UsageError: not exactly one of hypernet and from_run; weights of one's own for a run.
        PassTransferError: see load_hypernet, load_checkpoint and load_pruned.
    """
    if (hypernet is None) == (from_run is None):
        given = "neither is given" if hypernet is None else "both are given"
        raise UsageError(
            "give a zoo entry (hypernet), or a finished run whose network is cut again "
            f"(from_run); {given}"
        )
    if hypernet is not None:
        return _entry(hypernet, backbone)
    if backbone is not None:
        raise UsageError(
            "weights of one's own (backbone) are for a zoo entry's network; a finished run "
            "(from_run) has its own"
        )
    return _finished(str(from_run))


def as_begun(given: GivenNetwork, run: str | Path, resume: bool) -> GivenNetwork:
    """The network as a run that is continued has it: those of before squashed their images."""
    path = Path(run) / CONFIG
    if (
        given.hypernet is None
        or not resume
        or not path.is_file()
        or "preprocessing" in read_object(path)
    ):
        return given
    hypernet = copy.copy(given.hypernet)
    hypernet.dense = given.dense.squashing()
    return dataclasses.replace(given, dense=hypernet.dense, hypernet=hypernet)


def check_method(chosen: ChosenMethod, given: GivenNetwork) -> None:
    """Refuse a method that a network cut before does not take. Raises UsageError."""
    fitting = methods_without_hypernet()
    if given.hypernet is not None or chosen.name in fitting:
        return
    why = "tunes a prompt of its own, which a network that is cut again does not take"
    if chosen.method.needs_hypernet:
        why = "needs a hypernetwork, which fits whole networks, not one that was cut"
    message = f"the method {chosen.name} {why}; choose one of {', '.join(fitting)}"
    raise UsageError(message, "method")


def check_apart(from_run: str | Path, replaced: str | Path) -> None:
    """Refuse to replace the run that is cut again. Raises UsageError."""
    if Path(from_run).resolve().is_relative_to(Path(replaced).resolve()):
        raise UsageError(
            f"{from_run} lies in the run folder, which would be replaced (force); choose another "
            "folder"
        )


def _entry(hypernet: str | Path | PretrainedHypernet, backbone: str | Path | None) -> GivenNetwork:
    trained = hypernet if isinstance(hypernet, PretrainedHypernet) else load_hypernet(hypernet)
    entry = trained if backbone is None else read_backbone(trained, backbone)
    identity = {
        "entry": trained.name,
        "fingerprint": trained.fingerprint(),
        "backbone": weights_of(entry),
    }
    return GivenNetwork(entry.dense, entry, None, identity)


def _finished(run: str) -> GivenNetwork:
    """The small network of a finished run, with its prompt, as the network to cut."""
    folder = run
    if run.startswith(HUB_PREFIX):
        folder = str(download(run, RunError, (DESCRIPTION, WEIGHTS)))
    model = load_pruned(folder)
    network, spec = model.network, model.spec
    whole = find_groups(build_backbone(spec), spec.image_size)
    if set(whole) != set(model.kept):
        odd = sorted(set(whole) ^ set(model.kept))[0]
        raise RunError(
            f"{run} has other channel groups than {spec.architecture} has here ({odd}); it was "
            "made by another version, so adapt from the zoo entry again"
        )
    groups = cut_groups(whole, model.kept)
    dense = PretrainedBackbone(network.backbone, spec, groups, run, network.prompt, model.kept)
    identity = {
        "entry": None,
        "fingerprint": None,
        "backbone": None,
        "from": sha256(Path(folder) / WEIGHTS),
        "from_run": run,
    }
    return GivenNetwork(dense, None, model.class_names, identity)
