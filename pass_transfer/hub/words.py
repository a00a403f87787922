"""What the hub's client raises, in one line of plain words, without a token."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TOKEN = re.compile(r"\bhf_\w{8,}|(?<=Bearer )\S+")
ANSWERS = {
    401: "it is not there, or the hub does not know you (401); log in with hf auth login, or set "
    "HF_TOKEN",
    403: "your token may not do this (403); take one that may write to this repository",
    404: "it is not there, or your token may not see it (404); look at the name and the revision",
    409: "something else was changing it (409); try again",
    412: "something else changed it meanwhile (412); try again",
    429: "too many requests (429); wait some minutes and try again",
}


def reason(error: BaseException) -> str:
    """Why the hub did not do what it was asked."""
    chain = list(_chain(error))
    for part in chain:
        status = getattr(getattr(part, "response", None), "status_code", None)
        if isinstance(status, int):
            return ANSWERS.get(status, in_words(part))
    return in_words(chain[-1])


def in_words(error: BaseException) -> str:
    """An exception's kind and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = next(filter(None, lines), "")
    return f"{type(error).__name__}: {TOKEN.sub('(a token)', said)}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those it came from, the first one last."""
    part: BaseException | None = error
    while part is not None:
        yield part
        part = part.__cause__


@contextmanager
def quiet() -> Iterator[None]:
    """Without the client's lines on every try; an error says what there is to say.

    Its bars are for a terminal.
    """
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    log = logging.getLogger("huggingface_hub")
    level, bars = log.level, not are_progress_bars_disabled()
    log.setLevel(logging.ERROR)
    if bars and not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    finally:
        log.setLevel(level)
        if bars:
            enable_progress_bars()
