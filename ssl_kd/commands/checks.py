"""What `ssl-kd doctor` looks at: the machine and what is installed on it. Each check tries what it names."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from ssl_kd.commands.installed import Check, installed
from ssl_kd.errors import InputError
from ssl_kd.launch import cores, free_port, launched

LITTLE = 2 << 30  # bytes of memory or disk, below which there is a note
TALKING = """
import torch, torch.distributed as d
d.init_process_group("gloo", init_method="env://")
x = torch.tensor([d.get_rank() + 1.0])
d.all_reduce(x)
assert x.item() == 3.0
d.destroy_process_group()
"""


def threads(config: DictConfig) -> Iterator[Check]:
    """Cores, what is allowed of them, and who else uses them."""
    said, present = os.environ.get("OMP_NUM_THREADS"), cores()
    quota = _quota()
    if quota is not None and quota < present:
        yield Check(
            "note",
            f"{present} cores are seen, and the container may use {quota:g} of them: "
            f"say threads={max(1, int(quota))}",
        )
    if said and said.isdigit() and int(said) < present and config.threads is None and not launched():
        yield Check(
            "note",
            f"OMP_NUM_THREADS={said} leaves {present - int(said)} of {present} cores idle: unset it, or say "
            f"threads={present}",
        )
    else:
        used = config.threads or (int(said) if said and said.isdigit() else present)
        yield Check("ok", f"{present} cores, {used} threads of torch")
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 1.5 * present:
        yield Check(
            "note", f"others are at work here (load {os.getloadavg()[0]:.1f} on {present} cores): slow"
        )


def precision(config: DictConfig, device: str) -> Iterator[Check]:
    """Which precision a training takes, and why."""
    from ssl_kd.machine import pick_precision

    auto, taken = pick_precision("auto", device), pick_precision(config.precision, device)
    what = "processor" if device == "cpu" else "accelerator"
    has = f"the {what} {'multiplies' if auto == 'bfloat16' else 'does not multiply'} in bfloat16"
    if config.precision == "auto":
        yield Check("ok", f"precision {taken}, since {has}")
    elif taken == "bfloat16" and auto != "bfloat16":
        yield Check("note", f"precision=bfloat16, but {has}: float32 is faster")
    else:
        yield Check("ok", f"precision {taken}, as you say; {has}")


def accelerator(wanted: str) -> Iterator[Check]:
    """Whether what torch finds can be used, by a product of matrices on it."""
    import torch

    from ssl_kd.machine import pick_device

    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    found += ["mps"] if torch.backends.mps.is_available() else []
    for device in found:
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "Apple GPU"
        try:
            ones = torch.ones(64, 64, device=device)
            assert float((ones @ ones).sum()) == 64**3
        except Exception as error:  # drivers fail in many ways
            said = " ".join(str(error).split())[:200]
            yield Check(
                "problem", f"{device} ({name}) is there and cannot be used ({said}); device=cpu works"
            )
            continue
        free = ""
        if device.startswith("cuda"):
            left, whole = torch.cuda.mem_get_info(device)
            free = f", {left / 2**30:.1f} of {whole / 2**30:.1f} GiB free"
        yield Check("ok", f"{device}: {name}{free}; it computes")
    if not found and os.path.exists("/dev/nvidia0"):
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        yield Check(
            "problem",
            f"there is a GPU, and torch, which {built}, cannot use it: compare with the driver (nvidia-smi), "
            "and install the torch that fits it",
        )
    try:
        device = pick_device(wanted)
    except InputError as error:
        yield Check("problem", f"{error}; leave device= out")
        return
    if not found:
        yield Check("ok", "no accelerator: training runs on the CPU")
    elif device == "cpu":
        yield Check("note", "device=cpu, though there is an accelerator")


def launch() -> Iterator[Check]:
    """Two processes are started and add two numbers up."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", TALKING],
            env={**os.environ, **shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = []
    for child in children:
        try:
            errors.append((child.communicate(timeout=120)[1], child.returncode))
        except subprocess.TimeoutExpired:
            errors.append(("they did not find each other within two minutes", 1))
    for child in children:
        child.kill()
        child.wait()
    failed = next((text for text, code in errors if code), None)
    if failed is None:
        yield Check(
            "ok",
            "two processes start and add up over gloo; start several by processes=N or torchrun "
            "(accelerate launch --cpu --num_processes N starts one)",
        )
    else:
        last = (failed.strip().splitlines() or ["no word"])[-1]
        yield Check(
            "problem",
            f"two processes cannot talk over gloo ({last}): allow connections to 127.0.0.1; one works",
        )


def neighbours() -> Iterator[Check]:
    """faiss finds what is nearest."""
    try:
        import faiss
        import numpy as np

        index = faiss.IndexFlatIP(4)
        index.add(np.eye(4, dtype=np.float32))
        assert index.search(np.eye(4, dtype=np.float32), 1)[1].ravel().tolist() == [0, 1, 2, 3]
    except Exception as error:  # a broken wheel may raise anything
        said = " ".join(str(error).split()) or type(error).__name__
        yield Check("problem", f"faiss does not work ({said}): pip install --force-reinstall faiss-cpu")
    else:
        yield Check("ok", f"faiss {installed('faiss-cpu')} finds nearest neighbours")


def compiler(config: DictConfig) -> Iterator[Check]:
    if config.compile and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        yield Check("problem", "compile=true needs a C++ compiler, and there is neither g++ nor clang++")


def disk(folder: Path, needed: int = 0) -> Iterator[Check]:
    """Where the run is to lie: whether it can be written, and whether there is room."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        yield Check("problem", f"nothing can be written to {place} ({error.strerror}): name another run=")
        return
    free = shutil.disk_usage(place).free
    room = f"{free / 2**30:.1f} GiB free in {place}"
    if free < needed:
        yield Check(
            "problem", f"{room}, and the checkpoints take {needed / 2**30:.1f} GiB: name another run="
        )
    elif free < LITTLE:
        yield Check("note", f"{room}: little; keep=1 keeps one checkpoint")
    else:
        yield Check("ok", room)


def _quota() -> float | None:
    """Cores that a container may use at once, where it is limited."""
    try:
        most, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if most == "max" else int(most) / int(period)
    except (OSError, ValueError):
        return None
