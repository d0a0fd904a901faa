"""What words and option files say: choices of groups for hydra, and assignments, the last of which counts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_kd.errors import InputError, nearest
from ssl_kd.groups import GROUPS, choices
from ssl_kd.options_file import FILE, said_in
from ssl_kd.system.documents import from_yaml
from ssl_kd.system.paths import expand, expanded, is_path

_OF_METHOD = ("terms", "parts", "preset", "others")


class Said(NamedTuple):
    """What is said of an option, and in which file, if not on the command line."""

    key: str
    value: Any
    where: str = ""


def options(words: Sequence[str]) -> dict[str, Any]:
    """The `key=value` words of a command that has no config of its own."""
    return {item.key: item.value for item in _split(words)[1]}


def read(words: Sequence[str]) -> tuple[dict[str, str], list[Said]]:
    """Choices of groups and assignments: those of the files that `config=` names, then those of the words.

    What a file says of its choice goes with it: the options of data=folder say nothing of data=cifar10.
    """
    files = [word.partition("=")[2] for word in words if word.partition("=")[0] == FILE]
    layers = [_file(expand(file)) for file in files]
    layers.append(_split([word for word in words if word.partition("=")[0] != FILE]))
    picked: dict[str, str] = {}
    assigned: list[Said] = []
    for choice, items in layers:
        other = [group for group, name in choice.items() if picked.get(group, name) != name]
        other += [item.key for item in items if item.key in (*GROUPS, "peers")]  # described anew
        assigned = [item for item in assigned if not _belongs(item.key.lstrip("~"), other)] + items
        picked |= choice
    last = {
        item.key: place for place, item in enumerate(assigned)
    }  # which alone counts: it may be null again
    kept = [item for i, item in enumerate(assigned) if i == last[item.key] or isinstance(item.value, dict)]
    return picked, kept


def last(assigned: Sequence[Said], key: str, default: Any) -> Any:
    """What the user's words say, the last of them, or else `default`."""
    return next((item.value for item in reversed(assigned) if item.key == key), default)


def _belongs(key: str, groups: Sequence[str]) -> bool:
    """Whether an option is of the choice in one of the groups; a method's terms and parts are."""
    return any(key.split(".")[0] in (_OF_METHOD if group == "method" else (group,)) for group in groups)


def _file(path: Path) -> tuple[dict[str, str], list[Said]]:
    picked, assigned = {}, []
    for key, value in said_in(path):
        if key in GROUPS and isinstance(value, str):
            picked[key] = _choice(key, value, f"{path}: ")
        else:
            assigned.append(Said(key, expanded(key, value), str(path)))
    return picked, assigned


def _split(words: Sequence[str]) -> tuple[dict[str, str], list[Said]]:
    """Choices of groups (for hydra) and assignments (ours: `+` changes nothing, `~key` deletes)."""
    picked, assigned = {}, []
    for word in words:
        key, equals, text = word.partition("=")
        key = key.lstrip("+").lstrip("-") if equals else key
        if word.startswith("~"):
            assigned.append(Said(word, None))
        elif not equals:
            raise InputError(f'"{word}" is not an option; options are written key=value, as in epochs=10')
        elif key in GROUPS and not text.startswith("{"):  # a mapping describes one instead of naming it
            picked[key] = _choice(key, text)
        else:
            assigned.append(Said(key, expanded(key, _value(key, text))))
    return picked, assigned


def _choice(group: str, name: str, where: str = "") -> str:
    if name not in choices(group):
        raise InputError(f'{where}there is no {group} "{name}"; {nearest(name, choices(group))}')
    return name


def _value(key: str, text: str) -> Any:
    """What hydra reads, or else what YAML reads (for quoted keys, as in {"a<-b": 1})."""
    if is_path(key) and not text.isprintable() and text[:1] not in "{[":
        return text  # files may be called what neither of the two reads
    try:
        value = OverridesParser.create().parse_override(f"x={text}").value()
        return OmegaConf.to_container(OmegaConf.create({"x": value}))["x"]
    except (HydraException, OmegaConfBaseException):
        pass
    try:
        return from_yaml(f"x: {text}", key)["x"]
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f'{key}: "{text}" cannot be read; lists are [a,b] and mappings {{a: 1}}') from error
