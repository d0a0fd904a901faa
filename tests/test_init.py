"""`ssl-kd init`: a starter config for whatever a user's folder is, that composes and trains."""

import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_kd.cli import main
from ssl_kd.commands.init import starter
from ssl_kd.commands.looking import Seen, look
from ssl_kd.config import compose

DRAW = np.random.default_rng(0)


def image(path: Path, width: int = 48, height: int = 40, grey: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if grey else (height, width, 3)
    Image.fromarray(DRAW.integers(0, 256, shape, np.uint8)).save(path)


def flat(root: Path) -> None:
    for i in range(20):
        image(root / f"{i}.png")


def classes(root: Path) -> None:
    for name in ("cat", "dog"):
        for i in range(40):
            image(root / name / f"{i}.png", 90, 70)
    (root / "cat" / "broken.jpg").write_bytes(b"no image")


def split(root: Path) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            for i in range(10):
                image(root / part / name / f"{i}.png", grey=True)


def mixed(root: Path) -> None:
    flat(root)
    image(root / "more" / "a.png")


def tars(root: Path) -> None:
    root.mkdir()
    for shard in range(2):
        with tarfile.open(root / f"t-{shard}.tar", "w") as file:
            for i in range(10):
                png = BytesIO()
                Image.fromarray(DRAW.integers(0, 256, (40, 40, 3), np.uint8)).save(png, "png")
                for name, content in ((f"{i}.png", png.getvalue()), (f"{i}.cls", str(i % 2).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    file.addfile(member, BytesIO(content))


def arrays(root: Path) -> None:
    images = DRAW.integers(0, 256, (60, 28, 28), np.uint8)
    np.savez(root, train_images=images, train_labels=np.arange(60) % 3)


@pytest.mark.parametrize(
    ("make", "place", "kind", "options"),
    [
        (flat, "x", "folder", {"batch_size": 8, "health.every": 50}),
        (classes, "x", "folder", {"hold_out": 0.2, "data.skip_broken": True, "data.size": 64}),
        (split, "x", "folder", {"recipe.hue": 0.0, "recipe.gray": 0.0, "probe.every": 10}),
        (mixed, "x", "folder", {"data.labels": "none"}),
        (tars, "x", "shards", {"data.size": 32}),
        (tars, "x/t-{0..1}.tar", "shards", {"run": "runs/x"}),
        (arrays, "x.npz", "arrays", {"data.size": 28, "hold_out": 0.2}),
    ],
)
def test_a_folder_of_any_kind_gets_a_config_that_builds(make, place, kind, options, own_folder, capsys):
    make(Path("x"))
    assert main(["init", place]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{kind}: ") and "ssl-kd train config=my.yaml dry_run=true" in said
    text = Path("my.yaml").read_text()
    assert text.startswith("# ssl-kd train config=my.yaml\n")
    lines = [line for line in text.splitlines() if line and line[0] != "#"]
    assert all("  # " in line for line in lines if not line.startswith("data: "))  # each says why
    config = compose(["config=my.yaml"])
    assert config.data.name == kind and Path(config.data.get("root") or config.data.path).is_absolute()
    chosen = {line.key: line.value for line in starter(look(place), "cpu")}
    assert options.items() <= chosen.items()
    small = ["peers=[resnet8]", "data.size=16", "dry_run=true", "batch_size=4"]
    assert main(["train", "config=my.yaml", *small]) == 0, capsys.readouterr().err


def test_only_some_images_of_a_large_folder_are_opened(own_folder, monkeypatch):
    for i in range(30):
        image(Path(f"x/{i}.png"), 8, 8)
    monkeypatch.setattr("ssl_kd.commands.looking.LOOKED_AT", 5)
    seen = look("x")
    assert (seen.train, seen.looked, seen.edge) == (30, 5, 8)


def test_a_gpu_and_many_images_get_other_choices():
    many = Seen("folder", {"root": "/x"}, "x", 1_000_000, 0, {}, 300, 200)
    cpu, gpu = ({line.key: line.value for line in starter(many, device)} for device in ("cpu", "cuda"))
    assert cpu["data.limit"] == 50_000 and "data.limit" not in gpu
    assert (cpu["data.size"], gpu["data.size"], gpu["recipe"]) == (64, 224, "simclr_224")
    assert gpu["peers"] == ["resnet18", "resnet18"] and cpu["epochs"] == gpu["epochs"] == 10


def test_a_data_set_of_ours_has_a_starter_too(own_folder):
    assert main(["init", "to=d.yaml"]) == 0 and compose(["config=d.yaml"]).data.name == "digits"
    assert main(["init", "cifar10", "to=c.yaml"]) == 0 and compose(["config=c.yaml"]).data.name == "cifar10"


def test_nothing_is_overwritten_unless_told(own_folder, capsys):
    Path("my.yaml").write_text("mine")
    flat(Path("x"))
    assert main(["init", "x"]) == 2 and Path("my.yaml").read_text() == "mine"
    assert "my.yaml is there already; overwrite=true replaces it" in capsys.readouterr().err
    assert main(["init", "x", "overwrite=true"]) == 0 and "method: dogo" in Path("my.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["photo"], 'there is no folder photo; did you mean "photos"?'),
        (["empty"], "there is no image in empty"),
        (["three"], "3 images are too few to be told apart"),
        (["broken"], "none of the 4 images that were opened can be decoded"),
        (["notes.txt"], "notes.txt is a file; name a folder of images"),
        (["a.npz"], "a.npz is not a readable .npz file"),
        (["photos", "too=x.yaml"], '"too" is not an option of init; did you mean "to"?'),
        (["photos", "to=x"], "to=x names no YAML file"),
        (["photos", "overwrite=1"], "overwrite must be true or false"),
        (["photos", "empty"], "init looks at one folder, not at 2"),
    ],
)
def test_a_wrong_place_is_one_sentence_and_nothing_is_written(words, says, own_folder, capsys):
    flat(Path("photos"))
    Path("empty").mkdir()
    Path("notes.txt").write_text("x")
    Path("a.npz").write_text("x")
    Path("broken").mkdir()
    for i in range(4):
        Path(f"broken/{i}.png").write_text("x")
        if i < 3:
            image(Path(f"three/{i}.png"))
    assert main(["init", *words]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not list(Path().glob("*.yaml"))
