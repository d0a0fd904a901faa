"""How many threads and processes decode, and the loop over all images that threads share.

No thread can hold the main one up: it waits in `reading`, so that a signal ends the wait, and with
`Progress`, so that a thread which stands still does. They are daemons, since a read from a drive that has
gone never returns.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ssl_kd.data.waiting import POLL, Progress
from ssl_kd.launch import cores
from ssl_kd.signals import reading

MOST_PROCESSES = 8
CHUNK = 32  # images per task: handing one to a thread costs as much as decoding a small image

T = TypeVar("T")
Name = Callable[[int], str]
Begin = Callable[[int], None]  # to be told the position of each image before it is read


def decoding_threads() -> int:
    """Threads that decode a whole data set before training: this process's share of the cores."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def decoding_processes() -> int:
    """Processes that decode while training runs: a core less than the share, from 1 to 8."""
    return max(1, min(MOST_PROCESSES, decoding_threads() - 1))


def name_of(source: Any) -> Name:
    """What people call image i of a source."""
    found = getattr(source, "name", None)
    return found if callable(found) else lambda i: f"image {i}"


class Chunk:
    """Consecutive positions, as a range; goes through them with a sign of life for each."""

    def __init__(self, start: int, stop: int, begin: Begin) -> None:
        self.start, self.stop, self._begin = start, stop, begin

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[int]:
        for i in range(self.start, self.stop):
            self._begin(i)
            yield i


class _Ended(Exception):
    """Nobody waits for the work of this thread any more."""


def in_chunks(
    work: Callable[[Chunk], T], count: int, threads: int, name: Name = lambda i: f"image {i}"
) -> Iterator[T]:
    """`work` of consecutive ranges of 0..count-1, by threads, in order; the first failure ends it."""
    starts = list(range(0, count, CHUNK))
    threads = max(1, min(threads, len(starts)))
    progress = Progress(threads, name, "thread")
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: dict[int, tuple[bool, Any]] = {}
    owner: dict[int, int] = {}
    came, ended = threading.Condition(), threading.Event()

    def run(number: int) -> None:
        def begin(i: int) -> None:
            if ended.is_set():
                raise _Ended
            progress.begin(number, i)

        while not ended.is_set():
            try:
                start = todo.get_nowait()
            except queue.Empty:
                return
            owner[start] = number
            result: tuple[bool, Any]
            try:
                result = True, work(Chunk(start, min(start + CHUNK, count), begin))
            except _Ended:
                return
            except BaseException as error:
                result = False, error
            with came:
                done[start] = result
                came.notify_all()

    for start in starts:
        todo.put(start)
    for number in range(threads):
        threading.Thread(target=run, args=(number,), name=f"decode-{number}", daemon=True).start()
    try:
        for start in starts:
            looks: Iterator[None] | None = None
            with reading():
                while start not in done:
                    with came:
                        came.wait_for(lambda start=start: start in done, POLL)  # type: ignore[misc]
                    if start in owner and start not in done:
                        looks = looks or progress.watched(owner[start])
                        next(looks)
            good, value = done.pop(start)
            if not good:
                raise value
            yield value
    finally:
        ended.set()
