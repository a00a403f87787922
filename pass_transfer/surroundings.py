"""What our code expects around it, whatever the caller has set; and the caller's own again after.

    @as_guest
    def adapt(...): ...

Of torch's state some belongs to a thread: grad and inference mode, autocast, the default device.
Some belongs to the whole process: the default dtype and the random generators. So one call at a
time has them; a second thread's waits.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import ParamSpec, TypeVar

import torch

from pass_transfer.python_state import python_state_kept

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

AUTOCASTS = ("cpu", "cuda", "mps")
SEED = 0  # for what is drawn before a run sets its own

_one_call = threading.RLock()
_to_give_back: ExitStack | None = None  # of the call that has the process's state


def _in_a_new_process() -> None:
    """A process that was forked begins outside of every call, whatever its parent is in."""
    global _one_call, _to_give_back
    _one_call, _to_give_back = threading.RLock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_new_process)


def as_guest(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run a function in our own surroundings.

    Within it: float32 by default, gradients, no autocast, tensors on the CPU, and a generator
    that the caller's seed does not reach. After it, also after an error or Ctrl-C, all of that
    and the number of threads are the caller's again.
    """

    @functools.wraps(function)
    def within(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with _own_process_state(), _own_modes():
            return function(*args, **kwargs)

    return within


def in_own_modes(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run a function in this thread's own modes; for what neither draws nor builds layers.

    No other thread waits for it.
    """

    @functools.wraps(function)
    def within(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with _own_modes():
            return function(*args, **kwargs)

    return within


def keep_generators(device: torch.device) -> None:
    """Let the call that is running give a device's generators back, too.

    To be called before anything is drawn there. The device is started, so that a seed of the
    caller's that still waits for this is in what is given back.
    """
    if _to_give_back is None:
        return
    if device.type == "cuda":
        torch.cuda.init()
        _to_give_back.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
    elif device.type == "mps":
        _to_give_back.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())


@contextmanager
def _own_process_state() -> Iterator[None]:
    """Default dtype and random generator, for one thread at a time; nothing where it has them."""
    global _to_give_back
    with _one_call:
        if _to_give_back is not None:
            yield
            return
        with python_state_kept(), ExitStack() as to_give_back:
            to_give_back.callback(torch.set_default_dtype, torch.get_default_dtype())
            to_give_back.callback(torch.set_rng_state, torch.get_rng_state())
            to_give_back.callback(_set_threads, torch.get_num_threads())
            _to_give_back = to_give_back
            try:
                torch.set_default_dtype(torch.float32)
                torch.default_generator.manual_seed(SEED)
                yield
            finally:
                _to_give_back = None


def _set_threads(count: int) -> None:
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


@contextmanager
def _own_modes() -> Iterator[None]:
    """Gradients, no inference mode, no autocast, and tensors on the CPU, for this thread."""
    with ExitStack() as modes:
        if torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        modes.enter_context(_no_autocast())
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        yield


@contextmanager
def _no_autocast() -> Iterator[None]:
    """Outside of every autocast.

    To turn it off would not do: what it has cast is kept until the outermost one ends, so that
    every step of a training under the caller's would compute with the weights of the first.
    """
    depth = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    if not depth:
        yield
        return
    on = [device for device in AUTOCASTS if torch.is_autocast_enabled(device)]
    for _ in range(depth):
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()
    for device in on:
        torch.set_autocast_enabled(device, False)
    try:
        yield
    finally:
        for device in on:
            torch.set_autocast_enabled(device, True)
        for _ in range(depth):
            torch.autocast_increment_nesting()
