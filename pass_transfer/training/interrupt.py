"""Ctrl-C waits for the end of a step, so that what is saved is the state between two steps."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Interrupt:
    """While it is entered, the first SIGINT sets `asked` and the second one stops at once.

    In a thread other than the main one, where Python sets no signal handlers, nothing changes.
    """

    def __init__(self) -> None:
        self.asked = False
        self._old: Any = None  # the handler that was there before

    def __enter__(self) -> Interrupt:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._old = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)
            self._old = None

    def _note(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt("stopped at once; continue from the last checkpoint (resume)")
        self.asked = True
