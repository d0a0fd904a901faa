"""Which peer of a group is compared with which peer of the base: the same network, trained otherwise."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.cast import is_frozen, learners
from ssl_kd.compare.groups import Group
from ssl_kd.compare.notes import equal_compute
from ssl_kd.compare.runs import Entry
from ssl_kd.compare.scores import scores
from ssl_kd.errors import InputError


def counterparts(group: Group, base: Group) -> tuple[dict[str, str], list[str]]:
    """Peer of `group` -> peer of `base` with the same backbone, by name where it has one of that name.

    Frozen peers have learnt nothing and are no counterparts. Second: what is left out, in words.
    """
    own, theirs = _networks(group.runs[0]), _networks(base.runs[0])
    peers = group.runs[0].config.peers
    still = [str(name) for name, peer in peers.items() if is_frozen(peer)]
    pairs, notes = {}, [f"{name} of {group.name} is frozen and not compared." for name in still]
    for name, network in own.items():
        equal = [other for other, its in theirs.items() if its == network]
        if not equal and peers[name].get("sees"):
            notes.append(f"{name} of {group.name} reads what other peers say and is not compared.")
            continue
        if not equal:
            notes.append(
                f"{name} of {group.name} is not compared: {base.name} has no peer with its backbone "
                f"({_backbone(network)})."
            )
            continue
        pairs[name] = name if name in equal else equal[0]
        if name not in equal and len(equal) > 1:
            notes.append(
                f"{name} of {group.name} is compared with {equal[0]}, the first peer of {base.name} with its "
                "backbone."
            )
    return pairs, notes


def alike(single: Group, group: Group) -> bool:
    """Whether `single` is one network alone at the compute of `group`, which has that network too."""
    alone = len(single.runs[0].config.peers) == 1
    return alone and equal_compute(single, group) and bool(counterparts(group, single)[0])


def _networks(entry: Entry) -> dict[str, Any]:
    """The description of each scored peer's backbone, learners first; of a peer without one, of all of it."""
    config: DictConfig = entry.config
    learning = learners(config.peers)
    following = [str(name) for name, peer in config.peers.items() if peer.get("follow")]
    scored = [name for name in [*learning, *following] if scores(entry.summary["peers"].get(name, {}))]
    if not scored:
        raise InputError(
            f"{entry.folder} has no scores to compare: the probes need labels and a test split, and its data "
            f'"{config.data.get("name")}" had none'
        )
    return {name: _network(config.peers[name]) for name in scored}


def _network(peer: DictConfig) -> Any:
    if "backbone" in peer:
        return OmegaConf.to_container(peer.backbone)
    plain: Any = OmegaConf.to_container(peer)
    return {key: value for key, value in plain.items() if key not in ("frozen", "follow", "lr_scale")}


def _backbone(network: Any) -> str:
    options = ", ".join(f"{key}={value}" for key, value in network.items() if key not in ("_target_", "name"))
    name = str(network.get("name", network.get("_target_")))
    return f"{name}, {options}" if options else name


def nothing_in_common(group: Group, base: Group) -> InputError:
    one, other = group.runs[0], base.runs[0]
    have = [", ".join(map(_backbone, _networks(entry).values())) for entry in (one, other)]
    return InputError(
        f"{one.folder} and {other.folder} have no backbone in common ({have[0]} and {have[1]}): a peer is "
        "compared with the same network trained otherwise; choose another base= or leave one out"
    )
