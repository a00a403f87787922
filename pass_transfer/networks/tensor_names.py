"""Where a network's tensors lie among those of a file, whatever wrappers stand before their names.

torch.compile writes "_orig_mod.", DataParallel "module.", Lightning "model." or what the user
called it, a training script its own container. What remains behind the right prefix are
exactly the architecture's names, so no list of wrappers is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from pass_transfer.errors import BackboneError

COUNTER = "num_batches_tracked"  # which older checkpoints lack
# What a second copy of the same network is called, which the first one is taken before: as a
# word of a name ("model_ema"), or as a whole one.
COPY_WORDS = {"ema", "momentum", "teacher", "averaged"}
COPY_NAMES = {"encoder_k", "target"}
# What a network for images of another size has more or fewer of, by the ends of their names.
POSITIONS = ("pos_embed", "pos_embedding", "relative_position_bias_table")


@dataclass(frozen=True)
class Architecture:
    """The names and shapes of a network's tensors.

    Fields:
        name: what it is called.
        shapes: of all its tensors.
        head: name of its classifier.
    """

    name: str
    shapes: Mapping[str, torch.Size]
    head: str

    @property
    def body(self) -> list[str]:
        """Names that no checkpoint may lack."""
        return [n for n in self.shapes if not self.in_head(n) and not n.endswith(COUNTER)]

    def in_head(self, name: str) -> bool:
        """Whether a tensor belongs to the classifier."""
        return name.startswith(f"{self.head}.")


@dataclass(frozen=True)
class FoundTensors:
    """A network's tensors in a file.

    Fields:
        state: by the architecture's own names; there may be none of a classifier.
        prefix: what stands before the names in the file.
        left_out: names of other tensors in the file, single numbers aside.
    """

    state: dict[str, torch.Tensor]
    prefix: str
    left_out: list[str]


def find_network(tensors: Mapping[str, torch.Tensor], architecture: Architecture) -> FoundTensors:
    """The tensors that are an architecture's, by its own names.

    Where several networks fit, copies of another (moving averages) come last. Where none fits,
    what comes nearest is given, for the caller to say what is wrong with it.

    Raises:
        BackboneError: several networks that differ, or tensors of another kind of file.
    """
    _refuse_other_kinds(tensors)
    prefixes = _prefixes(tensors, architecture)
    states = {prefix: _behind(tensors, prefix, (), architecture) for prefix in prefixes}
    holding = [prefix for prefix, state in states.items() if _holds(state, architecture)]
    for prefix in holding:
        longer = tuple(p for p in holding if p != prefix and p.startswith(prefix))
        states[prefix] = _behind(tensors, prefix, longer, architecture)
    fitting = [prefix for prefix, state in states.items() if _fits(state, architecture)]
    if not fitting:
        body = set(architecture.body)
        nearest = max(prefixes, key=lambda prefix: len(body & set(states[prefix])))
        return FoundTensors(states[nearest], nearest, [])
    prefix = _first(fitting, states)
    _refuse_larger(prefix, states, architecture)
    others = [n for n, t in tensors.items() if not n.startswith(prefix) and t.numel() > 1]
    return FoundTensors(states[prefix], prefix, others)


def _prefixes(tensors: Iterable[str], architecture: Architecture) -> list[str]:
    """What stands before the architecture's first or last name, wherever it is in the file."""
    found = [""]
    for anchor in (architecture.body[0], architecture.body[-1]):
        for name in tensors:
            prefix = name.removesuffix(anchor)
            if prefix != name and prefix.endswith("."):
                found.append(prefix)
    return list(dict.fromkeys(found))


def _behind(
    tensors: Mapping[str, torch.Tensor],
    prefix: str,
    longer: tuple[str, ...],
    architecture: Architecture,
) -> dict[str, torch.Tensor]:
    """The tensors behind a prefix, but for those behind longer ones.

    A classifier in a Sequential gets the plain one's names.
    """
    own = [n for n in tensors if n.startswith(prefix) and not n.startswith(longer)]
    state = {name.removeprefix(prefix): tensors[name] for name in own}
    own = [name for name in state if architecture.in_head(name)]
    layers = {name.rpartition(".")[0] for name in own}
    leaves = {name.rpartition(".")[2] for name in own}
    if len(layers) == 1 and leaves == {"weight", "bias"}:
        for name in own:
            state[f"{architecture.head}.{name.rpartition('.')[2]}"] = state.pop(name)
    return state


def _fits(state: Mapping[str, torch.Tensor], architecture: Architecture) -> bool:
    """Whether these are exactly the architecture's tensors, whatever the classifier is."""
    return _holds(state, architecture) and not _extra(state, architecture)


def _holds(state: Mapping[str, torch.Tensor], architecture: Architecture) -> bool:
    """Whether the architecture's tensors are among these; positions may be of another size."""
    for name in architecture.body:
        if name not in state:
            return False
        shape, given = architecture.shapes[name], state[name].shape
        if given != shape and not (name.endswith(POSITIONS) and len(given) == len(shape)):
            return False
    return True


def _extra(state: Mapping[str, torch.Tensor], architecture: Architecture) -> list[str]:
    """Names that the architecture does not have."""
    return [n for n in state if n not in architecture.shapes and not architecture.in_head(n)]


def _first(fitting: list[str], states: Mapping[str, Mapping[str, torch.Tensor]]) -> str:
    """The one network to take. Raises BackboneError where it cannot be told."""
    chosen = [prefix for prefix in fitting if not _is_copy(prefix)] or fitting
    first = states[chosen[0]]
    for prefix in chosen[1:]:
        if not _equal(first, states[prefix]):
            named = " and ".join(prefix or "(no prefix)" for prefix in chosen)
            raise BackboneError(
                f"holds several networks whose weights differ, by their names' prefixes {named}; "
                "give a file with one of them"
            )
    return chosen[0]


def _is_copy(prefix: str) -> bool:
    names = set(prefix.lower().split("."))
    words = {word for name in names for word in name.split("_")}
    return bool(words & COPY_WORDS or names & COPY_NAMES)


def _refuse_larger(
    prefix: str, states: Mapping[str, Mapping[str, torch.Tensor]], architecture: Architecture
) -> None:
    """Refuse a file in which the network that fits stands beside another one with more in it."""
    for other, state in states.items():
        extra = _extra(state, architecture)
        if other != prefix and extra and _holds(state, architecture):
            raise BackboneError(
                f"holds several networks: the one behind {prefix or '(no prefix)'} fits, and the "
                f"one behind {other or '(no prefix)'} has other tensors too ({extra[0]}); give a "
                "file with the one that is meant"
            )


def _equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def _refuse_other_kinds(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse additions to a network, and a quantised one."""
    if any("lora_" in name.lower() for name in tensors):
        raise BackboneError(
            "holds LoRA's additions to a network, not a network; merge them into it and give the "
            "state dict of that"
        )
    quantised = [n for n, t in tensors.items() if t.is_quantized or n.endswith("zero_point")]
    if quantised:
        raise BackboneError(
            f"holds a quantised network ({quantised[0]}); give the floating-point one that it was "
            "made from"
        )


def is_pruned(state: Mapping[str, torch.Tensor], architecture: Architecture) -> bool:
    """Whether these are the architecture's tensors with fewer channels."""
    smaller = False
    for name in architecture.body:
        if name not in state:
            return False
        found, whole = tuple(state[name].shape), tuple(architecture.shapes[name])
        if len(found) != len(whole) or found[2:] != whole[2:]:
            return False
        if any(few > many for few, many in zip(found, whole)):
            return False
        smaller = smaller or found != whole
    return smaller
