"""A run from its command to its folder: what it writes, how it resumes, what it prints, what it refuses."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from omegaconf import OmegaConf

from ssl_kd.build import build_batches, build_cohort, build_terms, read_data
from ssl_kd.cli import main as cli
from ssl_kd.config import compose
from ssl_kd.run import Run
from ssl_kd.train import main
from tests import warm

QUICK = [
    "peers={a: resnet8, b: resnet8}",
    "epochs=2",
    "batch_size=64",
    "data.limit=320",
    "precision=float32",
    "probe.knn=[1,20]",
]
MOCO = ["peers.query.backbone=resnet8", "peers.key.backbone=resnet8", "peers.queue.size=300"]
TINY = ["peers={a: {backbone: {name: resnet8, base: 4}}, b: {backbone: {name: resnet8, base: 4}}}"]
TINY_ONE = ["peers={a: {backbone: {name: resnet8, base: 4}}}"]
OTHERS = {
    "simclr": ["peers={a: resnet8}"],
    "moco": MOCO,
    "byol": TINY_ONE,
    "dino": TINY_ONE,
    "ffsd": TINY,
    "ssl_kd": [*TINY, "parts=[peers,exits,fusion,shift,ema]"],
}
SOLO = ["method=simclr", "peers={a: resnet8}", *QUICK[1:]]


pytestmark = pytest.mark.usefixtures("own_folder")


def lines(folder: str = "runs/a") -> list[dict]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def weights(folder: str = "runs/a") -> list[str]:
    """Of the networks, and the state of their optimisers."""
    files = [Path(folder, f"checkpoints/last/{name}.safetensors") for name in ("cohort", "optimizers")]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def curve(folder: str) -> list[tuple]:
    return [
        (line["step"], line["loss"], line["terms"], line["rate"]) for line in lines(folder) if "loss" in line
    ]


def test_a_run_leaves_its_config_metrics_checkpoint_scores_and_baselines(capsys):
    assert main([*QUICK, "run=runs/a", "log_every=1", "probe.every=1"]) == 0
    printed = capsys.readouterr().out
    assert (
        len(printed.splitlines()) <= 30
        and "raw pixels" in printed
        and "deploy " in printed
        and "next: ssl-kd report run=runs/a; ssl-kd export run=runs/a peer=" in printed
    )
    files = {str(path.relative_to("runs/a")) for path in Path("runs/a").rglob("*") if path.is_file()}
    assert {"config.yaml", "environment.json", "metrics.jsonl", "summary.json"} <= files
    assert {
        f"checkpoints/last/{n}" for n in ("cohort.safetensors", "optimizers.safetensors", "state.json")
    } <= files
    assert any(name.startswith("tensorboard/") for name in files) and not any(
        ".part" in name for name in files
    )
    summary = json.loads(Path("runs/a/summary.json").read_text())
    assert {"method", "seed", "steps", "images_per_second", "seconds", "peers", "baselines"} <= set(summary)
    assert set(summary["peers"]) == set(summary["baselines"]["untrained"]) == {"a", "b"}
    for scores in [*summary["peers"].values(), summary["baselines"]["pixels"]]:
        assert 0.5 < scores["knn"]["20"] <= 1 and 0.5 < scores["linear"] <= 1
    logged = [line for line in lines() if "loss" in line]
    assert [line["step"] for line in logged] == list(range(1, 11))
    assert (
        set(logged[0]["terms"])
        == {"nt_xent/a", "nt_xent/b", "kl/a<-b", "kl/b<-a"}
        == set(logged[0]["weighted"])
    )
    probed = [line for line in lines() if "peers" in line]
    assert [line["step"] for line in probed] == [5, 10]
    assert probed[-1]["peers"]["a"]["knn"] == summary["peers"]["a"]["knn"]
    environment = json.loads(Path("runs/a/environment.json").read_text())[-1]
    assert environment["packages"]["torch"] and environment["threads"] and environment["command"]


def test_the_commands_on_a_finished_run_give_the_numbers_of_its_end_from_a_fresh_process():
    assert main([*QUICK, "run=runs/a", f"threads={torch.get_num_threads()}"]) == 0
    summary = json.loads(Path("runs/a/summary.json").read_text())
    root = Path(__file__).parent.parent
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for probe in ("knn", "linear"):
        done = subprocess.run(
            [sys.executable, root / "eval" / f"{probe}.py", "run=runs/a"],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = json.loads(Path(f"runs/a/eval/{probe}.json").read_text())
        for peer in ("a", "b"):
            assert found["peers"][peer][probe] == summary["peers"][peer][probe]
            assert (
                found["baselines"]["untrained"][peer][probe] == summary["baselines"]["untrained"][peer][probe]
            )
        assert found["baselines"]["pixels"][probe] == summary["baselines"]["pixels"][probe]
        assert "raw pixels" in done.stdout


def test_a_peer_that_learns_labels_is_also_scored_by_its_own_classifier(capsys):
    assert main([*QUICK, "method=dml", "epochs=6", "probe.linear=false", "run=runs/a"]) == 0
    assert "top-1" in capsys.readouterr().out
    peers = json.loads(Path("runs/a/summary.json").read_text())["peers"]
    assert all(0.4 < scores["top1"] <= 1 for scores in peers.values())


def test_a_head_and_a_loss_of_lightly_work_straight_from_yaml():
    head = "{_target_: lightly.models.modules.SimCLRProjectionHead, hidden_dim: 32, output_dim: 16}"
    loss = "{_target_: lightly.loss.NTXentLoss, temperature: 0.5}"
    words = [*SOLO, "epochs=1", "log_every=1", "probe.linear=false", f"peers.a.heads.projection={head}"]
    assert main([*words, "run=runs/ours"]) == 0
    assert main([*words, f"terms.nt_xent.loss={loss}", "terms.nt_xent.spread=true", "run=runs/theirs"]) == 0
    for ours, theirs in zip(lines("runs/ours")[:3], lines("runs/theirs"), strict=False):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_probes_during_training_change_nothing_of_it():
    words = [*QUICK, "log_every=1", "probe.baselines=false"]
    main([*words, "run=runs/a", "probe.linear=false"])
    main([*words, "run=runs/b", "probe.every=1"])
    assert curve("runs/a") == curve("runs/b") and weights("runs/a") == weights("runs/b")


class Killed(BaseException):
    pass


def killed_after(step: int, monkeypatch, words: list[str]) -> None:
    """Stops a run dead after `step`, between two checkpoints."""
    from ssl_kd.watchers import Saver

    save = Saver.__call__

    def die(self, done, result):
        save(self, done, result)
        if done == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "__call__", die)
        with pytest.raises(Killed):
            main(words)


@pytest.mark.parametrize("method", ["simclr", "dogo", "dml", "moco", "byol", "dino", "ffsd", "ssl_kd"])
def test_a_killed_run_continues_as_if_nothing_had_happened(method, monkeypatch, capsys):
    peers = OTHERS.get(method, QUICK[:1])
    words = [f"method={method}", *peers, *QUICK[1:], "epochs=3", "log_every=1", "probe.linear=false"]
    words += ["probe.baselines=false"]
    main([*words, "run=runs/whole"])
    killed_after(7, monkeypatch, [*words, "run=runs/cut"])
    assert lines("runs/cut")[-1]["step"] == 7
    state = Path("runs/cut/checkpoints/last/state.json")
    state.write_text(json.dumps(json.loads(state.read_text()) | {"seconds": 3600.0}))
    capsys.readouterr()
    assert main([*words, "run=runs/cut"]) == 0
    assert "continues after step 5" in capsys.readouterr().out
    assert curve("runs/cut") == curve("runs/whole") and weights("runs/cut") == weights("runs/whole")
    seconds = [
        json.loads(Path(run, "summary.json").read_text())["seconds"] for run in ("runs/whole", "runs/cut")
    ]
    assert seconds[0] < 3600 < seconds[1]  # the time of all starts together


def test_a_finished_run_is_reported_again_and_not_repeated(capsys):
    main([*SOLO, "run=runs/a"])
    before = weights(), len(lines()), Path("runs/a/summary.json").read_bytes()
    capsys.readouterr()
    assert main([*SOLO, "run=runs/a"]) == 0
    assert "finished before" in capsys.readouterr().out
    assert before == (weights(), len(lines()), Path("runs/a/summary.json").read_bytes())


def test_ctrl_c_leaves_a_checkpoint_that_the_same_command_continues():
    child = warm.Command("train", *SOLO, "epochs=400", "run=runs/a", "log_every=1")
    until = time.monotonic() + 120
    while not Path("runs/a/metrics.jsonl").exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    assert child.wait() == 75, child.stderr
    said = child.stdout + child.stderr
    step = int(re.search(r"stopped after step (\d+) of", said)[1])
    assert json.loads(Path("runs/a/checkpoints/last/state.json").read_text())["step"] == step
    assert "Traceback" not in said and "the same command continues" in said


def test_one_peer_of_dogo_is_the_solo_run_bit_for_bit():
    main([*SOLO, "run=runs/solo", "log_every=1", "probe.linear=false"])
    main([*SOLO, "method=dogo", "run=runs/dogo", "log_every=1", "probe.linear=false"])
    assert curve("runs/solo") == curve("runs/dogo") and weights("runs/solo") == weights("runs/dogo")


def test_removing_a_peer_leaves_the_others_weights_images_and_views_unchanged():
    def parts(words):
        config = compose([*words, "batch_size=32"])
        data = read_data(config)
        cohort = build_cohort(config, data.train.shape, build_terms(config))
        batch = next(build_batches(config, data, torch.device("cpu"))[0](5))
        return cohort.peers["a"].state_dict(), batch

    for separate in ("false", "true"):
        (two, first), (three, second) = (
            parts([f"peers={peers}", f"separate_views={separate}"])
            for peers in ("{a: resnet20, b: resnet8}", "{c: resnet8, b: resnet8, a: resnet20}")
        )
        assert all(torch.equal(two[key], three[key]) for key in two)
        views = "views_a" if separate == "true" else "views"
        assert torch.equal(first["index"], second["index"]) and torch.equal(first[views], second[views])
        assert separate == "false" or not torch.equal(first["views_a"], first["views_b"])


def test_every_trainable_parameter_of_every_method_gets_a_gradient():
    from ssl_kd.engine import _scalars

    for words in (
        ["method=simclr", "peers=[resnet8]"],
        ["method=simclr", "preset=reference", "peers=[resnet8]"],
        ["method=dogo", "peers=[resnet8,wrn-10-1]"],
        ["method=dogo", "preset=reference", "peers=[resnet8,resnet8]"],
        ["method=moco", *MOCO],
        ["method=dml", "peers=[resnet8,mobilenetv3_small_050]"],
        ["method=dml", "preset=reference", "peers=[resnet8,resnet8]"],
    ):
        config = compose([*words, "batch_size=16", "data=digits"])
        data = read_data(config)
        terms = build_terms(config)
        cohort = build_cohort(config, data.train.shape, terms)
        batch = next(build_batches(config, data, torch.device("cpu"))[0](0))
        scalars = _scalars(terms, cohort(batch), batch, config.steps)
        sum(raw * weight for raw, weight in scalars.values()).backward()
        idle = [
            n
            for n, p in cohort.named_parameters()
            if p.requires_grad and (p.grad is None or not p.grad.any())
        ]
        assert not idle, (words, idle)


def test_accumulated_batches_see_the_images_and_views_of_the_whole_one():
    found = []
    for words in (["accumulate=1"], ["accumulate=4"]):
        config = compose([*words, "batch_size=32"])
        batch = next(build_batches(config, read_data(config), torch.device("cpu"))[0](3))
        parts = batch if isinstance(batch, list) else [batch]
        found.append(
            torch.cat([torch.cat([part[f"views_{peer}"] for part in parts], 1) for peer in config.peers])
        )
    assert torch.equal(*found)
    words = [*QUICK, "accumulate=4", "epochs=1", "probe.linear=false", "log_every=1"]
    assert main([*words, "run=runs/a"]) == main([*words, "run=runs/b", "grad_cache=true"]) == 0
    a, b = (lines(run)[0]["terms"]["nt_xent/a"] for run in ("runs/a", "runs/b"))
    assert a < b  # among the images of the whole batch a row is harder to find


def test_a_dry_run_says_what_is_needed_and_writes_nothing(capsys):
    assert main([*QUICK, "dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert (
        "MiB of weights" in said and "a <── b" in said and "one step: nt_xent/a" in said and "77,104" in said
    )
    assert not Path("runs").exists()


def test_a_frozen_teacher_and_a_follower_come_from_yaml_and_survive_resuming(monkeypatch):
    peers = (
        "{teacher: {backbone: resnet8, frozen: true, heads: null}, a: resnet8, "
        "ema: {backbone: resnet8, follow: {leader: a, momentum: 0.9, buffers: average}}}"
    )
    edge = (
        "{_target_: ssl_kd.Edge, loss: {_target_: ssl_kd.losses.similarity_kl}, student: a.projection, "
        "teacher: %s, weight: 0.5}"
    )
    words = [
        "method=dogo", f"peers={peers}", *QUICK[1:], "epochs=3", "log_every=1", "probe.linear=false",
        f"terms.ema={edge % 'ema.projection'}", f"terms.kd={edge % 'teacher.embedding'}",
    ]  # fmt: skip
    main([*words, "run=runs/whole"])
    killed_after(7, monkeypatch, [*words, "run=runs/cut"])
    main([*words, "run=runs/cut"])
    assert set(curve("runs/cut")[0][2]) == {"nt_xent/a", "ema", "kd"}
    assert curve("runs/cut") == curve("runs/whole") and weights("runs/cut") == weights("runs/whole")
    config = Run("runs/cut").config()
    cohort = build_cohort(config, (1, 8, 8))
    Run("runs/cut").load(cohort)
    leader, follower = cohort.peers["a"].state_dict(), cohort.peers["ema"].state_dict()
    assert not torch.equal(leader["backbone.net.stem.0.weight"], follower["backbone.net.stem.0.weight"])


def refused(words: list[str], capsys) -> str:
    """The one sentence that a bad command gets, with exit code 2."""
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("ssl-kd: ") and len(said.splitlines()) == 1 and "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["peers.a.heads.projection.hiden=3"], 'did you mean "peers.a.heads.projection.hidden"?'),
        (["+terms.kl.loss.temprature=3"], 'did you mean "terms.kl.loss.temperature"?'),
        (["optim.optimizer.wieght_decay=3"], 'did you mean "optim.optimizer.weight_decay"?'),
        (["recipe.sacle=[0.1,1]"], 'did you mean "recipe.scale"?'),
        (["terms.kl.peers=[a,c]"], 'the term "kl" names the peer "c", and there are: a, b'),
        (["terms.kl.outputs=prediction"], "but a has: embedding, projection"),
        (["terms.kl.loss._target_=ssl_kd.losses.no_such"], "cannot be imported"),
        (["peers={a: resnet9999}"], 'did you mean "resnet'),
        (["peers.a.heads.projection.reads=stage9"], "there are: embedding, stage1, stage2, stage3"),
        (["peers.a.backbone.colour=3"], "colour"),
        (["batch_size=4096"], "a batch of 4096 images is larger than the data set of 320"),
        (["accumulate=3"], "cannot be split into 3 x 1 equal parts"),
        (["recipe.extra=[{_target_: torch.nn.NoSuch}]"], "cannot be imported"),
        (["grad_cache=true"], "grad_cache works on the parts of a batch; say how many by accumulate=..."),
        (["data=folder", "data.root=missing"], "missing"),
        (["data=folder", "data.root=."], "there is no image in"),
        (["data=arrays", "data.path=nothing.npz"], "nothing.npz"),
        (["device=cuda"], "this machine has none"),
        (["device=tpu"], "can be: auto, cpu, cuda, mps"),
        (["precision=fp8"], "can be: auto, float32, bfloat16"),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(words, says, capsys):
    if "device=cuda" in words and torch.cuda.is_available():
        pytest.skip("there is an accelerator here")
    assert says in refused([*QUICK, *words], capsys)
    assert not Path("runs").exists()


def test_a_peer_that_sees_what_no_recipe_makes_is_refused(capsys):
    said = refused([*QUICK, "peer.views=vews", "separate_views=false", "dry_run=true"], capsys)
    assert 'a peer sees "vews", which no recipe makes; there are: label, index, row, rows, views' in said


def images(folder: Path, count: int = 3) -> None:
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_labels_missing_where_a_term_needs_them_are_named(capsys):
    images(Path("photos"))
    said = refused(["method=dml", "data=folder", "data.root=photos", "data.size=16", "batch_size=2"], capsys)
    assert 'the term "ce" needs labels, and the data "folder" has none' in said


def test_a_folder_without_labels_trains_and_says_why_there_are_no_scores(capsys):
    images(Path("photos"), 8)
    words = ["data=folder", "data.root=photos", "data.size=16", "batch_size=4", "epochs=1", QUICK[0]]
    assert main([*words, "run=runs/a"]) == 0
    said = capsys.readouterr().out
    assert "the probes need labels" in said and "deploy a" in said
    capsys.readouterr()
    assert cli(["knn", "run=runs/a"]) == 2
    assert "the probes need labels" in capsys.readouterr().err


def test_a_broken_image_is_named_or_counted_when_skipped(capsys):
    images(Path("photos"), 8)
    Path("photos/broken.jpg").write_bytes(b"no image")
    words = [
        "data=folder",
        "data.root=photos",
        "data.size=16",
        "batch_size=4",
        "epochs=1",
        QUICK[0],
        "run=runs/a",
    ]
    assert "broken.jpg" in refused(words, capsys)
    assert main([*words, "data.skip_broken=true"]) == 0
    assert "1 image skipped" in capsys.readouterr().out


def test_a_run_folder_of_another_configuration_is_refused_and_left_as_it_was(capsys):
    main([*SOLO, "run=runs/a", "epochs=1", "probe.linear=false"])
    before = {path: path.read_bytes() for path in Path("runs/a").rglob("*") if path.is_file()}
    said = refused([*SOLO, "run=runs/a", "epochs=1", "optim.rate.peak=0.5"], capsys)
    assert "optim.rate.peak: 0.002 there, 0.5 here" in said
    assert before == {path: path.read_bytes() for path in Path("runs/a").rglob("*") if path.is_file()}
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    assert "is not a run folder" in refused([*SOLO, "run=mine"], capsys)


def test_a_loss_that_is_not_finite_is_named_and_the_last_good_checkpoint_stays(capsys):
    explodes = (
        "{_target_: ssl_kd.schedules.Milestones, peak: 0.001, steps: 15, milestones: [0.5], factor: 1.0e30}"
    )
    words = [*SOLO, "run=runs/a", "epochs=3", "optim=sgd", f"optim.rate={explodes}"]
    said = refused(words, capsys)
    assert 'step 10: the term "nt_xent/a" is nan' in said and "checkpoints/last" in said
    assert Run("runs/a").load(build_cohort(Run("runs/a").config(), (1, 8, 8))) == 5


def test_probes_refuse_what_is_no_run(capsys):
    for words, says in (
        (["knn"], "run is needed"),
        (["knn", "run=nowhere"], "is not a run folder"),
        (["knn", "run=nowhere", "kn=3"], '"kn" is not an option'),
        (["tarin"], 'there is no command "tarin"; did you mean "train"?'),
    ):
        assert cli(words) == 2
        said = capsys.readouterr().err
        assert says in said and len(said.splitlines()) == 1


def test_the_config_of_a_run_is_resolved():
    main([*SOLO, "run=runs/a", "epochs=1", "probe.linear=false"])
    text = Path("runs/a/config.yaml").read_text()
    assert "${" not in text and OmegaConf.create(text).optim.rate.steps == 5


def test_precision_is_that_of_the_forward_alone():
    """Terms get float32 outputs, whatever the networks compute in."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    config = compose([*QUICK])
    data = read_data(config)
    cohort = accelerator.prepare(build_cohort(config, data.train.shape, build_terms(config)))
    batch = next(build_batches(config, data, torch.device("cpu"))[0](0))
    seen = []
    cohort.peers["a"].heads["projection"].register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    assert cohort(batch)["a"]["projection"].dtype == torch.float32 and seen == [torch.bfloat16]
