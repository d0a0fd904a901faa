"""How many threads and processes decode, and the loop over all images that threads share."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ssl_kd.launch import cores

MOST_PROCESSES = 8
CHUNK = 32  # images per task: handing one to a thread costs as much as decoding a small image

T = TypeVar("T")


def decoding_threads() -> int:
    """Threads that decode a whole data set before training: this process's share of the cores."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def decoding_processes() -> int:
    """Processes that decode while training runs: a core less than the share, from 1 to 8."""
    return max(1, min(MOST_PROCESSES, decoding_threads() - 1))


def in_chunks(work: Callable[[range], T], count: int, threads: int) -> Iterator[T]:
    """`work` of consecutive ranges of 0..count-1, by threads, in order; the first failure ends it."""
    chunks = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, chunks)
