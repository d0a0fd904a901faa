"""Every option of every YAML, mistyped and with values it cannot mean: understood or refused."""

from collections.abc import Iterator
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from ssl_kd.build import build_cohort, build_optimizers, build_terms, check_options, read_data
from ssl_kd.config import compose
from ssl_kd.errors import InputError
from ssl_kd.groups import choices

TINY = "{backbone: {name: resnet8, base: 4}}"
VALUES = (
    "nonsense",
    "-1",
    "0",
    "1.5",
    "true",
    "null",
    "[]",
    "{}",
    "[1,a]",
    "{a: 1}",
    "1e30",
    "???",
    "${x}",
    "..",
)
FILLED = ("steps", "classes", "run")  # by the data, or any text
LARGE = ("out", "hidden", "base", "size", "out_features", "depth", "width", "limit")  # would only be slow


def bases() -> dict[str, list[str]]:
    """Words of a small training of every method, recipe and optimiser."""
    found = {}
    for method in choices("method"):
        peers = {
            "kd": [f"peers.teacher={TINY}", f"peers.student={TINY}"],
            "cbd": [f"peers.teacher={TINY}", f"peers.student={TINY}"],
            "moco": [
                "peers.query.backbone={name: resnet8, base: 4}",
                "peers.key.backbone={name: resnet8, base: 4}",
            ],
            "simclr": [f"peers={{a: {TINY}}}"],
        }.get(method, [f"peers={{a: {TINY}, b: {TINY}}}"])
        found[f"method {method}"] = [f"method={method}", *peers]
    small = ["method=simclr", f"peers={{a: {TINY}}}"]
    found |= {f"recipe {name}": [*small, f"recipe={name}"] for name in choices("recipe") if name != "own"}
    found |= {f"optim {name}": [*small, f"optim={name}"] for name in choices("optim")}
    parts = "parts=[peers,exits,deepest,fusion,shift,ema]"
    found["all parts"] = ["method=ssl_kd", f"peers={{a: {TINY}, b: {TINY}}}", parts]
    return {name: [*words, "data=digits"] for name, words in found.items()}


def mutations(words: list[str]) -> Iterator[str]:
    """Words that change one option each: by a letter of its name, and by each of VALUES."""
    for key in sorted(set(_keys(compose(words)))):
        leaf = key.rpartition(".")[2]
        if key.split(".")[0] in FILLED or leaf == "_target_" or '"' in key or "<" in key:
            continue
        if ".stages." not in key:  # names there are the user's
            yield f"{key[:-1]}{'q' if key[-1] != 'q' else 'z'}=1"
        for value in VALUES:
            if not (leaf in LARGE and value == "1e30"):
                yield f"{key}={value}"


def verdict(words: list[str]) -> str:
    """ "built", or the sentence of the refusal. Any other exception goes through."""
    try:
        config = compose(words)
        check_options(config)
        data = read_data(config)
        terms = build_terms(config)
        with torch.device("cpu"):
            build_optimizers(config, build_cohort(config, data.train.shape, terms))
    except InputError as error:
        text = str(error)
        assert "\n" not in text and 10 < len(text) < 500, text
        return text
    return "built"


def _keys(node: Any, above: str = "") -> Iterator[str]:
    if isinstance(node, DictConfig):
        for key in node:
            path = f"{above}.{key}" if above else str(key)
            yield path
            if not OmegaConf.is_missing(node, key):
                yield from _keys(node._get_node(key), path)
    elif isinstance(node, ListConfig):
        return
