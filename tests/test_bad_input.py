"""Bad input of every sort: one sentence, exit code 2, no traceback, and everything lies as it did before."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from ssl_kd.cli import main

PAIR = "peers={a: resnet8, b: resnet8}"
TINY = "peers={a: {backbone: {name: resnet8, base: 4}}}"
FOLDER = ["data=folder", "data.root=photos", "data.size=16", "batch_size=2", TINY, "method=simclr"]
SHARDS = ["data=shards", "data.path=shards", *FOLDER[2:]]
HUB = ["data=hub", "data.path=hub", *FOLDER[2:]]
ARRAYS = ["data=arrays", "data.path=x.npz", *FOLDER[3:]]
DIGITS = ["train", TINY, "method=simclr"]

Prepare = Callable[[Path], None]  # is given the folder of a finished run, and makes what it needs where it is


@dataclasses.dataclass(frozen=True)
class Bad:
    """Words of a command, what the sentence says (a regular expression), what lies in the folder before."""

    name: str
    words: list[str]
    says: str
    prepare: Prepare = lambda run: None


class Canary:
    """Whoever unpickles it makes a file."""

    def __reduce__(self):
        return open, ("CANARY", "w")


PICKLE = pickle.dumps(Canary(), protocol=2)
TOUCH = "touch CANARY"


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(20, 24, 3)).save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of some hundred bytes that claims to have 2.5 billion pixels."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ]
    chunks = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def photos(**more: bytes) -> Prepare:
    """Four images in the folder photos, and files beside them; "__" in a name is a dot."""

    def prepare(run: Path) -> None:
        Path("photos").mkdir()
        for name, content in {**{f"{i}__png": png() for i in range(4)}, **more}.items():
            Path("photos", name.replace("__", ".")).write_bytes(content)

    return prepare


def arrays(name: str = "x.npz", **content: object) -> Prepare:
    """An .npz file of eight images with labels, and what is given."""
    usual = {"train_images": pixels(8, 8, 8), "train_labels": np.arange(8) % 2}
    kept = {key: value for key, value in {**usual, **content}.items() if value is not None}
    return lambda run: np.savez(name, **kept)  # type: ignore[arg-type]


def tar(*more: tuple[str, bytes], size: int | None = None) -> Prepare:
    """A tar file of four labelled images and more members; size: what the last is said to have."""

    def prepare(run: Path) -> None:
        Path("shards").mkdir()
        images = [
            (f"{i}.{end}", c) for i in range(4) for end, c in (("png", png()), ("cls", b"%d" % (i % 2)))
        ]
        with open("shards/a.tar", "wb") as file:
            for name, content in [*images, *more]:
                member = tarfile.TarInfo(name)
                member.size = len(content) if size is None or (name, content) != more[-1] else size
                file.write(member.tobuf() + content + bytes(-len(content) % 512))
            file.write(bytes(1024))

    return prepare


def parquet(image: dict, label: int = 0) -> Prepare:
    """A data set of four images and one more."""

    def prepare(run: Path) -> None:
        datasets = pytest.importorskip("datasets")
        from pyarrow import parquet

        rows = [*({"bytes": png(), "path": None} for _ in range(4)), image]
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
        schema = datasets.Features(kinds).arrow_schema  # which checks no label
        Path("hub").mkdir()
        table = schema.empty_table().from_pydict({"image": rows, "label": [0, 1, 0, 1, label]}, schema)
        parquet.write_table(table, "hub/train.parquet")

    return prepare


def file(name: str, content: bytes | str) -> Prepare:
    def prepare(run: Path) -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def copied(name: str | None = None, content: bytes | str = b"") -> Prepare:
    """A finished run in runs/a, with a file in it exchanged."""

    def prepare(run: Path) -> None:
        shutil.copytree(run, "runs/a")
        if name is not None:
            file(f"runs/a/{name}", content)(run)

    return prepare


def edited(**values: object) -> Prepare:
    """A finished run in runs/a with another config.yaml; "__" in a key stands for a dot."""

    def prepare(run: Path) -> None:
        shutil.copytree(run, "runs/a")
        path = Path("runs/a/config.yaml")
        config = yaml.safe_load(path.read_text())
        for key, value in values.items():
            *parents, last = key.split("__")
            node = config
            for parent in parents:
                node = node[parent]
            node[last] = value
        path.write_text(yaml.safe_dump(config))

    return prepare


def system(**more: object) -> dict:
    return {"_target_": "os.system", "command": TOUCH, **more}


def payload(run: Path) -> None:
    """A module inside the run folder, which the current folder would make importable."""
    edited(peers__a__backbone={"_target_": "runs.a.payload.Net"})(run)
    for folder in ("runs", "runs/a"):
        Path(folder, "__init__.py").touch()
    Path("runs/a/payload.py").write_text("open('CANARY', 'w')\nclass Net: pass\n")


def linked(run: Path) -> None:
    """What is written before it is renamed would go through a link into a file of the user's."""
    shutil.copytree(run, "runs/a")
    Path("runs/a/eval").mkdir()
    Path("precious.txt").write_text("precious")
    Path("runs/a/eval/knn.json.part").symlink_to(Path("precious.txt").absolute())


def not_finite(run: Path) -> None:
    shutil.copytree(run, "runs/a")
    place = Path("runs/a/checkpoints/last")
    weights = {key: value * float("nan") if value.is_floating_point() else value
               for key, value in load_file(place / "cohort.safetensors").items()}  # fmt: skip
    save_file(weights, place / "cohort.safetensors")
    state = json.loads((place / "state.json").read_text())
    state.pop("files", None)  # the hashes, by which damage is noticed sooner
    (place / "state.json").write_text(json.dumps(state))


def train(*words: str) -> list[str]:
    return ["train", PAIR, "run=runs/new", *words]


OPTIONS = [
    Bad("command", ["tarin"], 'there is no command "tarin"; did you mean "train"'),
    Bad("option", train("epoch=5"), 'did you mean "epochs"'),
    Bad("no-equals-sign", train("epochs"), "options are written key=value"),
    Bad("peer-option", train("peers.a.heds={}"), '"peers.a.heds" is not an option; did you mean "heads"'),
    Bad("head-option", train("peers.a.heads.projection.hiden=1"), 'mean "peers.a.heads.projection.hidden"'),
    Bad("term-option", train("terms.kl.weigth.peak=1"), 'did you mean "terms.kl.weight"'),
    Bad("weight-option", train("terms.kl.weight.paek=1"), 'did you mean "terms.kl.weight.peak"'),
    Bad("recipe-option", train("recipe.scael=[0.1,1]"), 'did you mean "recipe.scale"'),
    Bad("optim-option", train("optim.optimiser.lr=1"), 'did you mean "optim.optimizer"'),
    Bad("optimizer-option", train("optim.optimizer.beta=1"), 'did you mean "optim.optimizer.betas"'),
    Bad("rate-elsewhere", train("optim.optimizer.lr=1"), "the learning rate is optim.rate"),
    Bad(
        "momentum", train("optim=sgd", "optim.optimizer.momentum=2"), "momentum must be a number from 0 to 1"
    ),
    Bad("data-option", train("data.limt=3"), 'did you mean "data.limit"'),
    Bad("probe-option", train("probe.evry=3"), 'did you mean "probe.every"'),
    Bad("a-word-for-a-count", train("epochs=ten"), 'epochs must be a whole number, and "ten" is not'),
    Bad("no-epochs", train("epochs=0"), "epochs must be a whole number, at least 1"),
    Bad("no-batch", train("batch_size=0"), "batch_size must be a whole number, at least 1"),
    Bad("batch-of-a-billion", train("batch_size=1000000000"), "larger than the data set of 1437"),
    Bad("half-a-seed", train("seed=1.5"), "seed must be a whole number"),
    Bad("uneven-parts", train("accumulate=3"), "cannot be split into 3 x 1 equal parts"),
    Bad("no-parts", train("accumulate=0"), "accumulate must be a whole number, at least 1"),
    Bad("clip-below-zero", train("clip=-1"), "clip must be a number above 0 or null"),
    Bad("no-threads", train("threads=0"), "threads must be a whole number from 1 to 1024 or null"),
    Bad("a-million-threads", train("threads=1000000"), "threads must be a whole number from 1 to 1024"),
    Bad("processes-below-zero", train("processes=-1"), "processes must be a whole number from 1"),
    Bad("processes-in-words", train("processes=two"), "processes must be a whole number from 1"),
    Bad("never-saved", train("save_every=0"), "save_every must be a whole number, at least 1"),
    Bad("never-logged", train("log_every=0"), "log_every must be a whole number, at least 1"),
    Bad("held-out-twice", train("hold_out=2"), "must lie between 0 and 1, not 2"),
    Bad("no-neighbours", train("probe.knn=[0]"), "probe.knn must be a list of whole numbers, at least 1"),
    Bad("neighbours-in-words", train("probe.knn=abc"), "probe.knn must be a list of whole numbers"),
    Bad("cold-votes", train("probe.temperature=0"), "probe.temperature must be a number above 0"),
    Bad(
        "cold-loss", train("terms.kl.loss.temperature=0"), "terms.kl.loss.temperature must be a number above"
    ),
    Bad("rate-that-is-none", train("optim.rate.peak=nan"), "optim.rate.peak must be a number, at least 0"),
    Bad("endless-rate", train("optim.rate.peak=inf"), "optim.rate.peak must be a finite number"),
    Bad("rate-in-words", train("optim.rate=fast"), "optim.rate must be a number, at least 0 or a group"),
    Bad(
        "warming-up-for-ever", train("optim.rate.warmup=5"), "optim.rate.warmup must be a number from 0 to 1"
    ),
    Bad("decay-below-zero", train("optim.optimizer.weight_decay=-1"), "torch.optim.AdamW .*weight_decay"),
    Bad("weight-in-words", train("terms.kl.weight=much"), "terms.kl.weight must be a number"),
    Bad("precision", train("precision=fp16"), "can be: auto, float32, bfloat16"),
    Bad("device", train("device=gpu"), "can be: auto, cpu, cuda, mps"),
    Bad("a-gpu-where-there-is-none", train("device=cuda"), "this machine has none that torch can use"),
    Bad("patience", train("health.patience=0"), "health.patience at least 1 look"),
    Bad("peer-outside", train("peers={../../evil: resnet8}"), '"../../evil" cannot name a peer'),
    Bad("peer-called-batch", train("peers={batch: resnet8}"), '"batch" cannot name a peer'),
    Bad("head-with-a-dot", train("peers.a.heads={x.y: {_target_: ssl_kd.heads.mlp}}"), '"x.y" cannot name a'),
    Bad("three-peers", train("peers=3"), 'peers must be .* and "3" is not'),
    Bad("peer-number", train("peers={a: 3}"), "peers.a must be a name or a group of options"),
    Bad("perhaps-frozen", train("peers.a.frozen=maybe"), "peers.a.frozen must be true or false"),
    Bad("rate-of-a-peer", train("peers.a.lr_scale=abc"), "peers.a.lr_scale must be a number, at least 0"),
    Bad("share-of-a-peer", train("peers.a.optim.unnormalised=1"), "the share of one is peers.a.lr_scale"),
    Bad("share-below-0", train("optim.unnormalised=-1"), "optim.unnormalised must be a number, at least 0"),
    Bad("heads-number", train("peers.a.heads=3"), "peers.a.heads must be a group of options"),
    Bad("head-of-nothing", train("peers.a.heads.projection.out=0"), "a head needs out, .* at least 1, not 0"),
    Bad("terms-number", train("terms=3"), "terms must be a group of options"),
    Bad("loss-number", train("terms.kl.loss=3"), "terms.kl.loss is needed"),
    Bad("taken-away", train("~epochs"), '"epochs" is always there and cannot be taken away'),
    Bad("steps", train("steps=5"), "steps is filled in by the data; epochs="),
    Bad("run-without-a-name", train("run="), "run must be a place"),
    Bad("refers-to-nothing", train("run=${nope}"), "refers to what is not there"),
    Bad("one-sided-scale", train("recipe.scale=[0.5]"), "scale must be two rising numbers"),
    Bad("extra-number", train("recipe.extra=3"), "extra must be modules that take images"),
    Bad("size-of-nothing", train("data.size=0"), "data.size must be a whole number, at least 1"),
    Bad("no-such-module", train("terms.kl.loss._target_=nowhere.loss"), "cannot be imported"),
    Bad("no-such-function", train("terms.kl.loss._target_=ssl_kd.losses.los"), "cannot be imported"),
    Bad("target-number", train("terms.kl.loss._target_=3"), "no dotted name"),
    Bad("target-that-cannot-be-called", train("terms.kl.loss._target_=math.pi"), "neither a function nor a"),
]

DATA = [
    Bad("folder-missing", ["train", *FOLDER], "there is no folder .*photos"),
    Bad("folder-empty", ["train", *FOLDER], "there is no image in", lambda run: Path("photos").mkdir()),
    Bad("text-called-jpg", ["train", *FOLDER], r"x.jpg cannot be decoded", photos(x__jpg=b"hello")),
    Bad("image-bomb", ["train", *FOLDER], "bomb.png cannot be decoded .*pixels", photos(bomb__png=bomb())),
    Bad("cut-short", ["train", *FOLDER], "x.png cannot be decoded .*truncated", photos(x__png=png()[:200])),
    Bad("name-of-two-lines", ["train", *FOLDER], r"a\\nb.png cannot", photos(**{"a\nb__png": b"x"})),
    Bad("limit-in-words", ["train", *FOLDER, "data.limit=few"], "limit must be a whole number", photos()),
    Bad("npz-missing", ["train", *ARRAYS], "there is no file"),
    Bad("npz-cut-short", ["train", *ARRAYS], "is not a readable .npz", file("x.npz", b"PK\3\4rest")),
    Bad("npz-pickle", ["train", *ARRAYS], "is not a readable .npz", file("x.npz", PICKLE)),
    Bad("npz-object-images", ["train", *ARRAYS], "train_images cannot be read",
        arrays(train_images=np.array([Canary()] * 8, dtype=object))),
    Bad("npz-object-labels", ["train", *ARRAYS], "train_labels cannot be read",
        arrays(train_labels=np.array([Canary()] * 8, dtype=object))),
    Bad("npz-without-images", ["train", *ARRAYS], "has no train_images; it holds train_l",
        arrays(train_images=None)),
    Bad("npz-empty", ["train", *ARRAYS], "train_images must be", arrays(train_images=pixels(0, 8, 8))),
    Bad("npz-of-four-channels", ["train", *ARRAYS], "1 or 3", arrays(train_images=pixels(8, 8, 8, 4))),
    Bad("npz-nan-pixels", ["train", *ARRAYS], "train_images must be uint8, not float32",
        arrays(train_images=np.full((8, 8, 8), np.nan, np.float32))),
    Bad("npz-fractions-of-pixels", ["train", *ARRAYS], "must be uint8, not float64",
        arrays(train_images=pixels(8, 8, 8) / 255)),
    Bad("npz-too-few-labels", ["train", *ARRAYS], "need as many", arrays(train_labels=np.arange(5))),
    Bad("npz-labels-in-words", ["train", *ARRAYS], "train_labels must be integers",
        arrays(train_labels=np.array(["a", "b"] * 4))),
    Bad("npz-label-below", ["train", *ARRAYS], "train_labels holds the label -2, which is none of",
        arrays(train_labels=np.arange(8) - 2)),
    Bad("npz-label-above", ["train", *ARRAYS], "holds the label 7, which is none of the 2 classes",
        arrays(train_labels=np.arange(8), class_names=["a", "b"])),
    Bad("npz-label-of-a-billion", ["train", *ARRAYS], "holds the label 1000000007, and there can be",
        arrays(train_labels=np.arange(8) + 10**9)),
    Bad("shards-empty", ["train", *SHARDS], "there is no image in", file("shards/a.tar", bytes(1024))),
    Bad("shards-without-image", ["train", *SHARDS], "q.png cannot be decoded", tar(("q.png", b"no"))),
    Bad("shards-text", ["train", *SHARDS], "is not a readable .tar", file("shards/a.tar", b"hello" * 300)),
    Bad("shards-folder", ["train", *SHARDS], "there is no .tar", lambda run: os.makedirs("shards/a.tar")),
    Bad("shards-beyond-the-end", ["train", *SHARDS], "q.png is said to have 1,125,899,906,842,624 bytes",
        tar(("q.png", b"x"), size=1 << 50)),
    Bad("shards-cut-short", ["train", *SHARDS], "is not a readable .tar", tar(("q.png", b"x"), size=5000)),
    Bad("shards-label-below", ["train", *SHARDS], "holds the label -2, which is none",
        tar(("q.png", png()), ("q.cls", b"-2"))),
    Bad("shards-label-of-a-billion", ["train", *SHARDS], "holds the label 999999999, and there can be",
        tar(("q.png", png()), ("q.cls", b"999999999"))),
    Bad("shards-label-in-words", ["train", *SHARDS], "some labels are numbers and some are names",
        tar(("q.png", png()), ("q.cls", b"dog"))),
    Bad("shards-endless-label", ["train", *SHARDS], "q.cls has 2,000,000 bytes, which is no label",
        tar(("q.png", png()), ("q.cls", b"1" * 2_000_000))),
    Bad("shards-deep-json", ["train", *SHARDS], "q.json cannot be read",
        tar(("q.png", png()), ("q.json", b"[" * 200_000))),
    Bad("shards-too-many", ["train", *SHARDS, "data.path=x{0..9999999}.tar"], "stands for more than"),
    Bad("hub-broken", ["train", *HUB], "cannot be read", file("hub/train.parquet", b"PAR1 and no more")),
    Bad("hub-label-above", ["train", *HUB], "holds the label 7, which is none of the 2 classes",
        parquet({"bytes": png(), "path": None}, label=7)),
    Bad("hub-image-elsewhere", ["train", *HUB], r"row 4 .* \(it names /etc/hostname, which is not",
        parquet({"bytes": None, "path": "/etc/hostname"})),
    Bad("hub-image-bomb", ["train", *HUB], "row 4 cannot be decoded .*pixels",
        parquet({"bytes": bomb(), "path": None})),
    Bad("hub-program", ["train", *HUB], "has a program, hub.py", file("hub/hub.py", "open('CANARY', 'w')")),
    Bad("hub-part-elsewhere", ["train", *HUB], r"names a part that is not in it, \.\./other",
        file("hub/dataset_dict.json", '{"splits": ["../other"]}')),
    Bad("labels-missing", [*DIGITS, "labels.file=l.npy"], "there is no file"),
    Bad("labels-object-array", [*DIGITS, "labels.file=l.npy"], "holds more than numbers",
        lambda run: np.save("l.npy", np.array([Canary()] * 9, dtype=object))),
    Bad("labels-pickle", [*DIGITS, "labels.file=l.pt"], "holds more than numbers", file("l.pt", PICKLE)),
    Bad("labels-torch-pickle", [*DIGITS, "labels.file=l.pt"], "holds more than numbers",
        lambda run: torch.save({"label": Canary()}, "l.pt")),
    Bad("labels-too-few", [*DIGITS, "labels.file=l.txt"], "holds 2 lines, and .* has 1437",
        file("l.txt", "0\n1\n")),
    Bad("labels-nan", [*DIGITS, "labels.file=l.txt"], 'says "nan", which is not a whole number',
        file("l.txt", "nan\n" * 1437)),
    Bad("noise-above-one", [*DIGITS, "labels.noise=2"], "labels.noise is a share of the labels"),
    Bad("weights-missing", [*DIGITS, "peers.a.weights=nowhere"], "is not a run folder"),
    Bad("weights-pickle", [*DIGITS, "peers.a.weights=w.pt"], "holds more than tensors", file("w.pt", PICKLE)),
    Bad("weights-torch-pickle", [*DIGITS, "peers.a.weights=w.pt"], "holds more than tensors",
        lambda run: torch.save({"x": Canary()}, "w.pt")),
    Bad("weights-torn", [*DIGITS, "peers.a.weights=w.safetensors"], "cannot be read",
        file("w.safetensors", b"torn")),
    Bad("weights-by-timm", [*DIGITS, "peers.a.backbone={name: convnext_atto, checkpoint_path: w.pt}"],
        "peers.NAME.weights takes a file", file("w.pt", PICKLE)),
]  # fmt: skip

KNN, EXPORT, REPORT = ["knn", "run=runs/a"], ["export", "run=runs/a"], ["report", "run=runs/a"]
CALLED = "which nothing that is read from a run folder may call"

RUNS = [
    Bad("no-run", ["knn"], "run is needed"),
    Bad("run-elsewhere", ["knn", "run=nowhere"], "is not a run folder"),
    Bad("no-config", KNN, "is not a run folder", file("runs/a/x", "")),
    Bad("config-of-nothing", KNN, 'has no "seed"', file("runs/a/config.yaml", "")),
    Bad("config-torn", KNN, "config.yaml cannot be read", copied("config.yaml", "a: [b\n")),
    Bad("config-in-bytes", KNN, "config.yaml cannot be read", copied("config.yaml", b"\0\1\xff")),
    Bad("config-with-a-list", KNN, "has no lines of key: value", copied("config.yaml", "- a\n")),
    Bad("config-with-a-tag", KNN, "it has the tag .*python/object/apply:os.system",
        copied("config.yaml", f"!!python/object/apply:os.system ['{TOUCH}']\n")),
    Bad("config-that-grows", KNN, "it has an alias",
        copied("config.yaml", "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in pairwise("abcdefghij")))),
    Bad("config-too-deep", KNN, "nested too deeply", copied("config.yaml", "a: " + "[" * 9999)),
    Bad("config-reads-a-secret", KNN, "refers to something else by", edited(data__name="${oc.env:HOME}")),
    Bad("config-with-no-peer", KNN, "peers.a must be a name or a group", edited(peers__a=3)),
    Bad("config-leads-out", KNN, 'method must be a name without "/"', edited(method="../../secret")),
    Bad("config-names-a-peer-outside", EXPORT, 'config.yaml: "../x" cannot name a peer',
        edited(peers={"../x": {"backbone": {"_target_": "ssl_kd.backbones.create", "name": "resnet8"}}})),
    Bad("calls-a-shell-as-data", KNN, f'"os.system" .data., {CALLED}$', edited(data=system(name="x"))),
    Bad("calls-a-shell-as-backbone", KNN, f'"os.system" .*{CALLED}$', edited(peers__a__backbone=system())),
    Bad("calls-a-shell-as-head", EXPORT, CALLED, edited(peers__a__heads__projection=system())),
    Bad("calls-a-shell-as-loss", KNN, CALLED, edited(terms__nt_xent__loss=system())),
    Bad("calls-a-shell-deep-inside", ["health", "run=runs/a"], CALLED,
        edited(recipe__extra=[{"_target_": "torch.nn.Identity", "x": {"y": [system()]}}])),
    Bad("calls-a-shell-by-torch", KNN, f'"torch.os.system" .*{CALLED}$',
        edited(peers__a__backbone={"_target_": "torch.os.system", "command": TOUCH})),
    Bad("calls-a-shell-by-ssl_kd", KNN, CALLED,
        edited(peers__a__backbone={"_target_": "ssl_kd.run.subprocess.getoutput", "cmd": TOUCH})),
    Bad("calls-eval", KNN, CALLED,
        edited(peers__a__backbone={"_target_": "builtins.eval", "_args_": ["open('CANARY', 'w')"]})),
    Bad("calls-unpickling", KNN, CALLED,
        edited(peers__a__backbone={"_target_": "torch.load", "f": "w.pt", "weights_only": False})),
    Bad("calls-the-hub", KNN, CALLED, edited(peers__a__backbone={
        "_target_": "torch.hub.load", "repo_or_dir": "runs/a", "model": "x", "source": "local"})),
    Bad("calls-a-training", KNN, CALLED,
        edited(peers__a__backbone={"_target_": "ssl_kd.cli.main", "argv": []})),
    Bad("calls-its-own-module", KNN, r'"runs.a.payload.Net" .*/runs/a/payload.py, line 2 .*not on record',
        payload),
    Bad("names-nothing", KNN, CALLED, edited(peers__a__backbone={"_target_": 3})),
    Bad("weights-elsewhere", KNN, "peers.a.weights.*ssl-kd trust runs/a lets it",
        edited(peers__a__weights="../../etc", peers__a__frozen=True)),
    Bad("link-out-of-it", KNN, "knn.json.part is a link that leads out of the run folder", linked),
    Bad("no-checkpoint", KNN, "has no checkpoint",
        lambda run: shutil.copytree(run, "runs/a", ignore=shutil.ignore_patterns("last"))),
    Bad("checkpoint-torn", KNN, "cohort.safetensors", copied("checkpoints/last/cohort.safetensors", "x")),
    Bad("checkpoint-pickle", KNN, "cohort", copied("checkpoints/last/cohort.safetensors", PICKLE)),
    Bad("checkpoint-state-pickle", KNN, "runs/a", copied("checkpoints/last/state.json", PICKLE)),
    Bad("checkpoint-of-another-network", KNN, "does not fit its config.yaml",
        edited(peers__a__backbone={"_target_": "ssl_kd.backbones.create", "name": "resnet8", "base": 8})),
    Bad("checkpoint-not-finite", [*EXPORT, "peer=a"], "infinite or not a number", not_finite),
    Bad("chosen-that-is-not", [*KNN, "checkpoint=chosen"], "has no chosen checkpoint", copied()),
    Bad("summary-torn", REPORT, "summary.json cannot be read", copied("summary.json", "{")),
    Bad("summary-in-words", REPORT, "peers.a.knn is not what a probe writes",
        copied("summary.json", '{"peers": {"a": {"knn": 3}}}')),
    Bad("metrics-torn", REPORT, "metrics.jsonl cannot be read", copied("metrics.jsonl", '{"step" 1}\n')),
    Bad("metrics-in-words", REPORT, "metrics.jsonl cannot be read",
        copied("metrics.jsonl", '{"step": "x", "epoch": 1}\n')),
    Bad("environment-torn", REPORT, "environment.json cannot be read", copied("environment.json", "{")),
    Bad("probe-file-torn", REPORT, "eval/knn.json cannot be read", copied("eval/knn.json", "{")),
    Bad("knn-of-nothing", [*KNN, "knn=[]"], "k >= 1", copied()),
    Bad("knn-in-the-cold", [*KNN, "temperature=0"], "temperature > 0", copied()),
    Bad("knn-option", [*KNN, "kn=3"], 'is not an option of knn; did you mean "knn"', copied()),
    Bad("few-of-nothing", ["few_labels", *KNN[1:], "shares=[]", "per_class=[]"], "needs an amount", copied()),
    Bad("health-of-one", ["health", "run=runs/a", "images=1"], "images must be at least 2, not 1", copied()),
    Bad("transfer-option", ["transfer", *KNN[1:], "data=digits", "data.limt=3"], "did you mean", copied()),
    Bad("export-into-a-folder", [*EXPORT, "to=runs"], "runs cannot be written", copied()),
    Bad("report-map", [*REPORT, "map=tsne"], "can be: pca, umap", copied()),
    Bad("compare-a-file", ["compare", "x.txt"], "is a file, not a run folder", file("x.txt", "x")),
    Bad("compare-a-torn-summary", ["compare", "runs/a"], "summary.json cannot be read",
        copied("summary.json", "{")),
    Bad("study-torn", ["study", "s.yaml"], "cannot be read", file("s.yaml", "a: [b\n")),
    Bad("study-option", ["study", "s.yaml", "job=2"], 'did you mean "jobs"', file("s.yaml", "groups: {}\n")),
    Bad("timing-of-nothing", ["timing", "measure=0"], "measure must be a whole number of steps"),
    Bad("show-nothing", ["show", "peers=3"], "peers must be"),
]  # fmt: skip

CASES = [*OPTIONS, *DATA, *RUNS]
# These through the real command too: with torch and without, and where a library has said lines of its own.
REAL = [
    "command", "option", "no-such-module", "image-bomb", "labels-pickle", "calls-a-shell-as-backbone",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of a second."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    words = [*DIGITS, "data.limit=64", "batch_size=32", "epochs=1", "probe.linear=false", "probe.knn=[1]"]
    assert main([*words, "probe.baselines=false", f"run={folder}"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _alone(own_folder, monkeypatch, tmp_path_factory):
    monkeypatch.delenv("SSL_KD_TRUST", raising=False)
    try:
        import datasets
    except ImportError:
        return
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def everything(folder: Path = Path(".")) -> dict[str, str]:
    """All that lies in a folder, down to the bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        content = (
            os.readlink(path).encode() if kind == "link" else b"" if kind == "folder" else path.read_bytes()
        )
        found[str(path)] = f"{kind} {hashlib.sha256(content).hexdigest()}"
    return found


def check(bad: Bad, code: int, said: str, before: dict[str, str]) -> None:
    assert code == 2, said
    assert said.startswith("ssl-kd: ") and said.count("\n") == 1 and said.endswith("\n"), said
    assert re.search(bad.says, said.rstrip("\n")) and "Traceback" not in said, said
    assert everything() == before and not Path("CANARY").exists()


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.name)
def test_bad_input_is_refused_in_a_sentence_and_nothing_is_lost(bad, finished, capsys):
    if bad.name == "a-gpu-where-there-is-none" and torch.cuda.is_available():
        pytest.skip("there is one here")
    if bad.words[0] == "report":
        pytest.importorskip("vl_convert")
    bad.prepare(finished)
    before = everything()
    capsys.readouterr()
    code = main(bad.words)
    check(bad, code, capsys.readouterr().err, before)


@pytest.mark.parametrize("name", REAL)
def test_the_command_itself_says_no_more_than_that_sentence(name, finished):
    bad = next(case for case in CASES if case.name == name)
    bad.prepare(finished)
    before = everything()
    command = [Path(sys.executable).parent / "ssl-kd", *bad.words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    check(bad, done.returncode, done.stderr, before)


def test_the_table_is_long_enough_and_its_names_differ():
    names = [bad.name for bad in CASES]
    assert len(set(names)) == len(names) >= 60 and set(REAL) <= set(names) and len(REAL) >= 6


def test_the_canary_sings():
    """Or the tests that say that nothing was unpickled would say nothing."""
    pickle.loads(PICKLE).close()
    assert Path("CANARY").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_no_pickle_is_loaded_from_a_data_set_that_is_made_of_pickles(name, capsys, monkeypatch):
    """torchvision looks at the checksums first; without a network there is nothing to put in their place."""

    def offline(*_, **__):
        raise OSError("there is no network")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    for place in ("cifar-10-batches-py", "cifar-100-python", "FashionMNIST/raw", "FashionMNIST/processed"):
        Path("data", place).mkdir(parents=True)
    batches = [f"data_batch_{i}" for i in range(1, 6)]
    files = [f"cifar-10-batches-py/{name}" for name in (*batches, "test_batch", "batches.meta")]
    files += [f"cifar-100-python/{name}" for name in ("train", "test", "meta")]
    files += [
        f"FashionMNIST/raw/{p}-{k}-ubyte" for p in ("train", "t10k") for k in ("images-idx3", "labels-idx1")
    ]
    files += [f"FashionMNIST/processed/{name}.pt" for name in ("training", "test")]
    for path in files:
        Path("data", path).write_bytes(PICKLE)
    before = everything()
    assert main([*DIGITS, f"data={name}", "data.root=data"]) == 2
    said = capsys.readouterr().err
    assert "could be neither read nor downloaded" in said and len(said.splitlines()) == 1
    assert "weights_only" not in said  # torch's advice is to execute the file
    assert everything() == before and not Path("CANARY").exists()


def test_a_want_of_memory_says_what_to_lower(capsys):
    before = everything()
    many = "peers={a: {backbone: {name: resnet8, base: 1000000000000}}}"  # 36 TB in the first convolution
    assert main(["train", many, "method=simclr", "run=runs/new"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ssl-kd: the machine has not enough memory: lower batch_size=, ")
    assert len(said.splitlines()) == 1 and everything() == before


def test_no_module_of_a_run_folder_is_taken_for_a_package(finished):
    """Where the current folder is that of somebody's run, or of data, its files are not imported."""
    copied()(finished)
    for name in ("faiss", "sklearn", "timm", "html", "rich", "yaml"):
        Path(f"runs/a/{name}.py").write_text("open('CANARY', 'w').close()\n")
    command = [Path(sys.executable).parent / "ssl-kd", "knn", "run=.", "knn=[1]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="runs/a")
    assert done.returncode == 0, done.stderr
    assert not Path("runs/a/CANARY").exists()


def test_members_of_a_tar_file_are_read_where_they_lie_and_never_unpacked(capsys):
    """Names that lead out of the folder are names, links and devices are no images, pickles are nothing."""
    tar(("../../evil.png", png()), ("../../evil.cls", b"1"), ("/etc/evil.png", png()), ("0.pyd", PICKLE))(
        Path()
    )
    with tarfile.open("shards/b.tar", "w") as archive:
        for name, kind in (
            ("l.png", tarfile.SYMTYPE),
            ("h.png", tarfile.LNKTYPE),
            ("d.png", tarfile.CHRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/hostname"
            archive.addfile(member)
    before = everything()
    assert main(["train", *SHARDS, "dry_run=true"]) == 0
    assert everything() == before and not Path("CANARY").exists() and not Path("../../evil.png").exists()


def test_a_page_of_somebody_elses_run_shows_what_it_says_and_runs_nothing(finished):
    """Names of classes, scores, options and machines are text."""
    pytest.importorskip("vl_convert")
    script = "<script>alert({})</script><img src=x onerror=alert({})>"
    names = [script.format(i, i) for i in (1, 2)]
    content = {"test_images": pixels(8, 8, 8), "test_labels": np.arange(8) % 2, "class_names": names}
    arrays(**content)(finished)
    words = ["train", *ARRAYS, "batch_size=4", "epochs=1", "probe.knn=[1]", "log_every=1", "run=runs/a"]
    words += ["data.overlap=accept", "probe.baselines=false", "probe.linear=false"]
    assert main(words) == 0
    evil, folder = script.format(3, 3), Path("runs/a")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["name"], config["preset"] = "<img src=x onerror=alert(4)>", evil
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name in ("summary.json", "environment.json"):
        content = json.loads((folder / name).read_text())
        found = content[-1] if isinstance(content, list) else content
        found |= {key: evil for key, value in found.items() if isinstance(value, str)}
        if name == "summary.json":
            found["peers"][evil] = {"knn": {evil: 0.5}}
        (folder / name).write_text(json.dumps(content))
    probed = {
        "checkpoint": evil,
        "protocol": {evil: evil},
        "peers": {evil: {"knn": {"1": 0.5}}},
        evil: {evil: 1},
    }
    file("runs/a/eval/knn.json", json.dumps(probed))(finished)
    assert main(["report", "run=runs/a"]) == 0
    page = (folder / "report.html").read_text()
    assert "alert(1)" in page and "alert(3)" in page
    assert not re.search(r"<script>alert|<img src=x", page)
