"""The probes of a finished run: what `ssl-kd knn`, `linear`, `few_labels`, ... compute.

Each takes a `Finished` and options of its own and returns what goes into eval/<probe>.json: "peers", and
where they say something "baselines" and "ensemble". docs/protocol.md says what each does and why.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from ssl_kd.backbones.cut import through_head
from ssl_kd.build import build_batches, check_options, read_data
from ssl_kd.config import compose
from ssl_kd.data import Supervised
from ssl_kd.data.adapt import as_channels
from ssl_kd.encoder import Encoder, encoders
from ssl_kd.errors import InputError, nearest
from ssl_kd.evaluate import Evaluator
from ssl_kd.finished import Finished, load
from ssl_kd.labelled import scored_on
from ssl_kd.monitor import figures
from ssl_kd.probes import Features, linear
from ssl_kd.probes.few_labels import few_labels
from ssl_kd.probes.robustness import robustness
from ssl_kd.probes.supervised import finetune, sgd_linear

UNLABELLED = ("health",)  # probes that need no labels


def probe(folder: str, name: str, options: Mapping[str, Any], device: str = "cpu") -> dict[str, Any]:
    """Runs the probe `name` on the run in `folder` and writes eval/<name>.json. Raises InputError.

    options: "checkpoint", "data_changed", and those of the probe's function below; `transfer` also takes
        those of `data`.
    """
    given = dict(options)
    checkpoint, changed = given.pop("checkpoint", None), given.pop("data_changed", None)
    given = checked(name, given)
    return score(load(folder, device, checkpoint, changed), name, given)


def checked(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a probe, if they are its own and of the right kinds. Raises InputError."""
    function, given = PROBES[name], dict(options)
    takes = [key for key in inspect.signature(function).parameters if key not in ("finished", "data")]
    odd = [key for key in given if key not in takes and not (name == "transfer" and _of_data(key))]
    if odd:
        known = [
            *takes,
            "run",
            "device",
            "checkpoint",
            "data_changed",
            *(["data"] if name == "transfer" else []),
        ]
        raise InputError(f'"{odd[0]}" is not an option of {name}; {nearest(odd[0], known)}')
    for key, parameter in inspect.signature(function).parameters.items():
        if key in given and key != "data":
            given[key] = _typed(key, parameter.default, given[key])
    return given


def score(finished: Finished, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The probe `name` on a run that is loaded, also into its eval/<name>.json. Raises InputError.

    options: as `checked` gives them.
    """
    function, given = PROBES[name], dict(options)
    missing = finished.evaluator.missing
    if missing and name not in (*UNLABELLED, "transfer"):
        raise InputError(missing)
    if name == "transfer":
        words = [f"{key}={value}" for key, value in given.items() if _of_data(key)]
        given = {key: value for key, value in given.items() if not _of_data(key)} | {"data": words}
    found = function(finished, **given)
    result = {
        "checkpoint": finished.checkpoint,
        "step": finished.step,
        "scored_on": scored_on(finished.config),
        **({"data_changed": finished.differs} if finished.differs else {}),
        **found,
    }
    finished.run.write(f"eval/{name}.json", result)
    return result


def knn(
    finished: Finished, knn: Sequence[int] | None = None, temperature: float | None = None
) -> dict[str, Any]:
    """kNN of every peer, of raw pixels and of the untrained networks. knn: the numbers of neighbours."""
    own = finished.config.probe
    asked = own.copy()
    asked.knn = list(own.knn if knn is None else knn)
    asked.temperature = own.temperature if temperature is None else temperature
    finished.config.probe = asked
    try:
        found = _both(finished, "knn")
    finally:
        finished.config.probe = own  # other probes of the run may follow
    return found | {"protocol": {"knn": list(asked.knn), "temperature": asked.temperature}}


def linear_probe(finished: Finished) -> dict[str, Any]:
    """The linear probe of every peer, of raw pixels and of the untrained networks."""
    return _both(finished, "linear")


def few(
    finished: Finished,
    shares: Sequence[float] = (0.01, 0.1),
    per_class: Sequence[int] = (1, 5, 10),
    draws: int = 5,
    seed: int = 0,
    baselines: bool = True,
) -> dict[str, Any]:
    """Linear probes on few labels, several draws each, the same rows for all networks.

    shares: of the labels, as 0.01. per_class: numbers of labels of each class. draws: choices of each amount.
    baselines: raw pixels and the untrained networks too.
    """

    if not shares and not per_class:
        raise InputError("few_labels needs an amount of labels: shares=[0.1], per_class=[10], or both")

    def score(features: Features) -> dict[str, Any]:
        found = few_labels(features, tuple(shares), tuple(per_class), draws, seed)
        return {"few_labels": {amount: asdict(value) for amount, value in found.items()}}

    evaluator = finished.evaluator
    found = {
        "protocol": {"shares": list(shares), "per_class": list(per_class), "draws": draws, "seed": seed},
        "peers": {name: score(evaluator.features(peer.embed)) for name, peer in finished.encoders.items()},
    }
    if not baselines:
        return found
    untrained = {name: score(evaluator.features(peer.embed)) for name, peer in _untrained(evaluator).items()}
    return {**found, "baselines": {"pixels": score(evaluator.pixels()), "untrained": untrained}}


def linear_sgd(finished: Finished, epochs: int = 100, batch_size: int = 256, seed: int = 0) -> dict[str, Any]:
    """The literature's linear evaluation: SGD on augmented views of the train split, the network frozen."""
    return {
        "protocol": {"epochs": epochs, "batch_size": batch_size, "seed": seed},
        "peers": {
            name: {
                "linear_sgd": asdict(
                    sgd_linear(
                        peer.embed,
                        **_supervised(finished, seed),
                        epochs=epochs,
                        batch_size=batch_size,
                        seed=seed,
                    )
                )
            }
            for name, peer in finished.encoders.items()
        },
    }


def fine(
    finished: Finished,
    labels: float | int | None = None,
    head: str = "projection",
    layers: int = 0,
    epochs: int = 60,
    batch_size: int = 256,
    peak: float = 0.03,
    seed: int = 0,
    scratch: bool = True,
) -> dict[str, Any]:
    """Fine-tuning of every peer, and of the same network untrained, on the same labels.

    labels: share (0.1) or number of labels per class (10); all by default. head, layers: so many layers of
    that head are kept below the classifier. peak: of the learning rate. scratch: the untrained networks too.
    """

    def network(peer: Encoder) -> nn.Module:
        if not layers:
            return peer.backbone
        if head not in peer.heads:
            has = ", ".join(peer.heads) or "none"
            raise InputError(f'there is no head "{head}"; the heads are: {has}')
        return through_head(peer.backbone, peer.heads[head], layers)

    def score(peer: Encoder) -> dict[str, Any]:
        trained = finetune(
            network(peer),
            **_supervised(finished, seed),
            labels=labels,
            epochs=epochs,
            batch_size=batch_size,
            peak=peak,
            seed=seed,
        )
        return {"finetune": asdict(trained)}

    untrained = _untrained(finished.evaluator) if scratch else {}
    return {
        "protocol": {
            "labels": labels,
            "head": head if layers else None,
            "layers": layers,
            "epochs": epochs,
            "batch_size": batch_size,
            "peak": peak,
            "seed": seed,
        },
        "peers": {name: score(peer) for name, peer in finished.encoders.items()},
        "baselines": {"untrained": {name: score(peer) for name, peer in untrained.items()}},
    }


def robust(
    finished: Finished,
    kinds: Sequence[str] = ("noise", "blur", "jpeg", "contrast"),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    limit: int | None = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The linear probe, fitted to clean features, on corrupted test images. limit: so many images."""
    evaluator, test = finished.evaluator, finished.data.scored.test
    assert test is not None  # `missing` has said so

    def score(network: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
        fitted = linear(evaluator.features(network))
        return {
            "robustness": robustness(
                network,
                fitted,
                test,
                evaluator.plain,
                finished.device,
                kinds=tuple(kinds),
                severities=tuple(severities),
                seed=seed,
                limit=limit,
            )
        }

    return {
        "protocol": {"kinds": list(kinds), "severities": list(severities), "limit": limit, "seed": seed},
        "peers": {name: score(peer.embed) for name, peer in finished.encoders.items()},
    }


def transfer(finished: Finished, data: Sequence[str]) -> dict[str, Any]:
    """kNN and linear probe on another data set, whose images take the size and channels of the run's."""
    if not any(word.startswith("data=") for word in data):
        raise InputError("transfer needs another data set, as in data=fashion_mnist")
    own = finished.config.copy()
    config = compose([f"data.size={own.data.size}", *data, "method=simclr"])
    check_options(config)
    read, channels = read_data(config), finished.data.train.shape[0]
    test = None if read.test is None else as_channels(read.test, channels)
    other = replace(read, train=as_channels(read.train, channels), test=test)
    own.data.name, own.probe.data = config.data.name, None
    evaluator = Evaluator(own, other, finished.device, finished.lost)
    if evaluator.missing:
        raise InputError(evaluator.missing)
    both, before = ("knn", "linear"), finished.evaluator.untrained()
    return {
        "protocol": {"data": config.data.name, "size": own.data.size},
        "scored_on": f"the test split of {config.data.name}",
        "notes": list(read.notes),  # which folder became which split, and what is not read
        **evaluator.cohort(finished.cohort, both),
        "baselines": {
            "pixels": evaluator.score(evaluator.pixels(), both)[0],
            "untrained": evaluator.cohort(before, both, evaluator.not_beginners(before))["peers"],
        },
    }


def healthy(finished: Finished, images: int = 512) -> dict[str, Any]:
    """Rank, spread, alignment and uniformity of the embeddings, and agreement and CKA of every two peers.

    On the first `images` of an epoch of the train split, in eval mode, as views of the run's recipe; needs no
    labels.
    """
    if images < 2:
        raise InputError(f"health compares images with each other: images must be at least 2, not {images}")
    config = finished.config.copy()
    count = min(images, len(finished.data.train))
    config.batch_size, config.accumulate = count, 1
    batches, _ = build_batches(config, finished.data, finished.device)
    batch = next(batches(0))
    finished.cohort.eval()
    with torch.no_grad():
        said = finished.cohort(batch)
    return {"protocol": {"images": count}, "health": figures(said)}


def _untrained(evaluator: Evaluator) -> dict[str, Encoder]:
    """The peers that embed images as they were before training, without those that are no baseline."""
    before = evaluator.untrained()
    left_out = evaluator.not_beginners(before)
    return {name: peer for name, peer in encoders(before).items() if name not in left_out}


def _both(finished: Finished, name: str) -> dict[str, Any]:
    return finished.evaluator.cohort(finished.cohort, [name]) | {
        "baselines": finished.evaluator.baselines([name])
    }


def _supervised(finished: Finished, seed: int) -> dict[str, Any]:
    """What probes that train on images take: the splits and a weak view."""
    size, scored = finished.config.data.size, finished.data.scored
    flips = finished.config.recipe.get("flip", 0.5)  # what the images forbid: digits are not mirrored
    flip = 0.0 if flips == 0 else 0.5
    return {
        "train": scored.train,
        "test": scored.test,
        "classes": len(scored.train.classes),
        "recipe": Supervised(size, pad=max(1, size // 8), flip=flip, seed=seed),
        "plain": finished.evaluator.plain,
        "device": finished.device,
    }


def _typed(key: str, default: Any, value: Any) -> Any:
    """`value`, if it is of the kind of the default; one number is a list of one where there are several."""
    if isinstance(default, tuple) or key == "knn":
        value = value if isinstance(value, list) else [value]
        kinds = (str,) if key == "kinds" else (int, float) if key == "shares" else (int,)
        right, kind = (
            all(isinstance(v, kinds) and not isinstance(v, bool) for v in value),
            "a list, as in [1,5]",
        )
    elif isinstance(default, bool):
        right, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, str):
        right, kind = isinstance(value, str), "a name"
    elif value is None and default is None:
        right, kind = True, ""
    else:
        whole = isinstance(default, int) or key == "limit"
        kinds = (int,) if whole else (int, float)
        right = (isinstance(value, kinds) and not isinstance(value, bool)) or (
            key == "limit" and value is None
        )
        kind = "a whole number" if whole else "a number"
    if not right:
        raise InputError(f'{key} must be {kind}, and "{value}" is not')
    return value


def _of_data(key: str) -> bool:
    return key == "data" or key.startswith("data.")


PROBES: dict[str, Callable[..., dict[str, Any]]] = {
    "knn": knn,
    "linear": linear_probe,
    "few_labels": few,
    "linear_sgd": linear_sgd,
    "finetune": fine,
    "robustness": robust,
    "transfer": transfer,
    "health": healthy,
}
