"""Twenty runs of ten trainings, killed at random times and while they save: `pytest tests/long`.

One JSON line each is appended to kills.jsonl in the current folder, or in $SSL_KD_KILLS.
"""

import json
import os
import random
from pathlib import Path

import pytest

from tests.kills import METHODS, images, killed, undisturbed

SEED = int(os.environ.get("SSL_KD_SEED", "0"))


@pytest.mark.parametrize("name", METHODS)
def test_two_kills_of_a_training_change_nothing_of_its_end(name, tmp_path):
    if name == "workers":
        images(tmp_path / "images")
    draw = random.Random(f"{SEED} {name}")
    aimed = list(METHODS).index(name) % 2 == 0  # five of the twenty are killed while they save
    whole = undisturbed(name, tmp_path)
    log = Path(os.environ.get("SSL_KD_KILLS", "kills.jsonl"))
    for number in range(2):
        share = None if aimed and number else draw.uniform(0.05, 0.95)
        found = killed(name, tmp_path, f"cut-{number}", whole, share)
        with open(log, "a") as file:
            file.write(json.dumps({"seed": SEED, "share": share and round(share, 3), **found}) + "\n")
        assert found["equal"], found
