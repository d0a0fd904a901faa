"""What each option can be, as far as its value alone tells: before data, networks and torch.

What only a constructor knows stays its own business; here is what nobody else would notice in time.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.errors import InputError

MOST_THREADS = 1024  # above, OpenMP ends the process without a word
NAME = re.compile("[A-Za-z0-9_-]+")  # of peers and heads: they become parts of addresses and of file names


@dataclass(frozen=True)
class Kind:
    """what: a value of this kind, in words: "a whole number"."""

    what: str
    holds: Callable[[Any], bool]
    others: tuple[str, ...] = ()

    def __or__(self, other: "Kind") -> "Kind":
        """Either of the two."""
        return Kind(
            self.what,
            lambda value: self.holds(value) or other.holds(value),
            (*self.others, other.what, *other.others),
        )

    @property
    def says(self) -> str:
        *first, last = self.what, *self.others
        return f"{', '.join(first)} or {last}" if first else last


def _range(least: float | None, most: float | None) -> str:
    if most is not None:
        return f" from {least} to {most}"
    return "" if least is None else f", at least {least}"


def whole(least: int | None = None, most: int | None = None) -> Kind:
    """A whole number; both ends count."""

    def holds(value: Any) -> bool:
        right = isinstance(value, int) and not isinstance(value, bool)
        return right and (least is None or value >= least) and (most is None or value <= most)

    return Kind(f"a whole number{_range(least, most)}", holds)


def number(least: float | None = None, most: float | None = None) -> Kind:
    """A number; both ends count."""

    def holds(value: Any) -> bool:
        right = isinstance(value, int | float) and not isinstance(value, bool)
        return right and (least is None or value >= least) and (most is None or value <= most)

    return Kind(f"a number{_range(least, most)}", holds)


positive = Kind("a number above 0", lambda value: number().holds(value) and value > 0)
truth = Kind("true or false", lambda value: isinstance(value, bool))
whole_or_backbone = truth | Kind("backbone", lambda value: value == "backbone")
text = Kind("a name", lambda value: isinstance(value, str) and bool(value.strip()))
texts = Kind("a list of names", lambda value: isinstance(value, list) and all(map(text.holds, value)))
group = Kind("a group of options", lambda value: isinstance(value, dict))
null = Kind("null", lambda value: value is None)
counts = Kind(
    "a list of whole numbers, at least 1, as in [1,20]",
    lambda value: isinstance(value, list) and bool(value) and all(map(whole(1).holds, value)),
)
bounds = Kind(
    "two whole numbers, the smaller first, as in [20,100]",
    lambda value: counts.holds(value) and len(value) == 2 and value[0] <= value[1],
)
path = Kind("a place, as in runs/a", text.holds)
word = Kind('a name without "/"', lambda value: text.holds(value) and not re.search(r"[/\\\0]", value))

# `*` stands for any one key. First what has to hold for the config to be put together at all,
SHAPES = {
    "pretext": text | texts | null,
    "peers.*.pretext": text | texts | null,
    "others.*.pretext": text | texts | null,
    "peers": text | texts | group | null,
    "peers.*": text | group,
    "peers.*.backbone": text | group,
    "others": group,
    "others.*": group,
    "others.*.follow": group | null,
    "terms": group,
    "terms.*": group | null,
    "optim": group,
    "optim.optimizer": group,
    "data": group,
    "recipe": group,
    "probe": group,
    "probe.data": text | group | null,
    "health": group,
    "labels": group,
    "sampler": text | group,
    "tracker_options": group,
}
# then what a whole config says,
VALUES = {
    "run": path | whole() | null,
    "method": word,
    "seed": whole(),
    "epochs": whole(1),
    "batch_size": whole(1),
    "accumulate": whole(1),
    "clip": positive | null,
    "long_tail": number(1) | null,
    "labels.draw": whole(0),
    "labels.only": truth,
    "threads": whole(1, MOST_THREADS) | null,
    "processes": whole(1, MOST_THREADS) | null,
    "log_every": whole(1),
    "save_every": whole(1),
    "keep": whole(1),
    "probe.every": whole(0),
    "probe.knn": counts,
    "probe.groups": bounds,
    "probe.temperature": positive,
    "probe.batch_size": whole(1),
    "tracker": text | texts | null,
    "tracker_options.*": group | null,
    "data.name": word,
    "data.size": whole(1),
    "optim.rate": number(0) | group,
    "optim.unnormalised": number(0),
    "optim.optimizer.momentum": number(0, 1),
    "peers": group,
    "peers.*": group,
    "peers.*.frozen": whole_or_backbone,
    "peers.*.cache": truth,
    "peers.*.lr_scale": number(0),
    "peers.*.cut": whole(0) | group | null,
    "peers.*.follow": group | null,
    "peers.*.follow.leader": text,
    "peers.*.follow.momentum": number(0, 1) | group,
    "peers.*.optim": group | null,
    "peers.*.optim.optimizer": group,
    "peers.*.optim.optimizer.momentum": number(0, 1),
    "peers.*.optim.rate": number(0) | group,
    "terms": group,
    "terms.*": group,
    "terms.*.peers": text | texts | group,
    "terms.*.weight": number() | group | null,
}
# what our sources of images are told,
SOURCE = {
    "path": path,
    "root": path | null,
    "test": path | group | null,
    "workers": whole(0, MOST_THREADS) | null,
    "bit_depth": whole(8, 16) | null,
    "splits": group | text | null,
}
# our schedules, where they are of learning rates,
RATE = {"peak": number(0), "warmup": number(0, 1), "from_zero": truth}
# and what a peer says that is no constructor of its own.
ENCODER = {
    "backbone": group,
    "heads": group | null,
    "heads.*": group,
    "views": text | texts,
    "sees": text | texts | null,
    "stages": texts | group | null,
    "per_view": truth,
}


def check(config: DictConfig | Mapping[str, Any], rules: Mapping[str, Kind]) -> None:
    """Refuses the first value that is not of its kind; what is interpolated is known later. InputError."""
    _check(_plain(config), rules, "")


def check_whole(config: DictConfig | Mapping[str, Any]) -> None:
    """Everything that can be said of a composed config. Raises InputError."""
    plain = _plain(config)
    check(plain, SHAPES)
    check(plain, VALUES)
    if _ours(plain["data"], "data"):
        _check(plain["data"], SOURCE, "data.")
    for pattern in ("optim.rate", "peers.*.optim.rate"):
        for key, node in _found(plain, pattern.split(".")):
            if _ours(node, "schedules"):
                _check(node, RATE, f"{key}.")
    for name, peer in plain["peers"].items():
        _check_name(name, "a peer")
        if "_target_" not in peer:
            _check(peer, ENCODER, f"peers.{name}.")
            for head in peer.get("heads") or ():
                _check_name(head, f"a head of {name}")
    for key, value in _leaves(plain):
        tempers = key.startswith("terms.") and key.endswith(".temperature")  # `inf` means something there
        if isinstance(value, float) and not math.isfinite(value) and not (tempers and value > 0):
            raise _refusal(key, value, "a finite number")
        if tempers and isinstance(value, int | float) and value <= 0:
            raise _refusal(key, value, positive.says)


def _ours(node: Any, module: str) -> bool:
    """Whether the node names a part of ours; a user's own may mean other things by the same words."""
    return isinstance(node, dict) and str(node.get("_target_")).startswith(f"ssl_kd.{module}.")


def _check_name(name: Any, what: str) -> None:
    if not NAME.fullmatch(str(name)) or name == "batch":
        raise InputError(
            f'"{name}" cannot name {what}: use letters, digits, "-" and "_", and no reserved word'
        )


def _check(plain: Mapping[str, Any], rules: Mapping[str, Kind], where: str) -> None:
    for pattern, kind in rules.items():
        for key, value in _found(plain, pattern.split(".")):
            if not _open(value) and not kind.holds(value):
                raise _refusal(where + key, value, kind.says)


def _plain(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(config, dict):
        return config
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    return plain


def _open(value: Any) -> bool:
    """Whether a value is filled in later."""
    return isinstance(value, str) and value.startswith("${")


def _refusal(key: str, value: Any, says: str) -> InputError:
    shown = str(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return InputError(f'{key} must be {says}, and "{shown}" is not')


def _found(node: Any, parts: list[str], before: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of everything that a pattern names and that is there."""
    if not isinstance(node, dict):
        return
    for key in list(node) if parts[0] == "*" else [parts[0]] if parts[0] in node else []:
        if parts[1:]:
            yield from _found(node[key], parts[1:], f"{before}{key}.")
        else:
            yield f"{before}{key}", node[key]


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, key)
    else:
        yield key, node
