"""Two processes with half the batch each equal one with the whole, from the recipe to `fit`."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ssl_kd.distributed import GlobalBatchNorm, global_batch_norm

WORKER = Path(__file__).with_name("worker.py")


def run_workers(processes: int, mode: str, folder: Path) -> dict:
    """What rank 0 of `processes` gloo processes found; every rank's traceback when one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(WORKER.parent.parent),
    }  # fmt: skip
    if processes == 1:
        shared = {"PYTHONPATH": shared["PYTHONPATH"], "OMP_NUM_THREADS": "1"}
    target = folder / f"{mode}-{processes}.pt"
    children = [
        subprocess.Popen(
            [sys.executable, str(WORKER), mode, str(target)],
            env={**os.environ, **shared, **({"RANK": str(r), "LOCAL_RANK": str(r)} if processes > 1 else {})},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for r in range(processes)
    ]  # fmt: skip
    said = [child.communicate(timeout=300)[0] for child in children]
    assert all(child.returncode == 0 for child in children), "\n".join(said)
    return torch.load(target, weights_only=True)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """Gradients of three steps of every method: one process, two, and two whose gather has no gradient."""
    folder = tmp_path_factory.mktemp("gloo")
    return {
        "one": run_workers(1, "right", folder),
        "two": run_workers(2, "right", folder),
        "mutant": run_workers(2, "mutant", folder),
    }


def largest_gap(a: dict, b: dict) -> float:
    """Largest difference over the largest entry, over all steps and parameters."""
    scale = max(float(value.abs().max()) for value in a.values())
    return max(float((a[key] - b[key]).abs().max()) for key in a) / scale


@pytest.mark.parametrize(
    "method", ["simclr", "dogo", "dml", "moco", "cached", "dcm", "ffsd", "kd", "kd_cached", "ssl_kd"]
)
def test_two_processes_with_half_the_batch_equal_one_with_the_whole(found, method):
    one, two = found["one"][method], found["two"][method]
    assert (
        one.keys() == two.keys() and len([k for k in one if k.startswith("2/")]) > 15
    )  # three steps, all parameters
    assert largest_gap(one, two) <= 1e-9


@pytest.mark.parametrize("method", ["simclr", "dogo", "ssl_kd"])
def test_the_comparison_fails_when_the_gathers_gradient_is_removed(found, method):
    assert largest_gap(found["one"][method], found["mutant"][method]) > 1e-3


def test_the_processes_saw_different_images(found):
    rows = found["two"]["rows"]
    assert len(set(rows.flatten().tolist())) == rows.numel() == 32


def test_the_processes_hold_equal_weights_and_statistics_after_three_steps(found):
    assert float(found["two"]["spread"]) == 0


def test_batch_norm_over_one_process_is_batch_norm():
    torch.manual_seed(0)
    x = torch.randn(6, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    plain = nn.BatchNorm2d(4).double()
    other = nn.BatchNorm2d(4).double()
    ours = global_batch_norm(nn.Sequential(other))[0]
    assert isinstance(ours, GlobalBatchNorm) and ours.state_dict().keys() == plain.state_dict().keys()
    for training in (True, False):
        plain.train(training), ours.train(training)
        (a,) = torch.autograd.grad(plain(x).square().sum(), x)
        (b,) = torch.autograd.grad(ours(x).square().sum(), x)
        assert torch.allclose(a, b, rtol=0, atol=1e-10)
    for key, value in plain.state_dict().items():
        assert torch.allclose(value, ours.state_dict()[key])


def test_batch_norm_over_processes_keeps_what_timms_fused_layer_does_after_it():
    import timm

    torch.manual_seed(0)
    net = timm.create_model("mobilenetv3_small_050", num_classes=0)
    x = torch.randn(4, 3, 64, 64)
    state = json.dumps([list(net.state_dict())])
    expected = net(x)
    net.load_state_dict({k: v * 0 if "running" in k else v for k, v in net.state_dict().items()})
    assert json.dumps([list(global_batch_norm(net).state_dict())]) == state
    assert torch.allclose(net(x), expected, atol=1e-5)
