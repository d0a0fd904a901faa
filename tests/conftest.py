"""What all tests share: the data they may use, clean process-wide state, golden inputs."""

import math
import os
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """accelerate keeps its state in class attributes; each test starts without it."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()


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
