"""What a small network is made from: a zoo entry's network, one by its name, or a run's."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pass_transfer.errors import RunError, UsageError
from pass_transfer.files import read_object, sha256
from pass_transfer.hub import HUB_PREFIX, download
from pass_transfer.label_mapping import choose_mapping
from pass_transfer.masking.agreement import check_agreement
from pass_transfer.networks import (
    BackboneSpec,
    build_backbone,
    cut_groups,
    find_groups,
    has_classifier,
)
from pass_transfer.networks.named import named_spec
from pass_transfer.networks.pretrained import PretrainedBackbone
from pass_transfer.networks.weights import fingerprint, is_file, load_dense
from pass_transfer.progress import say
from pass_transfer.pruned import load_pruned
from pass_transfer.pruned.folder import DESCRIPTION, WEIGHTS
from pass_transfer.recipes.options import check_image_size
from pass_transfer.scoring.methods import METHODS
from pass_transfer.scoring.own_backbone import read_backbone, weights_of
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.scoring.registry import ChosenMethod, methods_without_hypernet
from pass_transfer.tasks import Task
from pass_transfer.training.run_folder import CONFIG
from pass_transfer.zoo.entry import load_hypernet


@dataclass(frozen=True)
class NamedModule:
    """A network in memory, with what it takes in and the name that it was registered by."""

    module: nn.Module
    spec: BackboneSpec


@dataclass(frozen=True)
class AskedNetwork:
    """Which network is asked for: exactly one of hypernet, network and from_run.

    Fields:
        hypernet: a zoo name, a folder, or a loaded entry.
        backbone: a .safetensors file with weights of one's own for a zoo entry's architecture.
        from_run: a finished run, whose small network is cut again; a budget is a share of that.
        network, weights: a network by its name, see load_network; or a module with its spec.
        image_size: side of an image in pixels, up to 512; that of the weights without it. An
            entry and a run have one size.

    Raises UsageError for none or several of them, and for what goes with another one.
    """

    hypernet: str | Path | PretrainedHypernet | None = None
    backbone: str | Path | None = None
    from_run: str | Path | None = None
    network: str | NamedModule | None = None
    weights: str | Path | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        names = ("hypernet", "network", "from_run")
        given = [f"{name}=" for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            here = f"{' and '.join(given)} are given" if given else "none is given"
            raise UsageError(
                "give a zoo entry (hypernet), a network by its name (network), or a finished run "
                f"whose network is cut again (from_run); {here}"
            )
        if self.backbone is not None and self.hypernet is None:
            raise UsageError(
                "weights of one's own (backbone) are for a zoo entry's network; a finished run "
                "(from_run) has its own, and a network (network) takes them as (weights)"
            )
        if self.weights is not None and self.network is None:
            raise UsageError(
                "weights= goes with a network by its name (network); a zoo entry and a run have "
                "their own"
            )


@dataclass(frozen=True)
class GivenNetwork:
    """What a small network is made from.

    Fields:
        dense: the network; what is cut is a share of it.
        hypernet: the zoo entry, if it is an entry's architecture.
        class_names: of a run's classifier, in its order.
        identity: what config.json says of it.
        own_weights: whether its weights are from a file of one's own, perhaps for the task.
    """

    dense: PretrainedBackbone
    hypernet: PretrainedHypernet | None
    class_names: Sequence[str] | None
    identity: Mapping[str, Any]
    own_weights: bool = False

    @property
    def network(self) -> str | None:
        """The name that it was asked for by, where it was."""
        return self.identity.get("network")

    def mapping(self, wanted: str, task: Task) -> str:
        """How the task's classifier is made (see Job); says so. Raises UsageError."""
        classes = self.dense.spec.classes
        if self.class_names is not None:
            return self._of_names(wanted, task)
        own = self.own_weights
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


def choose_network(asked: AskedNetwork) -> GivenNetwork:
    """The network that was asked for.

    Raises PassTransferError: see load_hypernet, load_checkpoint, load_network and load_pruned.
    """
    if isinstance(asked.network, NamedModule):
        return module_network(asked.network.module, asked.network.spec)
    if asked.network is not None:
        return named_network(asked.network, asked.weights, asked.image_size)
    if asked.hypernet is not None:
        given = _entry(asked.hypernet, asked.backbone)
    else:
        given = _finished(str(asked.from_run))
    check_image_size(asked.image_size, given.dense.spec.image_size, given.dense.name)
    return given


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


def check_method(chosen: ChosenMethod, asked: AskedNetwork) -> None:
    """Refuse a method that a network without a hypernetwork does not take. Raises UsageError."""
    needs, fitting = chosen.method.needs_hypernet, methods_without_hypernet(chosen.unit)
    if asked.hypernet is not None or chosen.name in fitting:
        return
    if asked.network is not None and not needs:
        return
    why = "tunes a prompt of its own, which a network that is cut again does not take"
    if asked.network is not None:
        why = "needs a hypernetwork: a zoo entry (hypernet) in place of the network's name"
        fitting = tuple(name for name, method in METHODS.items() if not method.needs_hypernet)
    elif needs:
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
    return GivenNetwork(entry.dense, entry, None, identity, entry.own_weights)


def named_network(
    name: str, weights: str | Path | None = None, image_size: int | None = None
) -> GivenNetwork:
    """A network by its name; see load_network."""
    spec, weights = named_spec(name, weights, image_size)
    module, spec = load_dense(spec, weights)
    own = weights is not None and is_file(weights)
    classifier = f"a classifier of {spec.classes} classes"
    if own and not has_classifier(module):
        classifier = "no classifier, so that a new one is made"
    say(f"{spec.architecture} at {spec.image_size} pixels, its weights with {classifier}")
    return module_network(module, spec, None if weights is None else str(weights), own)


def module_network(
    module: nn.Module, spec: BackboneSpec, weights: str | None = None, own: bool = True
) -> GivenNetwork:
    """A network in memory.

    Args:
        weights: where its weights are from, as it is asked for again.
        own: whether they may be the task's.
    """
    groups = find_groups(module, spec.image_size)
    check_agreement(module, groups, spec.image_size)
    takes = dataclasses.asdict(spec)
    identity = {
        "entry": None,
        "fingerprint": None,
        "network": takes.pop("architecture"),
        "backbone": fingerprint(module.state_dict()),
        "inputs": takes,
        "weights_given": weights,
    }
    dense = PretrainedBackbone(module, spec, groups, spec.architecture)
    return GivenNetwork(dense, None, None, identity, own)


def _finished(run: str) -> GivenNetwork:
    """The small network of a finished run, with its prompt, as the network to cut."""
    folder = run
    if run.startswith(HUB_PREFIX):
        folder = str(download(run, RunError, (DESCRIPTION, WEIGHTS)))
    model = load_pruned(folder)
    if model.masks is not None:
        raise RunError(
            f"{run} has single weights that are zeros; a cut of its channels would forget which, "
            "so adapt from the network that it was made from"
        )
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
