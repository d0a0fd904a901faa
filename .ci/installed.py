"""What a wheel must do in an empty folder: train, be killed, resume, list, export, by command and by Python.

python installed.py      with the interpreter of an environment that has the wheel and nothing else of ours
"""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import distributions
from pathlib import Path

MOST = 85  # packages without extras, ours and pip left out
COMMAND = [str(Path(sysconfig.get_path("scripts")) / "ssl-kd")]
WORDS = [
    "peers={small: resnet8, large: resnet20}",
    "batch_size=128",
    "data.limit=384",
    "threads=1",
    "tracker=none",
]
PYTHON = "import sys; from ssl_kd.train import main; sys.exit(main(sys.argv[1:]))"


def killed_and_resumed(command: list[str], run: str) -> None:
    """Three steps an epoch: killed after the first checkpoint, continued to the end."""
    words = [*command, *WORDS, "epochs=30", f"run={run}"]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    status, deadline = Path(run) / "status.json", time.monotonic() + 300
    while not (status.is_file() and json.loads(status.read_text()).get("saved")):
        assert child.poll() is None, f"{words} ended by itself with {child.returncode}"
        assert time.monotonic() < deadline, "no checkpoint in five minutes"
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    stopped = json.loads(status.read_text())["step"]
    assert 3 <= stopped < 90, stopped
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    print(next(line for line in said.splitlines() if line.startswith(f"run {run}")))
    assert json.loads(status.read_text())["state"] == "done"
    print(f"{run}: killed at step {stopped} of 90, done")


def check_commands() -> None:
    killed_and_resumed([*COMMAND, "train"], "runs/command")
    listed = subprocess.run(
        [*COMMAND, "runs", "format=json"], check=True, capture_output=True, text=True
    ).stdout
    (row,) = map(json.loads, listed.splitlines())
    assert row["run"] == "command" and row["state"] == "done" and row["peers"]["small"]["knn"] > 0.5, row
    subprocess.run([*COMMAND, "export", "run=runs/command", "peer=small"], check=True)
    assert list(Path("runs/command/export").glob("*.safetensors"))


def check_python() -> None:
    killed_and_resumed([sys.executable, "-c", PYTHON], "runs/python")
    import torch

    import ssl_kd
    from ssl_kd.commands.runs import look
    from ssl_kd.data import digits
    from ssl_kd.export import export, read

    rows, _ = look(Path("runs"))
    assert {row.run: row.state for row in rows} == {"command": "done", "python": "done"}
    export("runs/python", peer="small", to="small.safetensors")
    images = digits().test.images[:9]
    run = ssl_kd.load("runs/python")
    network = read("small.safetensors")
    assert run.embed(images, peer="small").shape == (9, 64) and isinstance(network, torch.nn.Module)


def check_packages() -> None:
    names = sorted({found.metadata["Name"] for found in distributions()} - {"ssl-kd", "pip"})
    print(f"{len(names)} packages: {' '.join(names)}")
    assert len(names) <= MOST, f"more than {MOST}"


if __name__ == "__main__":
    assert "site-packages" in __import__("ssl_kd").__file__, "the wheel is to be tested, not a checkout"
    assert not os.listdir(), "start it in an empty folder"
    check_packages()
    check_commands()
    check_python()
