"""Several processes with a share of the batch each equal one with the whole, from the recipe to `fit`."""

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

import ssl_kd.losses
from ssl_kd import InputError, distributed, training
from ssl_kd.distributed import GlobalBatchNorm, global_batch_norm
from ssl_kd.groups import choices
from ssl_kd.testing import Call, compare_processes
from ssl_kd.train import main as train_here
from tests import warm
from tests.conftest import newer_torch

TINY = "{backbone: {name: resnet8, base: 8}}"
ONE = f"peers={{a: {TINY}}}"
PAIR = f"peers={{a: {TINY}, b: {{backbone: {{name: resnet8, base: 4}}}}}}"
KD = ["method=kd", f"peers={{teacher: {{backbone: resnet8, frozen: true}}, student: {TINY}}}"]
NO_HEADS = ["peers.teacher.heads.feature=null", "peers.teacher.heads.logits=null"]
VIT = "{name: vit_tiny_patch16_224, patch_size: 4, depth: 1, embed_dim: 48}"
ALONE = ("dcl", "simsiam", "byol", "barlow_twins", "vicreg", "dino", "rotation", "supcon")
METHODS = {
    "simclr": ["method=simclr", ONE],
    "simclr-reference": ["method=simclr", "preset=reference", ONE, "clip=0.1"],  # LARS
    "multicrop": ["method=simclr", "recipe=multicrop", ONE],
    "cached": [
        "method=simclr",
        f"peers={{a: {{backbone: {VIT}}}}}",
        "peer.heads.projection={_target_: torch.nn.Linear, out_features: 32}",
        "accumulate=2",
        "grad_cache=true",
    ],
    "moco": [
        "method=moco",
        "peers.query.backbone={name: resnet8, base: 8}",
        "peers.key.backbone={name: resnet8, base: 8}",
        "peers.queue.size=100",
    ],
    "dogo": ["method=dogo", PAIR],
    "accumulated": ["method=dogo", PAIR, "accumulate=2"],
    "dogo-reference": ["method=dogo", "preset=reference", PAIR],  # batch norm per view, KL over elements
    "dogo_mixed": [
        "method=dogo_mixed",
        f"peers={{simclr: {TINY}, simsiam: {TINY}}}",
        "peers.simclr.pretext=simclr",
        "peers.simsiam.pretext=simsiam",
    ],
    **{f"only-{name}": [f"method={name}", ONE] for name in ALONE},
    "simclrv2": ["method=simclrv2", ONE],
    "supervised": ["method=supervised", ONE],
    "finetune": ["method=finetune", ONE],
    "cbd": [
        "method=cbd",
        f"peers={{teacher: {{backbone: resnet8, frozen: true}}, student: {TINY}}}",
        *NO_HEADS,
    ],
    "retrain": ["method=retrain", f"peers={{network: {{backbone: {TINY[11:-1]}, frozen: backbone}}}}"],
    "dml": ["method=dml", PAIR],
    "dcm": ["method=dcm", PAIR],
    "ffsd": ["method=ffsd", PAIR],
    "kd": KD,
    "kd-cached": [*KD, "recipe=plain", "peers.teacher.cache=true"],
    "exits": ["method=exits", PAIR],
    "fusion": ["method=fusion", PAIR],
    "ssl_kd": [
        "method=ssl_kd",
        PAIR,
        "parts=[peers,exits,deepest,fusion,shift,teacher,ema]",
        "others.teacher.backbone=resnet8",
        "others.teacher.weights=null",
    ],
}
# Methods whose losses compare images.
COMPARING = ("simclr", "only-dcl", "only-supcon", "dogo", "exits", "fusion", "ssl_kd")


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


Z, LOGITS, LABELS = (random(2, 32, 8), random(2, 32, 12)), random(2, 32, 10), torch.arange(32) % 10
LOSSES = {
    "nt_xent": Call("ssl_kd.losses.nt_xent", Z[0]),
    "nt_xent-views": Call("ssl_kd.losses.nt_xent", random(4, 32, 8), temperature=0.2, scale=2.0),
    "info_nce": Call("ssl_kd.losses.info_nce", Z[0], random(2, 32, 8) + 1, random(50, 8)),
    "dcl": Call("ssl_kd.losses.dcl", random(3, 32, 8), temperature=0.2),
    "sup_con": Call("ssl_kd.losses.sup_con", Z[0], LABELS),
    "sup_con-some": Call("ssl_kd.losses.sup_con", Z[0][:1], LABELS.where(LABELS.cumsum(0) > 60, -1)),
    "barlow_twins": Call("ssl_kd.losses.barlow_twins", Z[0]),
    "vicreg": Call("ssl_kd.losses.vicreg", 0.3 * random(3, 32, 8)),
    "dino": Call("ssl_kd.losses.dino", random(4, 32, 12), random(2, 32, 12)),
    "which_view": Call("ssl_kd.losses.which_view", random(4, 32, 4)),
    "cosine_distance": Call("ssl_kd.losses.cosine_distance", Z[0], Z[0].flip(0)),
    "negative_cosine": Call("ssl_kd.losses.negative_cosine", Z[0], Z[0].flip(0)),
    "similarity_kl": Call("ssl_kd.losses.similarity_kl", *Z),
    "similarity_kl-element": Call("ssl_kd.losses.similarity_kl", *Z, reduction="element"),
    "cross_entropy": Call("ssl_kd.losses.cross_entropy", LOGITS, LABELS),
    "cross_entropy-some": Call(
        "ssl_kd.losses.cross_entropy", LOGITS, LABELS.where(LABELS.cumsum(0) > 60, -1)
    ),
    "kl": Call("ssl_kd.losses.kl", LOGITS, LOGITS.flip(1), temperature=4.0, squared=True),
    "kl-infinite": Call("ssl_kd.losses.kl", LOGITS, LOGITS.flip(1), temperature=float("inf"), squared=True),
    "mse": Call("ssl_kd.losses.mse", LOGITS, LOGITS.flip(1)),
    "not_true_kl": Call("ssl_kd.losses.not_true_kl", LOGITS, LOGITS.flip(1), LABELS),
    "attention_distance": Call(
        "ssl_kd.losses.attention_distance", random(2, 32, 6, 4, 4), random(2, 32, 3, 4, 4)
    ),
    "feature_distance": Call(
        "ssl_kd.losses.feature_distance", random(2, 32, 6, 4, 4), random(2, 32, 6, 4, 4) + 1
    ),
    "diversity": Call("ssl_kd.losses.diversity", random(2, 32, 6, 4, 4), random(2, 32, 3, 4, 4)),
}


def without_gradient() -> None:
    """The mutation: a gather that gives back only the gradient of this process's own loss."""

    def backward(ctx, *grads):
        return grads[0].narrow(ctx.dim, distributed.rank() * ctx.size, ctx.size), None

    distributed._Gather.backward = staticmethod(backward)


def sharded() -> None:
    """Peers under fully_shard in place of copies under DDP."""
    from torch.distributed.tensor import DTensor

    def prepare(self, cohort, *optimizers):
        assert all(isinstance(parameter, DTensor) for parameter in cohort.parameters())
        return cohort, *optimizers

    if distributed.world() > 1:
        training.global_batch_norm = lambda cohort: distributed.shard(global_batch_norm(cohort))
        Accelerator.prepare = prepare


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """Every method and loss on two processes against one, what gathers on four; and a method on 40 images."""
    images = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(images, train_images=np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    uneven = ["method=simclr", ONE, "data=arrays", f"data.path={images}", "data.size=8"]
    cases = {**METHODS, **LOSSES, "uneven": uneven}
    few = {name: cases[name] for name in (*COMPARING, *LOSSES, "uneven")}
    with warm.processes():
        two = compare_processes(cases, 2, steps=2)
        four = compare_processes(few, 4, steps=2)
    return {name: {**two[name], **four.get(name, {})} for name in cases}


@pytest.fixture(scope="module")
def mutant() -> dict:
    """What compares images, on two processes, when gather has no gradient."""
    cases = {name: {**METHODS, **LOSSES}[name] for name in (*COMPARING, "nt_xent")}
    with warm.processes():
        return compare_processes(cases, 2, steps=1, prepare="tests.test_distributed:without_gradient")


def test_every_method_and_loss_is_compared():
    assert {words[0] for words in METHODS.values()} == {f"method={name}" for name in choices("method")}
    losses = {name.partition("-")[0] for name in LOSSES}
    assert losses == {*ssl_kd.losses.__all__} - {"attention", "shifted", "needs_rows"}  # parts of others


@pytest.mark.parametrize("case", [*METHODS, *LOSSES])
def test_processes_with_a_share_of_the_batch_equal_one_with_the_whole(found, case):
    for difference in found[case].values():
        assert max(difference.losses, difference.gradients, difference.weights) <= 1e-9


@pytest.mark.parametrize("case", [*COMPARING, "nt_xent"])
def test_the_comparison_fails_when_the_gathers_gradient_is_removed(mutant, case):
    assert mutant[case][2].gradients > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_the_processes_saw_different_images_and_together_the_batch(found, method):
    balanced = method in ("cbd", "retrain")  # where an image may come several times
    whole = found["cbd" if balanced else "simclr"][2].rows.flatten(1).sort(1)[0]
    for world, difference in found[method].items():
        assert difference.rows.shape == (2, world, 32 // world)
        assert balanced or all(len({*step.flatten().tolist()}) == 32 for step in difference.rows)
        assert difference.rows.flatten(1).sort(1)[0].equal(whole)


@pytest.mark.parametrize("method", METHODS)
def test_the_processes_hold_equal_weights_and_statistics_after_the_steps(found, method):
    assert {difference.spread for difference in found[method].values()} == {0}


@pytest.mark.parametrize("world", [2, 4])
def test_what_does_not_fill_a_batch_is_left_out_of_that_epoch(found, world):
    first, second = found["uneven"][world].rows.flatten(1).tolist()
    assert len({*first}) == len({*second}) == 32  # of 40: eight are left out, others in each epoch
    assert {*first} & {*second} and {*first} != {*second}
    assert found["uneven"][world].gradients <= 1e-9


def train(*words: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ssl_kd", "train", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_batch_that_the_processes_cannot_share_equally_is_refused(tmp_path):
    done = train("processes=2", "batch_size=33", "peers=[resnet8]", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "ssl-kd: batch_size 33 cannot be split into 1 x 2 equal parts (accumulate x processes)\n"
    )


def test_the_probes_on_two_processes_are_those_on_one(own_folder, tmp_path):
    words = ["method=dogo", PAIR, "epochs=1", "precision=float32", "threads=1", "probe.baselines=false"]
    assert train(*words, "run=two", "processes=2", "probe.every=1", folder=tmp_path).returncode == 0
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    (tmp_path / "one/summary.json").unlink()
    assert train_here([*words, "run=one"]) == 0  # it is finished, so its weights are scored
    two, one = (json.loads((tmp_path / run / "summary.json").read_text()) for run in ("two", "one"))
    assert two["peers"] == one["peers"] and two["ensemble"] == one["ensemble"]
    assert {"knn", "linear"} <= two["peers"]["a"].keys()


@pytest.fixture(scope="module")
def shared_out() -> dict:
    """Methods with followers, a queue, LARS, clipping, several optimisers; their weights are shared out."""
    unfused = "optim.optimizer.fused=false"  # torch's fused SGD takes no shares
    cases = {name: METHODS[name] for name in ("simclr-reference", "moco", "only-dino", "ssl_kd")}
    cases["ffsd"] = [*METHODS["ffsd"], unfused, f"others.fusion.{unfused}"]
    with warm.processes():
        return compare_processes(cases, 2, steps=2, prepare="tests.test_distributed:sharded")


@newer_torch
@pytest.mark.parametrize("case", ["simclr-reference", "moco", "only-dino", "ssl_kd", "ffsd"])
def test_a_cohort_under_fully_shard_equals_one_process(shared_out, case):
    difference = shared_out[case][2]
    assert max(difference.losses, difference.gradients, difference.weights) <= 1e-9


SHARDED = """
import sys
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from ssl_kd import Cohort, Each, Encoder, Follow, fit
from ssl_kd.backbones import create
from ssl_kd.data import Batches, Recipe, digits
from ssl_kd.distributed import global_batch_norm, shard
from ssl_kd.losses import nt_xent

accelerator = Accelerator(cpu=True)
world = {"rank": accelerator.process_index, "world": accelerator.num_processes}
images, recipe = Batches(digits().train, batch_size=32, **world), Recipe(size=16, flip=0.0)
torch.manual_seed(0)
peers = {name: Encoder(create("resnet8", channels=1, size=16, base=8), {}) for name in ("a", "ema")}
cohort = Cohort(peers, follow={"ema": Follow("a")})
if world["world"] > 1:
    shard(global_batch_norm(cohort))
    assert all(isinstance(parameter, DTensor) for parameter in cohort.parameters())
optimizer = torch.optim.SGD(cohort.peers["a"].parameters(), momentum=0.9)
views = lambda start: (recipe(raw, k) for k, raw in enumerate(images(start), start))
fit(cohort, [Each("loss", nt_xent, ["a"], "embedding")], views, [optimizer], [0.1], accelerator, steps=2)
whole = get_model_state_dict(cohort, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
if accelerator.is_main_process:
    save_file(whole, sys.argv[1])
"""


@newer_torch
def test_a_cohort_under_fully_shard_trains_and_is_saved_whole(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(SHARDED)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "own.py", "two"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(sys, "argv", ["own.py", str(tmp_path / "one")])
    runpy.run_path(str(tmp_path / "own.py"))
    one, two = (load_file(tmp_path / count) for count in ("one", "two"))
    assert one.keys() == two.keys() and any(key.startswith("peers.ema.") for key in one)
    assert all(torch.allclose(one[key], two[key], rtol=0, atol=1e-5) for key in one)


@pytest.mark.parametrize("key, name", [("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed")])
def test_a_launcher_that_shares_out_weights_is_refused(monkeypatch, key, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{key}", "true")
    with pytest.raises(InputError, match=f"ssl-kd train does not run under {name}, since"):
        distributed.check_launcher()


def test_batch_norm_over_one_process_is_batch_norm():
    torch.manual_seed(0)
    x = torch.randn(6, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    plain = nn.BatchNorm2d(4).double()
    other = nn.BatchNorm2d(4).double()
    ours = global_batch_norm(nn.Sequential(other))[0]
    assert isinstance(ours, GlobalBatchNorm) and ours.state_dict().keys() == plain.state_dict().keys()
    for mode in (True, False):
        plain.train(mode), ours.train(mode)
        (a,) = torch.autograd.grad(plain(x).square().sum(), x)
        (b,) = torch.autograd.grad(ours(x).square().sum(), x)
        assert torch.allclose(a, b, rtol=0, atol=1e-10)
    for key, value in plain.state_dict().items():
        assert torch.allclose(value, ours.state_dict()[key])


def test_batch_norm_over_processes_keeps_what_timms_fused_layer_does_after_it():
    import timm

    torch.manual_seed(0)
    net = timm.create_model("mobilenetv3_small_050", num_classes=0)
    x = torch.randn(4, 3, 64, 64)
    state = json.dumps([list(net.state_dict())])
    expected = net(x)
    net.load_state_dict({k: v * 0 if "running" in k else v for k, v in net.state_dict().items()})
    assert json.dumps([list(global_batch_norm(net).state_dict())]) == state
    assert torch.allclose(net(x), expected, atol=1e-5)
