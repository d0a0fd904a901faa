"""One option put into a config: there has to be such an option, and the value has to be of its kind."""

import difflib
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.errors import InputError, nearest
from ssl_kd.words import Said

PEER_KEYS = (
    "backbone",
    "heads",
    "views",
    "sees",
    "stages",
    "per_view",
    "frozen",
    "follow",
    "lr_scale",
    "weights",
    "optim",
    "cache",
    "cut",
    "pretext",
)
# Mappings that hold names the user chooses; everywhere else an unknown key is a mistake.
_OPEN = ("peers", "peer", "others", "terms", "presets", "part", "tracker_options")
_PARTLY = ("health", "probe", "labels")  # a mapping says some of their options, and leaves the others
_FROM_DATA = {"steps": "epochs= says how long to train", "classes": "it counts its own"}


def assign(config: DictConfig, said: Said) -> None:
    """Puts what is said of one option into the config. Raises InputError, with the file that said it."""
    try:
        _put(config, said.key, said.value)
    except InputError as error:
        if not said.where:
            raise
        raise InputError(f"{said.where}: {error}") from error


def _put(config: DictConfig, key: str, value: Any) -> None:
    delete, key = key.startswith("~"), key.lstrip("~")
    parts = key.split(".")
    if key in _FROM_DATA:
        raise InputError(f"{key} is filled in by the data; {_FROM_DATA[key]}")
    node: Any = config
    for depth, part in enumerate(parts[:-1]):
        _known(node, part, parts[:depth])
        if node.get(part) is None or (node[part] == {} and parts[0] in _OPEN):
            node[part] = {}
        node = node[part]
        if not isinstance(node, DictConfig):
            raise InputError(f'"{".".join(parts[: depth + 1])}" is {node}, not a group of options')
    _known(node, parts[-1], parts[:-1], last=True)
    if key in _PARTLY and isinstance(value, dict):
        for name, entry in value.items():
            _put(config, f"{key}.{name}", entry)
        return
    if delete:
        if not parts[1:] or not (parts[0] in _OPEN or "_target_" in node):
            raise InputError(
                f'"{key}" is always there and cannot be taken away; ~ takes away a peer, a head, a term, or '
                "an option of what `_target_` names"
            )
        node.pop(parts[-1], None)
        return
    old = node.get(parts[-1]) if not OmegaConf.is_missing(node, parts[-1]) else None
    node[parts[-1]] = _typed(key, old, value)


def _known(node: DictConfig, part: str, parents: list[str], last: bool = False) -> None:
    """Refuses a key that does not exist, unless a constructor may take it or the user may invent it.

    last: nothing follows. A whole new term or head can be given; an option of one that is not there cannot.
    """
    if part in node or "_target_" in node:
        return
    if parents and parents[0] in _OPEN:
        if parents == ["peers"]:
            raise InputError(f'there is no peer "{part}"; {nearest(part, [str(k) for k in node])}')
        if last or part in PEER_KEYS:
            return
    hint = _suggest(part, [str(k) for k in node], ".".join(parents))
    raise InputError(f'"{".".join([*parents, part])}" is not an option; {hint}')


def _suggest(part: str, known: list[str], where: str) -> str:
    match = difflib.get_close_matches(part, known, n=1, cutoff=0.5)
    return (
        f'did you mean "{where + "." if where else ""}{match[0]}"?'
        if match
        else f"there are: {', '.join(known)}"
    )


def _typed(key: str, old: Any, value: Any) -> Any:
    """`value`, if it is of the kind that stands there now."""
    if isinstance(old, bool):
        right, kind = isinstance(value, bool), "true or false"
    elif isinstance(old, int):
        of_seed = key == "labels.draw" and value == "${seed}"
        right = of_seed or (isinstance(value, int) and not isinstance(value, bool))
        kind = "a whole number"
    elif isinstance(old, float):
        several = key.startswith("recipe.") or key in ("data.mean", "data.std")  # per view, per channel
        listed = isinstance(value, list) and several
        stage = isinstance(value, str) and (key.endswith(".reads") or ".stages." in key)  # by its name
        right = listed or stage or (isinstance(value, int | float | dict) and not isinstance(value, bool))
        kind = "a number"
    elif isinstance(old, DictConfig):
        right, kind = (
            isinstance(value, dict | list | int | float | str) or value is None,
            "a group of options",
        )
    else:
        return value
    if not right:
        raise InputError(f'{key} must be {kind}, and "{value}" is not')
    return value
