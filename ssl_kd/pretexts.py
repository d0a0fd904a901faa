"""What each peer learns by itself: pretext tasks, files of `configs/pretext/` that bring heads and terms.

A pretext is a mapping of
  peer     laid over the method's template for each peer that has this pretext (its heads, mostly)
  others   peers made for each of those that learn: "own" is that peer, "own_NAME" another made for it
  terms    "all" are the learning peers that have it; a term that says "own" is made for each of them
What several pretexts bring is merged; a peer may have more than one. No torch here.
"""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ssl_kd.cast import add_others, learners, members, overlay
from ssl_kd.errors import InputError, nearest
from ssl_kd.groups import choices, chosen_file
from ssl_kd.system.documents import config_of

_KEYS = ("peer", "others", "terms")


def listed(value: Any) -> tuple[str, ...]:
    """One name, several or none (null)."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(name) for name in value)


class Pretexts:
    """The pretexts of one config: of each of the user's peers, and of the peers that the method adds.

    asked: `pretext`, `peers` and `others` as the words leave them.
    of: peer -> what the word `peers.NAME.pretext` says.
    """

    def __init__(self, asked: DictConfig, of: Mapping[str, Any]) -> None:
        own = members(asked.peers)
        self.default = listed(asked.pretext)
        self.peers = {name: self._of(name, own, of) for name, node in own.items() if "_target_" not in node}
        self.others = {
            str(name): listed(node.get("pretext"))
            for name, node in asked.others.items()
            if isinstance(node, DictConfig) and "pretext" in node
        }
        used = [name for names in [*self.peers.values(), *self.others.values()] for name in names]
        self.files = {name: _read(name) for name in dict.fromkeys(used)}

    def _of(
        self, name: str, own: Mapping[str, DictConfig], of: Mapping[str, Any], behind: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        """A follower's is that of its leader, unless it says otherwise."""
        if name in of or "pretext" in own[name]:
            return listed(of.get(name, own[name].get("pretext")))
        leader = str((own[name].get("follow") or {}).get("leader"))
        follows = leader in own and leader not in behind
        return self._of(leader, own, of, (*behind, name)) if follows else self.default

    def lay(self, config: DictConfig) -> None:
        """Puts what the pretexts bring under the method's terms and others; these go before it."""
        self.terms = self._gather("terms")
        terms: Any = OmegaConf.create({})
        for _, name, node in self.terms:
            terms[name] = node
        overlay(terms, config.terms)
        config.terms = terms
        for name, names in self.others.items():
            for pretext in names:
                overlay(config.others[name], self.files[pretext].get("peer", {}))
        self.added = self._gather("others")
        for pretext, name, node in self.added:
            if name in config.others:
                raise InputError(
                    f'the pretext {pretext} adds peers "{name}", and the method {config.method} has one'
                )
            config.others[name] = node

    def templates(self, template: DictConfig) -> dict[tuple[str, ...], DictConfig]:
        """What peers of each pretext, or of each set of them, have unless they say otherwise."""
        found = {}
        for names in dict.fromkeys(self.peers.values()) or [self.default]:
            found[names] = OmegaConf.create({"peer": OmegaConf.to_container(template)}).peer
            for name in (name for name in names if name in self.files):  # no peer may have the default
                overlay(found[names], self.files[name].get("peer", {}))
        return found

    def add(
        self, peers: DictConfig, others: DictConfig, separate: bool
    ) -> tuple[list[str], dict[str, list[str]]]:
        """Puts the method's own peers and then those of the pretexts behind the user's.

        Returns the names that "all" stands for in the terms of the method, and in each term of a pretext.
        """
        for name, pretexts in self.peers.items():
            if name in peers:
                peers[name].pretext = list(pretexts)
        added = {name for _, name, _ in self.added}
        methods = OmegaConf.create({name: node for name, node in others.items() if name not in added})
        everyone = add_others(peers, methods, separate)
        having = {
            pretext: [name for name in learners(peers) if pretext in listed(peers[name].get("pretext"))]
            for pretext in self.files
        }
        for pretext, name, _ in self.added:
            if name in others and having[pretext]:
                add_others(peers, OmegaConf.create({name: others[name]}), separate, having[pretext])
        for peer in peers.values():
            if "_target_" not in peer:
                peer.pop("pretext", None)
        return everyone, {name: having[pretext] for pretext, name, _ in self.terms}

    def _gather(self, key: str) -> list[tuple[str, str, DictConfig]]:
        """(pretext, name, node) of everything of that kind; two of one name are refused."""
        found: list[tuple[str, str, DictConfig]] = []
        for pretext, file in self.files.items():
            for name, node in (file.get(key) or {}).items():
                other = next((other for other, theirs, _ in found if theirs == name), None)
                if other is not None:
                    raise InputError(f'the pretexts {other} and {pretext} both have {key} called "{name}"')
                found.append((pretext, str(name), node))
        return found


def _read(name: str) -> DictConfig:
    path = chosen_file("pretext", name)
    if path is None:
        raise InputError(f'there is no pretext "{name}"; {nearest(name, choices("pretext"))}')
    file = config_of(path)
    if isinstance(file, ListConfig) or any(not isinstance(file.get(key), DictConfig) for key in file):
        raise InputError(f"{path} must have groups of options: {', '.join(_KEYS)}")
    odd = [str(key) for key in file if key not in _KEYS]
    if odd:
        raise InputError(f'{path}: "{odd[0]}" is not part of a pretext; {nearest(odd[0], list(_KEYS))}')
    return file
