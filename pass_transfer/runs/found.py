"""What a run's method found, on disk: the channel scores, and the prompt if it has one."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pass_transfer.arguments import check_path
from pass_transfer.errors import RunError, StorageError
from pass_transfer.files import read_object, read_tensors, write_tensors
from pass_transfer.prompts import Prompt
from pass_transfer.pruned.folder import DESCRIPTION
from pass_transfer.runs.files import OLD_PRIOR, PROMPT, SCORED, SCORES, read_config
from pass_transfer.scoring.method import Found
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.training.run_folder import CONFIG, WORK


def write_found(run: Path, found: Found) -> None:
    """Write scores.safetensors, and prompt.safetensors where there is a prompt."""
    scores = {name: part.detach().cpu().clone() for name, part in found.scores.items()}
    write_tensors(run / SCORES, scores)
    if found.prompt is not None:
        write_tensors(run / PROMPT, found.prompt.state_dict())


def read_found(run: Path, like: Prompt | None, deployed: bool = False) -> Found:
    """What write_found wrote.

    Args:
        like: a prompt of the shape of the method's, if it has one.

    Raises RunError where it is not there, StorageError if damaged.
    """
    if not (run / SCORES).is_file():
        raise RunError(f"{run} holds no {SCORES}; give a run folder of adapt")
    prompt = None
    if like is not None and (run / PROMPT).is_file():
        prompt = stored_prompt(like, run)
    return Found(read_tensors(run / SCORES), prompt, deployed)


def stored_prompt(like: Prompt, run: str | Path) -> Prompt:
    """The prompt that gave a run's masks, of the shape of a given one.

    Raises RunError where there is none, StorageError for one of another shape.
    """
    path, prompt = Path(run) / PROMPT, copy.deepcopy(like)
    if not path.is_file():
        raise RunError(f"{run} holds no {PROMPT}; give a run folder of adapt whose method has one")
    try:
        prompt.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        size = like.size
        raise StorageError(f"{path} is not a prompt for images of {size} pixels") from error
    return prompt


def prompt_like(run: Path, size: int) -> Prompt | None:
    """A prompt of the shape of the one that a run's method found, as far as the run tells."""
    for path in (run / WORK / SCORED, run / DESCRIPTION):
        shape = read_object(path).get("prompt") if path.exists() else None
        if shape is not None:
            return Prompt.from_saved(shape, size)
    return None


def found_in_run(
    identity: Mapping[str, Any], hypernet: PretrainedHypernet | None, run: str | Path
) -> Found:
    """What a finished run's method found, for the network that it was made for.

    Args:
        identity: what config.json says of the network.
        hypernet: the run's, with weights of one's own where the run had them.

    Raises:
        RunError: no run, one of another network, or one whose backbone has other weights.
        StorageError: a damaged file.
    """
    check_path("run", run)
    run = Path(run)
    if not (run / CONFIG).is_file():
        raise RunError(f"{run} holds no {CONFIG}; give a run folder of adapt")
    note = read_config(run)
    if note.get("from"):
        raise RunError(
            f"{run} was cut from the finished run {note.get('from_run')}; only cuts of whole "
            "networks can be foreseen"
        )
    _check_same(note, identity, run)
    if hypernet is None:
        return read_found(run, prompt_like(run, identity["inputs"]["image_size"]))
    if (run / SCORES).is_file():
        return read_found(run, hypernet.prompt())
    return _found_by_prompt(hypernet, run)


def _check_same(note: Mapping[str, Any], identity: Mapping[str, Any], run: Path) -> None:
    """Refuse a run of another network, or of other weights. Raises RunError."""
    if note.get("network") != identity.get("network"):
        then, now = (one.get("network") or one.get("entry") for one in (note, identity))
        raise RunError(f"{run} was adapted from {then}, not from {now}")
    if note.get("fingerprint") != identity["fingerprint"]:
        raise RunError(
            f"{run} was adapted from another zoo entry ({note.get('entry')}) than "
            f"{identity['entry']}, or from another version of it"
        )
    if note.get("backbone") != identity["backbone"]:
        where = "weights=" if identity.get("network") else "backbone="
        raise RunError(
            f"{run} was adapted from other weights than these; give the checkpoint that it had "
            f"as {where}, and none where it had none"
        )
    if note.get("inputs") != json.loads(json.dumps(identity.get("inputs"))):
        raise RunError(f"{run} was adapted at {note['inputs']['image_size']} pixels; give that")


def _found_by_prompt(hypernet: PretrainedHypernet, run: Path) -> Found:
    """The scores of a run of version 0.1, which kept a prompt and what that corrects."""
    if (run / OLD_PRIOR).exists():
        hypernet = hypernet.with_prior(read_tensors(run / OLD_PRIOR))
    prompt = stored_prompt(hypernet.prompt(), run)
    return Found(hypernet.scores(prompt), prompt)
