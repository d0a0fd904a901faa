"""The names that are ours to keep: said in full, free until used, the same training as by commands."""

import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from accelerate import Accelerator

import ssl_kd
from ssl_kd import Cohort, Each, Encoder, Mutual, fit
from ssl_kd.backbones import create
from ssl_kd.build import build_batches, build_cohort, build_optimizers, build_terms, read_data
from ssl_kd.config import compose
from ssl_kd.data import Batches, Recipe, digits
from ssl_kd.heads import mlp
from ssl_kd.losses import nt_xent, similarity_kl
from ssl_kd.optim import param_groups
from ssl_kd.schedules import Cosine, Ramp
from ssl_kd.streams import seed_of

MODULES = ("ssl_kd", "ssl_kd.losses", "ssl_kd.data", "ssl_kd.backbones", "ssl_kd.inputs", "ssl_kd.export")


def public(module: str) -> dict[str, Callable]:
    """The functions and classes of a module that have no underscore; of `__all__` where there is one."""
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None)
    own = {name: getattr(found, name) for name in (names if names is not None else vars(found))}
    return {
        name: value
        for name, value in own.items()
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value))
        if names is not None or value.__module__.startswith(module)
    }


def parts(name: str, value: Callable) -> Iterator[tuple[str, Callable]]:
    """A function; of a class what it defines itself and what is no protocol's or dataclass's."""
    if not inspect.isclass(value):
        yield name, value
        return
    for key, member in vars(value).items():
        function = getattr(member, "fget", None) or getattr(member, "func", None)
        function = function or getattr(member, "__func__", member)
        made = getattr(function, "__module__", "") == value.__module__ and inspect.isfunction(function)
        protocol = key == "__init__" and getattr(value, "_is_protocol", False)
        if made and not protocol and (key in ("__init__", "__call__") or not key.startswith("_")):
            yield f"{name}.{key}", function


NAMES = [(module, name) for module in MODULES for name in public(module)]


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda part: part)
def test_a_public_name_says_what_it_is_and_of_what_type_everything_is(module, name):
    value = public(module)[name]
    doc = value.__doc__ or ""
    assert doc.strip() and not doc.startswith(f"{name}("), f"{name} has no docstring"
    for what, function in parts(name, value):
        signature = inspect.signature(function)
        bare = [
            key
            for key, parameter in signature.parameters.items()
            if parameter.annotation is parameter.empty and key not in ("self", "cls")
        ]
        assert not bare, f"{what} does not say the type of {', '.join(bare)}"
        if not what.endswith("__init__"):
            assert signature.return_annotation is not signature.empty, f"{what} does not say what it returns"


@pytest.mark.parametrize("name", [name for name in public("ssl_kd.losses")])
def test_a_loss_says_the_shapes_that_it_takes(name):
    assert "(" in ssl_kd.losses.__dict__[name].__doc__, f"{name} says no shape"


def test_every_public_name_is_there_and_importing_the_package_loads_nothing():
    assert sorted(ssl_kd.__all__) == sorted(set(ssl_kd.__all__)) and {*ssl_kd.__all__} == {*ssl_kd._HOME}
    for name in ssl_kd.__all__:
        assert getattr(ssl_kd, name).__name__ == name
    heavy = "{'torch', 'numpy', 'sklearn', 'omegaconf', 'PIL'}"
    code = f"import sys, ssl_kd; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The commands and Python build the same.

STEPS, BATCH, SEED = 3, 64, 5
PEERS = {"small": "resnet8", "large": "resnet20"}


def by_yaml(words: list[str]) -> tuple[Cohort, list]:
    config = compose([*words, "data=digits", f"seed={SEED}", f"batch_size={BATCH}", "epochs=2"])
    data = read_data(config)
    terms = build_terms(config)
    cohort = build_cohort(config, data.train.shape, terms)
    optimizers, rates = build_optimizers(config, cohort)
    batches, _ = build_batches(config, data, torch.device("cpu"))
    return cohort, trained(cohort, terms, batches, optimizers, rates)


def by_python(names: list[str], own_views: bool) -> tuple[Cohort, list]:
    total = 2 * (1437 // BATCH)
    peers = {}
    for name in names:
        torch.manual_seed(seed_of(SEED, "weights", name))
        backbone = create(PEERS[name], channels=1, size=16, mean=0.31, std=0.38)
        seen = f"views_{name}" if own_views else "views"
        peers[name] = Encoder(backbone, {"projection": mlp(backbone.width)}, views=seen)
    cohort = Cohort(peers, seed=SEED).to(memory_format=torch.channels_last)
    terms = [Each("nt_xent", nt_xent, names, "projection")]
    if len(names) > 1:
        terms.append(Mutual("kl", similarity_kl, names, "projection", weight=Ramp(0.39, total, start=0.33)))
    recipe = Recipe(
        16, scale=(0.5, 1.0), flip=0.0, rotate=15.0, brightness=0.4, contrast=0.4, noise=0.05,
        streams=names if own_views else (), seed=SEED,
    )  # fmt: skip
    images = Batches(digits().train, BATCH, seed=SEED)
    optimizer = torch.optim.AdamW(param_groups(cohort, weight_decay=0.01), fused=True)
    rate = Cosine(0.002, total, warmup=0.05)

    def batches(start):
        return (recipe(raw, k) for k, raw in enumerate(images(start), start))

    return cohort, trained(cohort, terms, batches, [optimizer], [rate])


def trained(cohort, terms, batches, optimizers, rates) -> list:
    """Every term, raw and weighted, of each step."""
    accelerator, seen = Accelerator(cpu=True), []
    fit(
        cohort, terms, batches, optimizers, rates, accelerator, steps=STEPS,
        watchers=[lambda step, result: seen.append(result.terms)],
    )  # fmt: skip
    return seen


@pytest.mark.parametrize(
    ("words", "names", "own_views"),
    [
        (["method=simclr", "peers={small: resnet8}"], ["small"], False),
        (["method=dogo", "peers={small: resnet8, large: resnet20}"], ["small", "large"], True),
    ],
    ids=["simclr", "dogo"],
)
def test_yaml_and_python_are_the_same_training_to_the_bit(words, names, own_views):
    (a, ours), (b, theirs) = by_yaml(words), by_python(names, own_views)
    assert len(ours) == STEPS
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key, (raw, weight) in one.items():
            assert torch.equal(raw, other[key][0]) and weight == other[key][1], key
    weights = b.state_dict()
    assert a.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in a.state_dict().items())
