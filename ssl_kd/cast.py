"""Who takes part: the user's peers, made whole from the method's template, and those that the method adds.

`others` of a method are peers beside the user's. In them and in the terms "all" stands for the learning peers
that the user named and "all.output" for that output of each. One that says "own" or "previous" is made for
each of those, as NAME_OTHER, own being that peer and previous the one before it (the first has none, and gets
none of these); "own_OTHER.output" is what another that was made for that peer says. So are terms, as
TERM/NAME. No torch here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ssl_kd.errors import InputError

_PLACES = ("own", "previous")
_NOT_COPIED = ("weights", "optim", "lr_scale", "pretext")  # from a leader to its follower


def members(peers: Any) -> dict[str, DictConfig]:
    """name -> what is said of it, from a list of backbones or a mapping of names to backbones or options."""
    if isinstance(peers, str):
        peers = [peers]
    if isinstance(peers, ListConfig | list):
        names = [str(name) for name in peers]
        peers = {_numbered(names, i): {"backbone": name} for i, name in enumerate(names)}
    if not peers:
        raise InputError("peers is empty; name at least one backbone, as in peers=[resnet20,resnet20]")
    for name in peers:
        if str(name) in ("all", *_PLACES):
            raise InputError(f'"{name}" cannot name a peer: it stands for others in a method')
    return {str(name): described(own) for name, own in dict(peers).items()}


def named(peers: Any, template: DictConfig | Callable[[str], DictConfig], separate: bool) -> DictConfig:
    """name -> full description, from whatever `members` takes.

    template: what every peer has unless it says otherwise, or a function of its name.
    separate: each peer sees views of its own.
    """
    full = {}
    for name, own in members(peers).items():
        base = {} if "_target_" in own else template(name) if callable(template) else template
        peer = OmegaConf.create(base if isinstance(base, dict) else OmegaConf.to_container(base))
        overlay(peer, own)
        if separate:
            _separate(name, peer)
        full[name] = peer
    return OmegaConf.create(full)


def learners(peers: DictConfig) -> list[str]:
    """Names of the peers that learn by gradient."""
    return [str(name) for name, peer in peers.items() if not is_frozen(peer) and not peer.get("follow")]


def is_frozen(peer: DictConfig) -> bool:
    """Whether nothing of it learns; of a peer with `frozen: backbone` the heads do."""
    return peer.get("frozen") is True


def add_others(
    peers: DictConfig, others: DictConfig, separate: bool, of: Sequence[str] | None = None
) -> list[str]:
    """Puts the method's own peers behind the user's; returns the names that "all" stands for.

    of: these names, if not those of the peers that learn.
    """
    everyone = learners(peers) if of is None else list(of)
    first = peers[everyone[0]] if everyone else next(iter(peers.values()))
    for name, node in others.items():
        for place in _each(OmegaConf.to_container(node), everyone):
            own = place.get("own")
            full = f"{own}_{name}" if own else str(name)
            if full in peers:
                raise InputError(f'"{full}" cannot name a peer: the method has one of that name')
            peer = described(_filled(OmegaConf.to_container(node), place, everyone))
            like = peers.get(str((peer.get("follow") or {}).get("leader")))
            copied = like is not None and "backbone" not in peer
            if copied:  # a follower is what its leader is, and sees what it sees
                peer = OmegaConf.merge({key: like[key] for key in like if key not in _NOT_COPIED}, peer)
            if "_target_" not in peer and "backbone" not in peer:
                peer.backbone = first.get("backbone")
            if separate:
                if peer.get("sees"):
                    raise InputError(
                        f'"{full}" reads what other networks say of the same views; leave out separate_views'
                    )
                if not copied:
                    _separate(full, peer)
            peers[full] = peer
    return everyone


def expand_all(node: Any, everyone: Sequence[str]) -> Any:
    """The terms of a composed config with the names that "all" stands for."""
    peers = node.get("peers")
    if peers == "all" or isinstance(peers, ListConfig):
        listed = ["all"] if peers == "all" else list(peers)
        node.peers = [name for entry in listed for name in (everyone if entry == "all" else [entry])]
    plain = OmegaConf.to_container(node)
    assert isinstance(plain, dict)
    filled = {key: value if key == "peers" else _filled(value, {}, everyone) for key, value in plain.items()}
    return OmegaConf.create(filled)


def expand_own(name: str, node: DictConfig, everyone: Sequence[str]) -> dict[str, DictConfig]:
    """The term, or where it says "own" one for each, as NAME/PEER."""
    plain = OmegaConf.to_container(node)
    places = _each(plain, everyone)
    if places == [{}]:
        return {name: node}
    return {f"{name}/{place['own']}": OmegaConf.create(_filled(plain, place, everyone)) for place in places}


def expand_pairs(node: Any, everyone: Sequence[str], peers: DictConfig) -> None:
    """A mapping student -> teacher: {all: all_decoder} pairs each with its own, as far as there are both."""
    pairs = node.get("peers")
    if not isinstance(pairs, DictConfig):
        return
    found = {}
    for student, teacher in pairs.items():
        general = str(student).split("_")[0] == "all"
        for name in everyone if general else [""]:
            a, b = (_someone(str(text), name) if general else str(text) for text in (student, teacher))
            if not general or (a in peers and b in peers):
                found[a] = b
    node.peers = found


def overlay(base: DictConfig, new: DictConfig) -> None:
    """Merges `new` into `base`; a node with another `_target_` replaces the old one and its options."""
    for key in new:
        value = new._get_node(key)
        old: Any = base._get_node(key) if key in base else None
        mergeable = isinstance(value, DictConfig) and isinstance(old, DictConfig)
        if mergeable and value.get("_target_", old.get("_target_")) == old.get("_target_"):
            overlay(old, value)
        else:
            base[key] = value


def described(own: Any) -> DictConfig:
    """A peer's own options; a backbone by its name becomes a node."""
    own = (
        own
        if isinstance(own, DictConfig)
        else OmegaConf.create({"backbone": own} if isinstance(own, str) else own)
    )
    if isinstance(own.get("backbone"), str):
        own.backbone = {"_target_": "ssl_kd.backbones.create", "name": own.backbone}
    elif own.get("backbone") is not None and "_target_" not in own.backbone:
        own.backbone["_target_"] = "ssl_kd.backbones.create"
    return own


def _separate(name: str, peer: DictConfig) -> None:
    if "_target_" not in peer:
        views = peer.get("views", "views")
        peer.views = f"{views}_{name}" if isinstance(views, str) else [f"{view}_{name}" for view in views]


def _numbered(names: list[str], i: int) -> str:
    """A peer's name from its backbone's; equal ones are counted."""
    clean = names[i].replace("/", "_").replace(".", "_")
    return f"{clean}_{names[: i + 1].count(names[i])}" if names.count(names[i]) > 1 else clean


def _each(node: Any, everyone: Sequence[str]) -> list[dict[str, str]]:
    """What "own" and "previous" stand for, once for each peer that the node is to be made for."""
    owners = {text.split(".")[0].split("_")[0] for text in texts(node)}
    if "previous" in owners:
        return [{"own": own, "previous": everyone[i]} for i, own in enumerate(everyone[1:])]
    return [{"own": own} for own in everyone] if "own" in owners else [{}]


def _names(key: Any, value: Any) -> bool:
    """Whether a value can name peers; a lone "own" only as a leader, since buffers may follow so too."""
    lone = isinstance(value, str) and "." not in value and value.split("_")[0] in _PLACES
    return key != "_target_" and (not lone or key == "leader")


def texts(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        return [text for key, value in node.items() if _names(key, value) for text in texts(value)]
    if isinstance(node, list):
        return [text for value in node for text in texts(value)]
    return [node] if isinstance(node, str) else []


def _filled(node: Any, place: Mapping[str, str], everyone: Sequence[str]) -> Any:
    """The node with names in place of "own", "previous" and "all."; the last makes a list."""
    if isinstance(node, Mapping):
        return {
            key: _filled(value, place, everyone) if _names(key, value) else value
            for key, value in node.items()
        }
    if isinstance(node, list):
        listed: list[Any] = []
        for value in node:
            filled = _filled(value, place, everyone)
            listed += filled if isinstance(value, str) and isinstance(filled, list) else [filled]
        return listed
    if not isinstance(node, str):
        return node
    owner, dot, output = node.partition(".")
    if owner == "all" and dot:
        return [f"{name}.{output}" for name in everyone]
    word, line, other = owner.partition("_")
    return f"{place[word]}{line}{other}{dot}{output}" if word in place else node


def _someone(text: str, name: str) -> str:
    """ "all" -> NAME, "all_decoder" -> NAME_decoder."""
    return name + text.removeprefix("all") if text.split("_")[0] == "all" else text
