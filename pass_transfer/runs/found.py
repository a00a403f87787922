"""What a run's method found, on disk: the channel scores, and the prompt if it has one."""

from __future__ import annotations

import copy
from pathlib import Path

from pass_transfer.arguments import check_path
from pass_transfer.errors import RunError, StorageError
from pass_transfer.files import read_tensors, write_tensors
from pass_transfer.prompts import Prompt
from pass_transfer.runs.files import OLD_PRIOR, PROMPT, SCORES, read_config
from pass_transfer.scoring.method import Found
from pass_transfer.scoring.own_backbone import weights_of
from pass_transfer.scoring.pretrained import PretrainedHypernet
from pass_transfer.training.run_folder import CONFIG


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


def found_in_run(
    hypernet: PretrainedHypernet, trained: PretrainedHypernet, run: str | Path
) -> Found:
    """What a finished run's method found, for the network that it was made for.

    Args:
        hypernet: the run's, with weights of one's own where the run had them.
        trained: the entry as it was trained.

    Raises:
        RunError: no run, one of another entry, or one whose backbone has other weights.
        StorageError: a damaged file.
    """
    check_path("run", run)
    run = Path(run)
    if not (run / CONFIG).is_file():
        raise RunError(f"{run} holds no {CONFIG}; give a run folder of adapt")
    note = read_config(run)
    if note.get("from"):
        raise RunError(
            f"{run} was cut from the finished run {note.get('from_run')}, not from a zoo entry, "
            "whose cuts alone can be foreseen"
        )
    if note.get("fingerprint") != trained.fingerprint():
        raise RunError(
            f"{run} was adapted from another zoo entry ({note.get('entry')}) than "
            f"{trained.name}, or from another version of it"
        )
    if note.get("backbone") != weights_of(hypernet):
        raise RunError(
            f"{run} was adapted from other weights than these; give the checkpoint that it had "
            f"as backbone=, and none where it had none"
        )
    if (run / SCORES).is_file():
        return read_found(run, hypernet.prompt())
    return _found_by_prompt(hypernet, run)


def _found_by_prompt(hypernet: PretrainedHypernet, run: Path) -> Found:
    """The scores of a run of version 0.1, which kept a prompt and what that corrects."""
    if (run / OLD_PRIOR).exists():
        hypernet = hypernet.with_prior(read_tensors(run / OLD_PRIOR))
    prompt = stored_prompt(hypernet.prompt(), run)
    return Found(hypernet.scores(prompt), prompt)
