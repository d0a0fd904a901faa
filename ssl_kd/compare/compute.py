"""What a training cost, counted in multiply-adds: so that one network is compared with two at equal cost."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.cast import learners
from ssl_kd.errors import InputError
from ssl_kd.system import network
from ssl_kd.system.documents import from_json, mapping_of

_LEARNING = (
    3  # forward, and the gradients of what came in and of the weights, each as dear as the forward pass
)


def training_macs(runs: Sequence[tuple[DictConfig, dict[str, Any]]], folder: str = ".") -> tuple[float, str]:
    """Multiply-adds of the networks over a whole training, or NaN and the reason.

    runs: (config, summary) of runs that differ in their seed alone; folder: of the first. Counted is the
    forward pass of each peer for every image and view that it sees, three times for those whose backbone
    learns (four with grad_cache, which runs it twice) and once in the whole training for a peer with a
    cache, with its heads: exits may cost as much as a network. Losses and views are left out.
    """
    config = runs[0][0]
    kept = [summary.get("training_macs") or summary.get("macs") for _, summary in runs]
    known = [macs for macs in kept if macs]
    try:
        forward = known[0] if known else _forward_macs(config, folder)
        steps = config.get("steps") or runs[0][1]["steps"]
        learning = learners(config.peers)
        factor = _LEARNING + bool(config.get("grad_cache"))
        per_image = sum(
            float(forward.get(str(name), 0))
            * _views(peer, config)
            * (factor if name in learning and not peer.get("frozen") else 1)
            / (config.epochs if peer.get("cache") else 1)
            for name, peer in config.peers.items()
        )
    except Exception as error:  # networks and data may be anybody's; only this one figure is lost
        return float("nan"), " ".join(str(error).split()) or type(error).__name__
    return (steps * config.batch_size * per_image, "") if per_image else (float("nan"), "no peer is counted")


def _views(peer: DictConfig, config: DictConfig) -> float:
    """Views of an image that a peer sees, small ones by their share of the pixels."""
    seen = peer.get("views", "views")
    names = [seen] if isinstance(seen, str) else list(seen)
    small = float(config.recipe.get("local_size", 1.0)) ** 2 * config.recipe.get("local_views", 0)
    whole = config.recipe.get("views", 1)  # a recipe that does not say how many makes one
    return sum(small if name.startswith("views_local") else whole for name in names)


def _forward_macs(config: DictConfig, folder: str) -> dict[str, int]:
    """Peer -> multiply-adds for one image, for a run that did not note them: its networks are built again."""
    from ssl_kd.own.places import check_places, of_peers
    from ssl_kd.own.pretrained import without_weights
    from ssl_kd.trust import check_names

    config = config.copy()
    without_weights(config)
    check_names(config, folder)
    check_places(of_peers(config, whole=False), folder)
    mean = config.data.get("mean")
    noted = (mapping_of(Path(folder) / "data.json").get("train") or {}).get("shape")
    channels = len(mean) if OmegaConf.is_list(mean) else noted[0] if noted else 0
    if not channels:
        raise InputError(f"{folder} does not say how many channels its images have")
    parts = {key: config.get(key) for key in ("peers", "data", "channels_last", "classes")}
    plain = OmegaConf.to_container(OmegaConf.create({**parts, "seed": 0}))
    return _built(json.dumps(plain, sort_keys=True), channels)


@cache
def _built(parts: str, channels: int) -> dict[str, int]:
    from ssl_kd.build import build_cohort
    from ssl_kd.cost import training_macs

    config = OmegaConf.create(from_json(parts, "the config"))
    shape = (channels, int(config.data.size), int(config.data.size))
    with network.reading_a_run():
        return training_macs(build_cohort(config, shape, sources=False), shape)
