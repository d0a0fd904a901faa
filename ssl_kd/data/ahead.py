"""Batches decoded ahead by processes, in order.

None can hold the main process up: it waits in `reading`, so that a signal ends the wait, and with `Progress`,
so that a worker which stands still does. Workers are killed in the end, since a read from a drive that has
gone never returns.
"""

import multiprocessing
import os
import pickle
import queue
import random
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from mmap import mmap
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from ssl_kd.data.waiting import POLL, Progress
from ssl_kd.data.workers import Begin, Name
from ssl_kd.errors import InputError
from ssl_kd.signals import SIGNALS, reading

AHEAD = 2  # batches that each process decodes before they are asked for
FORKS = sys.platform == "linux"  # elsewhere system libraries do not stand it

Task = TypeVar("Task")
# What a task comes to: an array, or None, and whatever belongs to it.
Work = Callable[[Task, Begin], tuple[np.ndarray | None, Any]]


def ahead(
    work: Work[Task], tasks: Iterable[Task], processes: int, name: Name, bytes_each: int = 0
) -> Iterator[tuple[torch.Tensor | None, Any]]:
    """`work` of one task after the other, in order, AHEAD of them begun by each of `processes`.

    processes: 0 for a thread of this process and no work ahead. bytes_each: of the largest array that a task
    comes to, which is handed over in memory of that size; in others' tools that lies in /dev/shm, of which a
    container has 64 MiB, and here it does not. The tensors are the caller's to keep.
    Raises InputError for a process that was ended, or that stands still.
    """
    progress = Progress(max(1, processes), name, "worker")
    if processes == 0:
        yield from _by_thread(work, tasks, progress)
        return
    workers: list[_Worker[Task]] = []
    try:
        for number in range(processes):
            workers.append(_Worker(number, work, progress, bytes_each, workers))
        coming, turn = iter(tasks), cycle(workers)
        begun: deque[_Worker[Task]] = deque()
        for task in islice(coming, AHEAD * processes):
            begun.append(next(turn))
            begun[-1].send(task)
        while begun:
            worker = begun.popleft()
            with reading():
                result = worker.receive(workers)
            for task in islice(coming, 1):
                worker.send(task)
                begun.append(worker)
            yield result
    finally:
        for worker in workers:
            worker.end()


def _by_thread(
    work: Work[Task], tasks: Iterable[Task], progress: Progress
) -> Iterator[tuple[torch.Tensor | None, Any]]:
    asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
    said: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        while (task := asked.get()) is not None:
            try:
                said.put((True, work(task, lambda i: progress.begin(0, i))))
            except BaseException as error:
                said.put((False, error))

    threading.Thread(target=run, name="decode", daemon=True).start()
    try:
        for task in tasks:
            asked.put(task)
            looks = progress.watched(0)
            with reading():
                while True:
                    try:
                        good, value = said.get(timeout=POLL)
                        break
                    except queue.Empty:
                        next(looks)
            if not good:
                raise value
            array, rest = value
            yield None if array is None else torch.from_numpy(array), rest
    finally:
        asked.put(None)


class _Worker(Generic[Task]):
    """A process that does tasks, told one after the other; what they come to is in its own shared memory."""

    def __init__(
        self,
        number: int,
        work: Work[Task],
        progress: Progress,
        bytes_each: int,
        before: "list[_Worker[Task]]",
    ) -> None:
        context: Any = multiprocessing.get_context("fork" if FORKS else "spawn")
        self.number, self.progress, self._sent, self._received = number, progress, 0, 0
        # Mapped by no name, so that it takes no room of any file system; only a fork hands it on.
        self._slots = [mmap(-1, bytes_each) for _ in range(AHEAD)] if FORKS and bytes_each else []
        self._pipe, theirs = context.Pipe()
        ours = [other._pipe for other in before] + [self._pipe]
        given = (number, work, progress if FORKS else None, self._slots, theirs, ours if FORKS else [])
        self._process = context.Process(target=_serve, args=given, daemon=True, name=f"decode-{number}")
        with warnings.catch_warnings():  # Python 3.12 warns of any fork beside torch's threads: it uses none
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
            self._process.start()
        theirs.close()

    def send(self, task: Task) -> None:
        try:
            _send(self._pipe, (self._sent % AHEAD, task))
        except OSError:  # it has ended: who waits for it says so
            pass
        self._sent += 1

    def receive(self, workers: "list[_Worker[Task]]") -> tuple[torch.Tensor | None, Any]:
        """The result of the oldest task."""
        looks, ends = self.progress.watched(self.number), {w._process.sentinel: w for w in workers}
        while not self._pipe.poll():
            for end in wait([self._pipe, *ends], POLL):
                if end in ends and not self._pipe.poll():
                    raise ends[end]._dead()
            next(looks)
        slot = self._received % AHEAD
        self._received += 1
        try:
            kind, shape, value = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._dead() from error
        if kind == "error":
            raise value
        if kind == "slot":
            shared = np.frombuffer(self._slots[slot], shape[0], int(np.prod(shape[1]))).reshape(shape[1])
            return torch.from_numpy(shared.copy()), value
        return (None if shape is None else torch.from_numpy(shape)), value

    def _dead(self) -> InputError:
        self._process.join(1)
        code = self._process.exitcode or 0
        by = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
        return InputError(
            f"a process that decodes images was ended ({self.progress.where(self.number)}; {by}), most "
            "likely for want of memory: take fewer of them by data.workers=, or a smaller batch_size=; the "
            "same command continues"
        )

    def end(self) -> None:
        self._pipe.close()
        self._process.kill()  # it has nothing to save, and may be in a read that never returns
        self._process.join(1)


def _serve(
    number: int,
    work: Work[Any],
    progress: Progress | None,
    slots: list[mmap],
    pipe: Connection,
    others: list[Connection],
) -> None:
    ignore_interrupts()
    for other in others:  # or the end of the main process would not be seen
        other.close()
    torch.set_num_threads(1)  # pools here would fight those of the main process
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)
    begin = (lambda i: progress.begin(number, i)) if progress else (lambda i: None)
    while True:
        try:
            slot, task = pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            array, value = work(task, begin)
        except Exception as error:
            _say(pipe, ("error", None, error))
            continue
        if array is not None and slots and 0 < array.nbytes <= len(slots[slot]):
            np.frombuffer(slots[slot], array.dtype, array.size)[:] = array.reshape(-1)
            _say(pipe, ("slot", (array.dtype, array.shape), value))
        else:
            _say(pipe, ("pipe", array, value))


def _say(pipe: Connection, what: tuple[str, Any, Any]) -> None:
    try:
        _send(pipe, what)
    except OSError:  # nobody listens: the main process has ended
        os._exit(1)
    except Exception as error:  # an exception of a user's own that cannot be pickled
        _send(pipe, ("error", None, RuntimeError(f"{type(what[2]).__name__}: {what[2]} ({error})")))


def _send(pipe: Connection, what: Any) -> None:
    """By value: torch has `Connection.send` put tensors into /dev/shm."""
    pipe.send_bytes(pickle.dumps(what, pickle.HIGHEST_PROTOCOL))


def ignore_interrupts() -> None:
    """Signals reach all processes of a job; the main one decides, and its last step needs its batch."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
