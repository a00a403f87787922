"""Freed memory stays with a process that trains, instead of going back and forth.

Every step of training asks for the same memory again. glibc gives larger pieces back to the system
in between, and each page of them is cleared and mapped anew.
"""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3), and the largest threshold that glibc takes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_PIECE = 32 * 2**20
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, for the whole process; whether it does.

    It can with glibc, so on most Linux systems. Elsewhere nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    kept = mallopt(M_MMAP_THRESHOLD, LARGEST_PIECE), mallopt(M_TRIM_THRESHOLD, NEVER)
    return all(kept)
