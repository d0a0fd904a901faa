"""The tutorials do what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROTATION = Path(__file__).parent.parent / "docs/tutorials/rotation"
FILES = [ROTATION / "rotation.py", ROTATION / "configs/method/rotation.yaml"]


def test_rotation_prediction_is_at_most_30_lines_outside_the_package():
    assert sum(len(file.read_text().splitlines()) for file in FILES) <= 30


def test_two_peers_that_predict_rotations_teach_each_other_and_learn(tmp_path):
    def train(run: str, epochs: int) -> dict:
        words = [
            "method=rotation",
            f"epochs={epochs}",
            f"run={tmp_path / run}",
            "probe.linear=false",
            "log_every=1",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "ssl_kd", "train", *words, "peers=[resnet8,resnet8]"],
            cwd=ROTATION, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / run / "summary.json").read_text())

    train("a", 6)
    lines = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    first, last = lines[0]["terms"], lines[-1]["terms"]
    assert set(first) == {
        "turn/resnet8_1",
        "turn/resnet8_2",
        "kl/resnet8_1<-resnet8_2",
        "kl/resnet8_2<-resnet8_1",
    }
    assert first["turn/resnet8_1"] > 1.2 and max(last["turn/resnet8_1"], last["turn/resnet8_2"]) < 0.5
