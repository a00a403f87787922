"""The folder of a run that several processes work on: the first one's, and copies of it.

What a process reads back is what it has written, so each needs a folder. The others' are copies of
the first one's, made before anything goes on, and vanish with their process.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pass_transfer.training.processes import Processes
from pass_transfer.training.run_folder import LOCK, RunFolder


def open_folder(
    path: str | Path, config: Mapping[str, Any], processes: Processes, **options: Any
) -> RunFolder:
    """Open a folder for a run; see RunFolder for the other arguments and the errors."""
    if processes.count == 1:
        return RunFolder(path, config, **options)
    if processes.first:
        run = RunFolder(path, config, **options)
    processes.wait()  # it is there
    if not processes.first:
        copy = Path(tempfile.mkdtemp(prefix="pass-transfer-"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        shutil.copytree(path, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns(LOCK))
        run = RunFolder(copy, config, **options | {"resume": True, "force": False})
    processes.wait()  # and all have read it
    return run
