"""The one reader of YAML and JSON: of a file and nothing else, of bounded size and depth, each key once.

What is read may be anybody's. A pipe in place of a file would be waited on for ever, a few lines of aliases
fill any memory, and of two entries of a name the libraries take the last without a word.
"""

import json
import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_kd.errors import InputError
from ssl_kd.system.reading import NoFile, opened

if TYPE_CHECKING:
    from omegaconf import DictConfig, ListConfig

CONFIG = 1 << 20  # bytes of a file of options; ours have some 10 KiB
RECORD = 16 << 20  # of what a run notes: scores, environments, states
LINE = 1 << 20  # of one line of metrics
MOST_DEEP = 64  # mappings and lists within each other
_RESOLVERS = "yaml_implicit_resolvers"
MOST_NODES = 100_000  # values of a YAML file, with what its aliases stand for


def bytes_of(path: str | Path, most: int = RECORD) -> bytes:
    """The content of a file. Raises InputError for what is none, or has more than `most` bytes."""
    try:
        with opened(path) as file:
            # nothing of a file that is too large is read
            content = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else b"\0" * (most + 1)
    except OSError as error:
        raise InputError(_not_read(path, error)) from error
    if len(content) > most:
        raise InputError(f"{path} cannot be read (it has more than {most:,} bytes, which no such file has)")
    return content


def text_of(path: str | Path, most: int = RECORD) -> str:
    """The UTF-8 text in a file, its mark of byte order left out. Raises InputError."""
    try:
        return bytes_of(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read (it is not UTF-8, at byte {error.start:,})") from error


def json_of(path: str | Path, most: int = RECORD) -> Any:
    """What a JSON file says. Raises InputError."""
    return from_json(text_of(path, most), path)


def from_json(text: str, where: object) -> Any:
    """What JSON text says. where: that it is from, for messages. Raises InputError."""
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except RecursionError as error:
        raise InputError(f"{where} cannot be read (it is nested too deeply)") from error
    except ValueError as error:
        raise InputError(f"{where} cannot be read ({_of_json(error)})") from error


def mapping_of(path: str | Path, most: int = RECORD) -> dict[str, Any]:
    """The mapping in a JSON file; {} where there is nothing of that name. Raises InputError."""
    if not os.path.lexists(path):
        return {}
    found = json_of(path, most)
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no mapping")
    return found


def lines_of(path: str | Path) -> Iterator[dict[str, Any]]:
    """The mappings in a file of JSON lines, one after the other; a last one that was cut short is left out.

    The file may have any size, each line at most LINE bytes. Raises InputError.
    """
    try:
        file = opened(path)
    except OSError as error:
        raise InputError(_not_read(path, error)) from error
    with file:
        number = 0
        while line := file.readline(LINE + 1):
            number += 1
            if len(line) > LINE:
                raise InputError(
                    f"{path} cannot be read (line {number:,} has more than {LINE:,} bytes, which no line has)"
                )
            if not line.endswith(b"\n"):
                return
            try:
                found = json.loads(line, object_pairs_hook=_each_once)
            except RecursionError as error:
                raise InputError(f"{path} cannot be read (line {number:,} is nested too deeply)") from error
            except ValueError as error:
                raise InputError(f"{path} cannot be read (line {number:,}: {_of_json(error)})") from error
            if not isinstance(found, dict):
                raise InputError(f"{path} cannot be read (line {number:,} is no mapping)")
            yield found


def yaml_of(path: str | Path, plain: bool = False) -> Any:
    """What a YAML file says, in mappings, lists and values; {} for an empty one. Raises InputError.

    plain: refuses aliases too, where nobody needs them.
    """
    return from_yaml(text_of(path, CONFIG), path, plain)


def from_yaml(text: str, where: object, plain: bool = False) -> Any:
    """What YAML text says. where: that it is from, for messages. Raises InputError."""
    from yaml import YAMLError, load

    try:
        check_yaml(text, plain)
        found = load(text, _loader())
    except YAMLError as error:
        raise InputError(f"{where} cannot be read ({_reason(error)})") from error
    except RecursionError as error:
        raise InputError(f"{where} cannot be read (it is nested too deeply)") from error
    except (ValueError, TypeError, OverflowError) as error:  # ours, and of numbers and keys that Python lacks
        raise InputError(f"{where} cannot be read ({' '.join(str(error).split())})") from error
    return {} if found is None else found


def config_of(path: str | Path, plain: bool = False) -> "DictConfig | ListConfig":
    """What a YAML file says, as a config; an empty one for an empty file. Raises InputError."""
    return as_config(yaml_of(path, plain), path)


def as_config(found: Any, path: str | Path) -> "DictConfig | ListConfig":
    """What was read from the file `path`, as a config. Raises InputError for what can be none."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if not isinstance(found, dict | list):
        raise InputError(f"{path} holds no lines of key: value")
    try:
        return OmegaConf.create(found)
    except OmegaConfBaseException as error:  # of a key, or of braces that say nothing
        raise InputError(f"{path} cannot be read ({str(error).splitlines()[0]})") from error


@cache
def _loader() -> Any:
    """As omegaconf reads, for whom 1e-3 is a number and a date is text; by libyaml where that is there."""
    import yaml
    from omegaconf._utils import get_yaml_loader

    theirs = get_yaml_loader()
    quick = getattr(yaml, "CSafeLoader", None)
    return theirs if quick is None else type("Loader", (quick,), {_RESOLVERS: getattr(theirs, _RESOLVERS)})


def check_yaml(text: str, plain: bool = False) -> None:
    """Raises ValueError or YAMLError before anything is made of tags, twins, depth and size."""
    import yaml

    sizes: dict[str, int] = {}  # of what an anchor stands for
    around: list[_Open] = []
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        line, size = event.start_mark.line + 1, 0
        if plain and anchor:
            raise ValueError(f"line {line}: it has an alias")
        if tag:
            raise ValueError(f'line {line}: it has the tag "{tag}"')
        if isinstance(event, yaml.CollectionStartEvent):
            around.append(_Open(anchor, isinstance(event, yaml.MappingStartEvent)))
            if len(around) > MOST_DEEP:
                raise ValueError(f"line {line}: it is nested too deeply")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            ended = around.pop()
            anchor, size = ended.anchor, ended.size
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise ValueError(f'line {line}: there is nothing before it that "*{anchor}" could mean')
            size = sizes[anchor]
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if around and around[-1].is_again(event.value):
                raise ValueError(f'line {line}: it says "{event.value}" twice')
        else:
            continue
        if anchor and not isinstance(event, yaml.AliasEvent):
            sizes[anchor] = size
        if around:
            around[-1].add(size)
        if size > MOST_NODES or (around and around[-1].size > MOST_NODES):
            raise ValueError(f"line {line}: it comes to more than {MOST_NODES:,} values")


class _Open:
    """A list or mapping that is being read: values so far, what its aliases stand for included, and keys."""

    def __init__(self, anchor: str | None, is_mapping: bool) -> None:
        self.anchor, self.size = anchor, 1
        self._is_mapping, self._count, self._keys = is_mapping, 0, set[str]()

    def add(self, size: int) -> None:
        self.size += size
        self._count += 1

    def is_again(self, text: str) -> bool:
        """Whether this is the key of an entry that is there already."""
        if not self._is_mapping or self._count % 2 or text == "<<":
            return False
        before = len(self._keys)
        self._keys.add(text)
        return len(self._keys) == before


def _reason(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if problem and "nesting depth" in " ".join((problem, str(getattr(error, "context", "")))):
        return "it is nested too deeply"
    said = " ".join(str(problem or error).split())
    return f"line {mark.line + 1}: {said}" if mark is not None else said


def _not_read(path: str | Path, error: OSError) -> str:
    return str(error) if isinstance(error, NoFile) else f"{path} cannot be read ({error.strerror})"


def _of_json(error: ValueError) -> str:
    return "a number in it has too many digits" if "integer string" in str(error) else str(error)


def _each_once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f'it says "{twice}" twice')
    return found
