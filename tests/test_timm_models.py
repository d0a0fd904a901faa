"""timm's models as peers: twelve of them, drawn by $SSL_KD_SEED, each train a step.

Drawn are the models of at most 20 million parameters, as torch's meta device counts them, two at most of a
family (one of timm's modules). They see images of 32 pixels; those that say that they cannot, images of the
size that they name.
"""

import os
import random
import re
from functools import cache

import numpy as np
import pytest
import timm
import torch

from ssl_kd.backbones import create
from ssl_kd.config import compose
from ssl_kd.engine import step
from ssl_kd.errors import InputError
from ssl_kd.training import build

SEED = int(os.environ.get("SSL_KD_SEED", "0"))
DRAWN, OF_A_FAMILY, MOST, SIZE = 12, 2, 20_000_000, 32
LARGE = re.compile("giant|huge|large|gigantic|enormous|so[0-9]+m|_7b")  # they need not be counted

pytestmark = pytest.mark.usefixtures("own_folder")


@cache
def drawn(seed: int) -> list[str]:
    generator, found = random.Random(seed), []
    families = timm.list_modules()
    generator.shuffle(families)
    for family in families:
        names = [name for name in timm.list_models(module=family) if not LARGE.search(name)]
        generator.shuffle(names)
        small = (name for name in names if parameters(name) <= MOST)
        found += [name for name, _ in zip(small, range(OF_A_FAMILY), strict=False)]
        if len(found) >= DRAWN:
            break
    return found[:DRAWN]


def parameters(name: str) -> float:
    """Infinite where a model cannot be built without memory."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())
    except (RuntimeError, NotImplementedError):
        return float("inf")


def built(name: str, size: int, images: int):
    pixels = np.random.default_rng(0).integers(0, 256, (images, size, size, 3), dtype=np.uint8)
    np.savez("images.npz", train_images=pixels)
    config = compose([
        "method=simclr", f"peers={{a: timm/{name}}}", "data=arrays", "data.path=images.npz",
        f"data.size={size}", f"batch_size={images}", "epochs=1", "precision=float32", "health.every=0",
    ])  # fmt: skip
    return build(config)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("number", range(DRAWN))
def test_a_drawn_model_trains_a_step_in_which_every_parameter_gets_a_gradient(number):
    name = drawn(SEED)[number]
    try:
        parts = built(name, SIZE, 4)
    except InputError as refusal:
        own = re.search(r"cannot take images of 32 pixels .*; its own size is (\d+)", str(refusal))
        assert own, f"{name}: {refusal}"
        parts = built(name, int(own[1]), 2)
    network = parts.own.peers["a"].backbone
    reached, batch = set(), next(parts.batches(0))
    trained = {key: p for key, p in parts.own.named_parameters() if p.requires_grad}
    for key, parameter in trained.items():
        parameter.register_post_accumulate_grad_hook(lambda p, key=key: reached.add(key))
    result = step(parts.cohort, parts.terms, batch, parts.optimizers, parts.accelerator, 0)
    assert all(torch.isfinite(raw) for raw, _ in result.terms.values()), name
    assert set(trained) - reached == set(), name
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    assert frozen <= 0.01 * sum(p.numel() for p in network.parameters()), name
    assert network.stage_channels or not hasattr(network.net.model, "forward_intermediates"), name
    image = torch.rand(1, 3, parts.config.data.size, parts.config.data.size)
    with torch.no_grad():
        maps = network.eval().forward_stages(image, network.stage_channels)[1]
    assert [m.shape[1] for m in maps.values()] == list(network.stage_channels.values()), name


def test_what_is_drawn_is_of_ten_families_and_more():
    families = {timm.models.model_entrypoint(name).__module__ for name in drawn(SEED)}
    assert len(drawn(SEED)) == len(set(drawn(SEED))) == DRAWN and len(families) >= DRAWN // OF_A_FAMILY


def test_a_model_of_one_size_names_it():
    with pytest.raises(InputError, match=r"efficientformer_l1 cannot take images of 32 pixels .*size is 224"):
        create("efficientformer_l1")
