"""Kills runs with SIGKILL, resumes them, and compares what is left with a run that nobody disturbed."""

import hashlib
import json
import signal
import time
from pathlib import Path
from typing import Any

from ssl_kd.status import read as read_status
from tests import warm

TINY = "{backbone: {name: resnet8, base: 4}}"
PAIR = f"peers={{a: {TINY}, b: {TINY}}}"
SHORT = ["batch_size=128", "epochs=4", "threads=1", "precision=float32", "log_every=1", "health.every=5"]
SHORT += ["probe.knn=[1]", "probe.linear=false", "probe.baselines=false", "data.limit=700"]
METHODS = {
    "simclr": ["method=simclr", f"peers={{a: {TINY}}}", "probe.every=1"],
    "accumulated": ["method=simclr", f"peers={{a: {TINY}}}", "accumulate=4", "grad_cache=true"],
    "moco": ["method=moco", f"peers.query={TINY}", "peers.key.backbone={name: resnet8, base: 4}"],
    "dogo": ["method=dogo", PAIR, "probe.every=1", "probe.select=uniformity"],
    "dml": ["method=dml", PAIR],
    "dcm": ["method=dcm", PAIR],
    "ffsd": ["method=ffsd", PAIR],
    "exits": ["method=exits", PAIR],
    "ssl_kd": ["method=ssl_kd", PAIR, "parts=[peers,exits,deepest,fusion,shift,ema]"],
    "workers": ["method=dogo", PAIR, "data=folder", "data.size=16", "data.resident_bytes=0"],
}  # fmt: skip


def images(folder: Path, count: int = 400) -> None:
    """Small PNG files."""
    import numpy as np
    from PIL import Image

    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        place = folder / ("train" if i % 5 else "test") / f"class{i % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i}.png")


def command(name: str, folder: Path, run: str) -> list[str]:
    """`ssl-kd` words that train METHODS[name] in `folder`: about 20 steps, 4 checkpoints."""
    words = [*SHORT, *METHODS[name], f"run={run}"]
    if name == "workers":
        words = [word for word in words if word != "data.limit=700"] + [
            f"data.root={folder / 'images'}",
            "data.workers=2",
        ]
    return ["train", *words]


def left(run: Path) -> dict[str, Any]:
    """What a finished run leaves, without what depends on the time."""
    timed = ("images_per_second", "seconds")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    files = sorted((run / "checkpoints").rglob("*.safetensors"))
    return {
        "metrics": [{k: v for k, v in line.items() if k not in timed} for line in lines],
        "summary": {k: v for k, v in summary.items() if k not in timed},
        "files": {str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files},
    }


def undisturbed(name: str, folder: Path) -> dict[str, Any]:
    """What the run leaves that ends by itself."""
    done = warm.run(*command(name, folder, "whole"), cwd=folder)
    assert done.returncode == 0, done.stderr
    return left(folder / "whole")


def killed(name: str, folder: Path, run: str, whole: dict[str, Any], share: float | None) -> dict[str, Any]:
    """One line for the log: where the run was killed, where it went on, and whether it ends equal.

    share: of the steps, after which, and a part of a step, it is killed; None: while it writes the files
    of a checkpoint.
    """
    child = warm.Command(*command(name, folder, run), cwd=folder)
    place = folder / run
    _until(lambda: (place / "metrics.jsonl").exists(), child)
    if share is None:
        _until(lambda: (place / "checkpoints/last").exists(), child)
        _until(lambda: any((place / "checkpoints/new").glob("*")), child, pause=0.0002)
    else:
        whole_steps, part = divmod(share * _steps(folder / "whole/metrics.jsonl"), 1)
        began = time.monotonic()
        _until(lambda: _steps(place / "metrics.jsonl") >= whole_steps, child)
        time.sleep(part * (time.monotonic() - began) / max(whole_steps, 1))
    child.send_signal(signal.SIGKILL)
    ended = child.wait(timeout=600)
    saving = (place / "checkpoints/new").exists()
    steps = _steps(place / "metrics.jsonl")
    found = {
        "method": name,
        "killed": "while saving" if saving else f"after step {steps}" if ended else "too late",
        "files": sorted(path.name for path in (place / "checkpoints/new").glob("*")) if saving else [],
        "status": (read_status(place) or {})["state"],
    }
    again = warm.run(*command(name, folder, run), cwd=folder)
    assert again.returncode == 0, again.stdout + again.stderr
    resumed = next(line for line in again.stdout.splitlines() if line.startswith(f"run {run}: "))
    now = left(place)
    return {
        **found,
        "resumed": resumed.partition(": ")[2],
        "equal": found["status"] == "killed" and all(now[key] == whole[key] for key in now),
    }


def _steps(path: Path) -> int:
    lines = [line for line in path.read_text().splitlines() if line.endswith("}") and '"loss"' in line]
    return json.loads(lines[-1])["step"] if lines else 0


def _until(true: Any, child: warm.Command, pause: float = 0.005) -> None:
    while not true():
        if child.poll() is not None:
            raise AssertionError("the run ended too early to be killed")
        time.sleep(pause)
