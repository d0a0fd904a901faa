"""Weights that a network's constructor would fetch or read by an option, where a checkpoint has them."""

from collections.abc import Container
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.own.harmless import default_of
from ssl_kd.own.nodes import Named, named, of_library, within

# Options by which constructors of ours and of the libraries take weights, and what says that they take none.
_NONE: dict[str, Any] = {
    "weights": None,
    "weights_backbone": None,
    "pretrained": False,
    "pretrained_backbone": False,
    "checkpoint_path": "",
}


def without_weights(config: DictConfig, peers: Container[str] | None = None) -> set[str]:
    """Has the networks of a config built as they are drawn; returns the names of the peers that are changed.

    peers: those that have their weights elsewhere; None for all. What a module of the user's own does with
    options of these names is its own affair.
    """
    changed = set()
    for name, peer in (config.get("peers") or {}).items():
        if not isinstance(peer, DictConfig):
            continue
        if peers is not None and str(name) not in peers:
            continue
        plain = OmegaConf.to_container(peer, resolve=False)
        for each in named(plain):
            node = OmegaConf.select(peer, each.path) if each.path else peer
            for key in _reading(each, each.path == ""):
                node.pop(key, None)
                if not within(each.name, ("ssl_kd",)):  # of which none reads by default
                    node[key] = _NONE[key]
                changed.add(str(name))
    return changed


def _reading(each: Named, whole: bool) -> list[str]:
    """The options by which a node would get weights; whole: it is the peer, whose `weights` are ours."""
    if not of_library(each.name):
        return []
    keys = [key for key in _NONE if not (whole and key == "weights" and each.name.startswith("ssl_kd."))]
    return [key for key in keys if (each.node[key] if key in each.node else default_of(each, key))]
