"""Python's own state, as what we import and call leaves it behind: kept, and put back.

Some libraries draw from `random` or add warning filters when they are imported, and some fix
the way in which this program may start processes.
"""

from __future__ import annotations

import multiprocessing
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def python_state_kept() -> Iterator[None]:
    """The random generator, the warning filters and the start method are as before after this."""
    generator = random.getstate()
    start_method = multiprocessing.get_start_method(allow_none=True)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        random.setstate(generator)
        if start_method is None:
            multiprocessing.set_start_method(None, force=True)
