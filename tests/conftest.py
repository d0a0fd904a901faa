"""What all tests share: the data they may use, clean process-wide state, golden inputs."""

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor

from tests import warm

# What the oldest torch cannot do on a CPU; users are told in a sentence, or nothing changes for them.
OLD_TORCH = not hasattr(torch.cpu.Stream, "record_event")
newer_torch = pytest.mark.skipif(OLD_TORCH, reason="this torch cannot")


# Files that take longest, longest first: begun late, one of them would keep the others waiting for it.
LONG = "distributed train cli durable testing study kills monitor export".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file goes to one process as a whole; the longest ones go first."""
    rank = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONG)))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite and folders by several processes; tests and files asked for by name by this one."""
    named = any(".py" in word for word in config.args)
    return 0 if named else min(4, os.cpu_count() or 1)


def pytest_configure(config: pytest.Config) -> None:
    """Of several test processes none takes more than its share of the cores, nor do those it starts.

    A closed terminal ends a training also where the tests themselves were started under nohup.
    """
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if os.environ.get("PYTEST_XDIST_WORKER"):
        count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        share = max(1, (os.cpu_count() or 1) // count)
        os.environ.setdefault("OMP_NUM_THREADS", str(share))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """accelerate keeps its state in class attributes; each test starts without it."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()


@pytest.fixture
def warm_processes():
    """Processes that commands start, and those that are compared, are forked from one that has torch.

    For tests of what comes of them; how they are started, others test.
    """
    with warm.processes():
        yield


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A run in a folder of its own, and afterwards the threads that were set before."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real data sets, where they are unpacked."""
    return Path(os.environ.get("SSL_KD_DATA") or Path.home() / ".cache/ssl_kd/data")


def det(shape: tuple[int, ...], a: float, b: float) -> Tensor:
    """sin(a k + b) over the flat index k: an input that needs no random generator."""
    return torch.sin(a * torch.arange(math.prod(shape), dtype=torch.float64) + b).reshape(shape)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)
