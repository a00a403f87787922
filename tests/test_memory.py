"""Memory that is freed and asked for again."""

import ctypes
import subprocess
import sys

import pytest

from pass_transfer import memory


def test_the_c_library_is_told_to_keep_what_is_freed(monkeypatch):
    told = {}

    class Library:
        def mallopt(self, name, value):
            told[name] = value
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    assert memory.keep_freed_memory() is True
    assert told == {memory.M_MMAP_THRESHOLD: 32 * 2**20, memory.M_TRIM_THRESHOLD: 2**31 - 1}


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library")
def test_glibc_takes_it():
    code = "from pass_transfer.memory import keep_freed_memory as keep; print(keep())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert memory.keep_freed_memory() is False
