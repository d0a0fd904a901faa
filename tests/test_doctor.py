"""`ssl-kd doctor`, and the memory that it estimates."""

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from ssl_kd.cli import main
from ssl_kd.commands import checks, footprint, installed
from ssl_kd.commands.footprint import Footprint
from ssl_kd.config import compose
from ssl_kd.estimate import Need, Record, _blank, _recorded, _scaled, _step, estimate
from ssl_kd.system import network
from ssl_kd.training import assemble

SMALL = "peers={a: {backbone: {name: resnet8, base: 4}}, b: {backbone: {name: resnet8, base: 8}}}"


def states(found) -> list[str]:
    return [check.state for check in found]


def test_a_record_has_the_peak_of_what_was_alive_together():
    with Record() as record:
        a = torch.zeros(1000)
        b = a + 1
        c = b.view(10, 100)  # no memory of its own
        del a
        d = torch.zeros(500) + c.sum()
        del b, c
        e = torch.zeros(2000)
    gc.collect()
    assert record.peak() >= 4 * (500 + 2000) and record.peak() < 4 * (1000 + 500 + 500 + 2000)
    assert record.peak([2 * size for size in record.sizes]) == 2 * record.peak()
    del d, e


@pytest.mark.parametrize("words", [["method=dogo"], ["method=moco"],
                                   ["method=dogo", "accumulate=2", "grad_cache=true"]])  # fmt: skip
def test_two_small_steps_tell_the_peak_of_a_large_one(words, accelerator):
    """Convolutions grow with the batch, similarity matrices with its square."""
    words = words if "method=moco" in words else [*words, SMALL]
    config = compose([*words, "batch_size=64", "precision=float32"])
    config.classes, config.steps = 10, 10
    data = _blank((1, 16, 16), 64, 10)
    parts = assemble(config, accelerator, data)
    _step(parts, config, data, 8)
    small = [_recorded(parts, config, data, size) for size in (8, 16)]
    large = _recorded(parts, config, data, 64)
    predicted = _scaled(small, [8, 16], 64)
    assert predicted == pytest.approx(large.peak(), rel=0.03)
    assert predicted > 3 * small[1].peak()


def test_weights_gradients_and_state_are_counted_exactly(accelerator):
    config = compose(["method=dogo", SMALL, "batch_size=32", "peers.a.frozen=true", "terms.kl.peers=[a,b]"])
    config.classes, config.steps = 10, 10
    need = estimate(config, accelerator, (1, 16, 16), 1000, 200)
    parts = assemble(config, Accelerator(cpu=True), _blank((1, 16, 16), 32, 10))
    whole = sum(t.numel() * t.element_size() for t in [*parts.own.parameters(), *parts.own.buffers()])
    learning = 4 * sum(p.numel() for p in parts.own.peers["b"].parameters())
    assert (need.weights, need.gradients) == (whole, learning)
    assert 2 * learning <= need.optimizer < 2.1 * learning  # AdamW
    assert (
        need.images == 1200 * 256 and need.workers == 0 and need.step > 0 and need.scores > 0 < need.embedding
    )


def test_a_cpu_needs_less_memory_for_a_probe_since_it_embeds_in_parts(accelerator):
    config = compose(["method=dogo", SMALL, "batch_size=32", "probe.batch_size=2048"])
    config.classes, config.steps = 10, 10
    parts, whole = (
        estimate(config, accelerator, (1, 16, 16), 4000, 200, device).embedding for device in ("cpu", "cuda")
    )
    assert 0 < parts < 0.5 * whole  # 512 images of 16 pixels at once, and the views of the others


def test_what_does_not_fit_says_what_to_lower(monkeypatch):
    need = Need(100 << 20, 100 << 20, 200 << 20, 8 << 30, 0, 0, 0, 0)
    found = Footprint(need, 700 << 20, 0, "cpu", 1, 512, 1, "float32")
    assert found.verdict(64 << 30).state == "ok" and "it fits" in found.verdict(64 << 30).what
    assert found.verdict(16 << 30).state == "note"
    worst = found.verdict(8 << 30)
    assert worst.state == "problem" and "it does not fit" in worst.what
    batch = int(re.search(r"batch_size=(\d+) would fit", worst.what)[1])  # type: ignore[index]
    assert 100 < batch < 400 and "accumulate=" in worst.what
    none = Footprint(Need(8 << 30, 8 << 30, 16 << 30, 1 << 20, 0, 0, 0, 0), 0, 0, "cpu", 1, 8, 1, "float32")
    assert "smaller peers" in none.verdict(4 << 30).what


def test_the_commands_are_as_documented(own_folder, capsys, monkeypatch):
    monkeypatch.setattr(checks, "launch", lambda: iter([checks.Check("ok", "launch")]))  # below
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert (
        re.search(r"ok +Python \d.* torch \d.* accelerate \d", out) and "faiss" in out and "precision" in out
    )
    assert main(["doctor", "method=dogo", SMALL, "batch_size=128"]) == 0
    out = capsys.readouterr().out
    assert "1,437 training images of 1 x 8 x 8, 360 to test on, 10 classes" in out
    assert "activations, views and terms of 128 images" in out and "it fits" in out
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["batch_sze=3"], 2, 'did you mean "batch_size"?'),
        (["data=folder", "data.root=nowhere"], 1, "problem  there is no folder"),
        (["device=mps"], 1, "problem  device is mps, but this machine has none that torch can use"),
        (["batch_size=5000"], 1, "a batch of 5000 is larger than that"),
        (["peers=[resnet99]"], 1, 'there is no backbone "resnet99"'),
        (["tracker=nothing"], 1, 'there is no tracker "nothing"'),
        (["data=cifar10", "data.root=empty", SMALL, "batch_size=8"], 0, "train downloads it"),
        (["run=file/a", SMALL], 1, "nothing can be written"),
    ],
)
def test_a_problem_is_a_line_and_an_exit_code(words, code, says, own_folder, capsys, monkeypatch):
    monkeypatch.setattr(checks, "launch", lambda: iter(()))
    Path("file").touch()
    assert main(["doctor", *words]) == code
    said = capsys.readouterr()
    assert says in said.out + said.err


def test_two_processes_really_talk():
    assert states(checks.launch()) == ["ok"]


def test_processes_that_cannot_talk_are_a_problem(monkeypatch):
    monkeypatch.setattr(checks, "TALKING", "raise SystemExit('no way to 127.0.0.1')")
    found = list(checks.launch())
    assert states(found) == ["problem"] and "no way to 127.0.0.1" in found[0].what


def test_threads_that_lie_idle_are_noted(monkeypatch):
    monkeypatch.setattr(checks, "cores", lambda: 8)
    monkeypatch.setattr(os, "getloadavg", lambda: (20.0, 0.0, 0.0))
    monkeypatch.setattr(checks, "_quota", lambda: 1.5)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    texts = [check.what for check in checks.threads(compose([]))]
    assert "say threads=1" in texts[0] and "leaves 6 of 8 cores idle" in texts[1] and "load 20.0" in texts[2]


def test_a_package_of_an_unsupported_version_is_a_problem(monkeypatch):
    monkeypatch.setattr(installed, "installed", lambda name: "1.0" if name == "torch" else None)
    found = [check for check in installed.packages() if check.state == "problem"]
    assert "torch 1.0, and >=2.6 is supported: pip install -U 'torch>=2.6'" in found[0].what
    assert any("is missing" in check.what for check in found)


def test_the_disk_is_asked_for_room(tmp_path, monkeypatch):
    assert states(checks.disk(tmp_path / "runs/a")) == ["ok"]
    assert states(checks.disk(tmp_path / "runs/a", 1 << 60)) == ["problem"]
    monkeypatch.setattr(checks, "LITTLE", 1 << 60)
    assert states(checks.disk(tmp_path / "runs/a")) == ["note"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak as Linux gives it")
def test_the_estimate_is_near_what_a_run_takes(tmp_path):
    """Within 30 %, of the whole process; docs/performance.md has more of them."""
    words = ["method=simclr", "peers=[resnet8]", "batch_size=512", "data.limit=512"]
    code = (
        "import resource, sys; from ssl_kd.cli import main; code = main(sys.argv[1:]);"
        "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )

    def run(*more: str) -> str:
        line = [sys.executable, "-c", code, *more, *words, "run=a"]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False).stdout

    said = run("doctor")
    unit = {"MiB": 1, "GiB": 1024}
    number, of = re.search(r"about ([\d.]+) (\w+) at the peak", said).groups()  # type: ignore[union-attr]
    own = ["epochs=1", "probe.baselines=false", "probe.linear=false", "tracker=none"]
    real = int(re.search(r"peak (\d+)", run("train", *own))[1]) / 1024  # type: ignore[index]
    assert float(number) * unit[of] == pytest.approx(real, rel=0.3)


def test_the_network_is_not_asked():
    import socket

    with network.fenced(), pytest.raises(OSError, match="example.org is not asked"):
        socket.create_connection(("example.org", 80))


def test_bytes_are_shown_in_words():
    assert footprint._shown(3 << 30) == "3.00 GiB" and footprint._shown(5 << 20) == "5 MiB"
