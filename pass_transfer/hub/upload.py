"""Files to a repository of the Hugging Face hub, in one commit that is read back."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pass_transfer.errors import HubError
from pass_transfer.files import sha256
from pass_transfer.hub.names import check_repository
from pass_transfer.hub.words import quiet, reason

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MESSAGE = "Files of pass-transfer"


def upload(
    repository: str, files: Mapping[str, Path | bytes], *, private: bool = False
) -> dict[str, Any]:
    """Upload files, all or none, and compare their sha-256 with what is there then.

    The repository is made where there is none. One that holds other files is left alone, and a
    public one where `private` is asked for.

    Args:
        repository: "owner/name".
        files: their names there, and where they lie here or what is in them.
        private: whether the repository is to be private.

    Returns:
        "repository", "commit" (a revision for load_pruned), "url", and "files": name to sha-256.

    Raises:
        UsageError: what can be no repository's name.
        HubError: what the hub refused, or did not keep as it was sent.
    """
    name = check_repository(repository)
    digests = {file: _digest(content) for file, content in files.items()}
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    with _said(f"cannot push to {name}"):
        # None, not False: an organisation may make its new repositories private by itself
        api.create_repo(name, private=private or None, exist_ok=True)
        before = _checked(api, name, files, private)
        added = [CommitOperationAdd(file, content) for file, content in files.items()]
        commit = api.create_commit(name, added, commit_message=MESSAGE, parent_commit=before)
    with _said(f"cannot read back what was pushed to {name}"):
        there = _digests_there(api, name, commit.oid, files)
    _compare(name, digests, there)
    url = f"{api.endpoint}/{name}"
    return {"repository": name, "commit": commit.oid, "url": url, "files": digests}


def _digest(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return sha256(content)


@contextmanager
def _said(failure: str) -> Iterator[None]:
    """Raises HubError for whatever the hub's client raises."""
    try:
        with quiet():
            yield
    except HubError:
        raise
    except Exception as error:  # the hub client raises many kinds
        raise HubError(f"{failure}: {reason(error)}") from error


def _checked(api: HfApi, name: str, files: Iterable[str], private: bool) -> str | None:
    """A repository's newest commit. Raises HubError for one that is not to be written to."""
    info = api.model_info(name)
    if private and not info.private:
        raise HubError(
            f"{name} is there already and public; make it private on the hub, or push to another"
        )
    there = {file.rfilename for file in info.siblings or ()}
    odd = sorted(file for file in there - set(files) if not file.startswith("."))
    if odd:
        raise HubError(
            f"{name} holds {odd[0]}, which is none of the files to push; push to another repository"
        )
    return info.sha


def _digests_there(api: HfApi, name: str, commit: str, files: Iterable[str]) -> dict[str, str]:
    """sha-256 of files as the hub has them: its own word for large ones, the rest read again."""
    found = {}
    with tempfile.TemporaryDirectory() as aside:
        for info in api.get_paths_info(name, list(files), revision=commit):
            large = getattr(info, "lfs", None)
            if large is not None:
                found[info.path] = large.sha256
                continue
            path = api.hf_hub_download(name, info.path, revision=commit, local_dir=aside)
            found[info.path] = sha256(path)
    return found


def _compare(name: str, sent: Mapping[str, str], there: Mapping[str, str]) -> None:
    """Raises HubError for a file that did not arrive as it was sent."""
    for file, digest in sent.items():
        if there.get(file) != digest:
            what = "is missing" if file not in there else "has another sha-256"
            raise HubError(f"{file} {what} at {name} after the push; do not use it, push again")
