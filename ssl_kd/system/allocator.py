"""What the C library does with memory that is freed. glibc only; elsewhere nothing happens."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # glibc's malloc.h
LARGE = 16 << 20  # bytes of a piece that `large_pieces_given_back` is about

_kept = False  # whether keep_freed_memory was called


def keep_freed_memory() -> None:
    """Has the C library keep what is freed, for the next step, instead of giving it back to the system.

    A step on a CPU frees and asks again for gigabytes, in pieces so large that each would be mapped anew and
    filled with zeros, page by page. For the whole process.
    """
    global _kept
    if (libc := _glibc()) is not None:
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        _kept = True


@contextmanager
def large_pieces_given_back() -> Iterator[None]:
    """While inside, pieces of LARGE bytes or more are given back when they are freed, in spite of the above.

    For what asks once for many of them, of many sizes: kept, they leave gaps that nothing else fills.
    """
    libc = _glibc() if _kept else None
    if libc is None:
        yield
        return
    libc.malloc_trim(0)
    libc.mallopt(M_MMAP_THRESHOLD, LARGE)
    libc.mallopt(M_MMAP_MAX, 1 << 16)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, 0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    return libc if hasattr(libc, "mallopt") else None
