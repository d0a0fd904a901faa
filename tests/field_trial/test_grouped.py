"""Near copies of one patient, video or burst: on one side of `hold_out`, and counted where they are not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_kd.build import read_data
from ssl_kd.config import compose
from ssl_kd.data.contents import names
from tests.field_trial.case import Case, check

TINY = [
    *(
        "train",
        "method=simclr",
        "data=folder",
        "data.root=photos",
        "data.size=16",
        "batch_size=4",
        "epochs=1",
    ),
    *("peers={a: {backbone: {name: resnet8, base: 4}}}", "probe.linear=false", "probe.knn=[1]", "run=run"),
    *("probe.baselines=false", "tracker=none", "threads=1", "dry_run=true"),
]
HELD = [*TINY, "hold_out=0.3"]
PATIENTS, EACH = 8, 5


def photos() -> None:
    """photos/train/CLASS/PATIENT/pPATIENT_IMAGE.png: of each patient a burst that hardly differs."""
    for patient in range(PATIENTS):
        noise = np.random.default_rng(patient)
        whole = noise.integers(0, 256, (16, 16, 3))
        place = Path("photos/train", "ab"[patient % 2], f"patient{patient}")
        place.mkdir(parents=True)
        for i in range(EACH):
            near = np.clip(whole + noise.integers(-3, 4, whole.shape), 0, 255).astype(np.uint8)
            Image.fromarray(near).save(place / f"p{patient}_{i}.png")


def with_table(lines: int = PATIENTS * EACH, header: str = "filename,patient"):
    def prepare() -> None:
        photos()
        every = [f"p{patient}_{i}.png,{patient}" for patient in range(PATIENTS) for i in range(EACH)]
        Path("patients.csv").write_text("\n".join([header, *every[:lines][::-1], ""]))

    return prepare


def npz() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    np.savez("data.npz", train_images=images, train_labels=np.arange(20) % 2)
    Path("groups.csv").write_text("\n".join(["index,patient", *(f"x,{i // 4}" for i in range(20)), ""]))


COLUMN = "hold_out_group={file: patients.csv, column: patient}"
NPZ = [*TINY[:2], "data=arrays", "data.path=data.npz", *TINY[5:], "hold_out=0.3", "data.size=8"]


def quiet(printed: str) -> None:
    assert "look almost like" not in printed


def counted(printed: str) -> None:
    assert "12 of 12 held-out images look almost like one in the train split" in printed
    assert "hold_out_group keeps such images together" in printed


CASES = [
    Case("bursts are counted", "100 % by near copies", HELD, None, photos, counted),
    Case("by folder", "patients", [*HELD, "hold_out_group=1"], None, photos, quiet),
    Case("by name", "patients", [*HELD, r"hold_out_group='p(\d+)_'"], None, photos, quiet),
    Case("by column", "patients", [*HELD, COLUMN], None, with_table(), quiet),
    Case(
        "arrays by column",
        "patients",
        [*NPZ, "hold_out_group={file: groups.csv, column: patient}"],
        None,
        npz,
    ),
    Case(
        "arrays by name",
        "no names",
        [*NPZ, "hold_out_group=1"],
        "no names of images; .*file: patients.csv",
        npz,
    ),
    Case("no share", "forgotten", [*TINY, "hold_out_group=1"], "give it as hold_out=0.2", photos),
    Case("one group", "a level too high", [*HELD, "hold_out_group=3"], "all images are of one group", photos),
    Case("no such level", "too many", [*HELD, "hold_out_group=9"], "has no 9 folders above it", photos),
    Case("zero", "no level", [*HELD, "hold_out_group=0"], "is a folder level", photos),
    Case(
        "no match",
        "another pattern",
        [*HELD, "hold_out_group=video"],
        "is not found in 40 of 40 names",
        photos,
    ),
    Case("no pattern", "brackets", [*HELD, "hold_out_group='p('"], "no regular expression", photos),
    Case("no file", "a typing error", [*HELD, COLUMN], "there is no file .*patients.csv", photos),
    Case(
        "no column", "another name", [*HELD, COLUMN], 'no column "patient"', with_table(header="filename,who")
    ),
    Case(
        "short table", "images left out", [*HELD, COLUMN], "does not have 3 of the 40 images", with_table(37)
    ),
    Case(
        "no table", "an image", [*HELD, "hold_out_group={file: x.png, column: a}"], "is one of .csv", photos
    ),
    Case("half said", "no column", [*HELD, "hold_out_group={file: x.csv}"], "is a folder level", photos),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    check(case, capsys)


@pytest.mark.parametrize("by", ["1", r"'p(\d+)_'", "{file: patients.csv, column: patient}"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_no_patient_is_on_both_sides(by, share, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with_table()()
    given = [word for word in TINY[1:] if word != "dry_run=true"]
    data = read_data(compose([*given, f"hold_out={share}", f"hold_out_group={by}"]))
    train, test = ({Path(name).parent.name for name in names(part) or ()} for part in (data.train, data.test))
    assert not train & test and len(train | test) == PATIENTS
    assert abs(len(data.test) - share * PATIENTS * EACH) <= EACH / 2 or len(test) in (1, PATIENTS - 1)
