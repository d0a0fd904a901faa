"""What is called an authors' recipe is all there: no option of its optimiser or schedule is one of ours."""

import inspect
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from ssl_kd.config import compose
from ssl_kd.groups import config_folder
from ssl_kd.registry import make, target
from ssl_kd.schedules import Cosine, ExponentialRamp

# Not of the method: how the machine computes the same numbers, and what the engine fills in.
BESIDE = {"params", "lr", "adapt", "foreach", "maximize", "capturable", "differentiable", "fused"}
BESIDE |= {"decoupled_weight_decay", "self"}
METHODS = sorted(file.stem for file in (config_folder() / "method").glob("*.yaml"))
# Those that are an authors' recipe without being called `reference`.
CLAIM = [("cbd", None), ("supervised", "cosine")]


def written(method: str) -> dict:
    return OmegaConf.to_container(OmegaConf.load(config_folder() / "method" / f"{method}.yaml"))  # type: ignore


def recipes() -> list[tuple[str, str | None]]:
    """(method, preset) of all that claim to be an authors' recipe."""
    presets = [(m, "reference") for m in METHODS if "reference" in (written(m).get("presets") or {})]
    return presets + CLAIM


def options(node: dict) -> set[str]:
    """Every option of the optimiser or schedule that a node names."""
    return set(inspect.signature(target(node, "node")).parameters) - BESIDE


@pytest.mark.parametrize(("method", "preset"), recipes())
def test_an_authors_recipe_names_every_option_of_its_optimiser_and_schedule(method, preset):
    whole = written(method)
    own = whole["presets"][preset] if preset else whole
    assert {"optimizer", "rate", "decay", "unnormalised"} <= own["optim"].keys()
    for node in (own["optim"]["optimizer"], own["optim"]["rate"]):
        if isinstance(node, dict):
            assert options(node) <= node.keys(), options(node) - node.keys()
    assert "batch_size" in own


def test_every_method_that_speaks_of_its_authors_recipe_is_looked_at():
    """A preset whose comment names the authors is in `recipes`, so a new one cannot be forgotten."""
    named = set()
    for method in METHODS:
        preset = None
        for line in Path(config_folder() / "method" / f"{method}.yaml").read_text().splitlines():
            if (
                line.startswith("  ")
                and line[2:3].isalpha()
                and line.rstrip().split("#")[0].strip().endswith(":")
            ):
                preset = line.strip().split(":")[0]
            if "#" in line and not line.startswith("#") and ("authors" in line or "paper's" in line):
                if preset in (written(method).get("presets") or {}):
                    named.add((method, preset))
    assert named <= {*recipes()}, named - {*recipes()}
    assert ("dcm", "reference") in named


@pytest.mark.parametrize(("method", "preset"), recipes())
def test_an_authors_recipe_is_the_same_whatever_the_default_optimiser(method, preset):
    """Nothing is inherited: another `optim` group under it changes no number."""
    words = ["data=cifar10", f"method={method}", *([f"preset={preset}"] if preset else [])]
    for name in ("teacher", "network"):
        if name in (written(method).get("peers") or {}):
            words += [f"peers.{name}.weights=null", f"peers.{name}.backbone=resnet8"]
    words += ["peers.network.cut=0"] if method == "finetune" else []
    found = [OmegaConf.to_container(compose([*words, f"optim={name}"]).optim) for name in ("adamw", "sgd")]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "words",
    [
        ["method=cbd", "peers={teacher: {frozen: true, backbone: resnet8}, student: resnet8}"],
        ["method=supervised", "preset=cosine", "peers=[resnet8]"],
    ],
)
def test_class_balanced_distillation_learns_by_the_rate_and_momentum_of_its_authors(words):
    config = compose(["data=cifar10", *words])
    config.steps = 1800
    rate = make(config.optim.rate)
    assert rate(0) == 0.05 and rate(900) == pytest.approx(0.025) and rate(1800) == 0
    assert config.batch_size == 128
    assert dict(config.optim.optimizer) == {
        "_target_": "torch.optim.SGD",
        "momentum": 0.9,
        "dampening": 0.0,
        "nesterov": False,
        "weight_decay": 2.5e-4,
    }
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = make({**config.optim.optimizer}, [weight], lr=rate(0))
    by_hand, velocity = weight.detach().clone(), torch.zeros(2, dtype=torch.float64)
    for _ in range(3):
        optimizer.zero_grad()
        weight.pow(4).sum().backward()
        optimizer.step()
        velocity = 0.9 * velocity + 4 * by_hand**3 + 2.5e-4 * by_hand
        by_hand = by_hand - 0.05 * velocity
    torch.testing.assert_close(weight.detach(), by_hand, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("method", "peak", "warm"), [("simclr", 2.0, 10), ("simclrv2", 6.4, 50)])
def test_the_warm_up_of_simclr_begins_at_zero_and_ends_at_the_peak(method, peak, warm):
    config = compose([f"method={method}", "preset=reference", "data=cifar10"])
    config.steps = 1000
    rate = make(config.optim.rate)
    for k in range(warm):
        assert rate(k) == pytest.approx(peak * k / warm, rel=1e-12)
    assert rate(0) == 0 and rate(warm) == peak


def test_our_own_warm_up_moves_the_weights_at_its_first_step():
    assert [Cosine(1.0, 100, warmup=0.04)(k) for k in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_ramp_of_ffsd_has_its_five_epochs_of_three_hundred_to_the_last_bit():
    config = compose(["method=ffsd", "preset=reference", "data=cifar100", "peers=[resnet8,resnet8]"])
    config.steps = 300 * 390
    for name, peak in (("diversity", 1e-5), ("fused", 10.0), ("decode", 1000.0)):
        weight = make(config.terms[name].weight)
        for epoch in range(1, 8):
            expected = peak * torch.tensor(-5 * max(0.0, 1 - epoch / 5) ** 2, dtype=torch.float64).exp()
            assert weight((epoch - 1) * 390) == pytest.approx(float(expected), rel=1e-14)
            assert weight(epoch * 390 - 1) == weight((epoch - 1) * 390)


@pytest.mark.parametrize("length", ["5/0", "a third", ""])
def test_what_is_no_fraction_is_refused(length):
    with pytest.raises(ValueError, match="5/300"):
        ExponentialRamp(1.0, 10, length)
