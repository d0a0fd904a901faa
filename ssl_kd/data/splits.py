"""Which folders are the splits of a data set: one table of spellings, and a refusal where that is not enough.

A layout says what folders a split has, as patterns of their names below the root: "Train", "data/train", "."
for the root itself, "*/train" where the classes lie above the splits.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ssl_kd.errors import InputError, nearest
from ssl_kd.system.text import printable, typed

TRAIN, TEST, VALIDATION, UNLABELLED = "train", "test", "validation", "unlabelled"

SPELLINGS = {
    TRAIN: "train training trn trainval labeled labelled entrenamiento entrainement treino addestramento "
    "训练 训练集",
    TEST: "test testing tst prueba teste 测试 测试集",
    VALIDATION: "validation valid val validate dev devel eval evaluation holdout heldout validación "
    "验证 验证集",
    UNLABELLED: "unlabelled unlabeled unlabel unsup unsupervised nolabel nolabels unannotated extra",
}
# What may stand beside these, in front or behind, without another meaning: train_images, testSet, val2017.
FILLERS = (
    "image images img imgs jpg jpeg jpegs png pngs picture pictures pic pics photo photos data dataset set "
    "split splits folder dir file files sub subset seg crop crops cropped"
).split()
# Names of parts of a set, for retrieval and for few images a class, that say no split by themselves.
PARTS = {
    TRAIN: "tr support base seen source enroll enrolled enrollment",
    TEST: "te ts va query queries gallery probe probes distractors novel unseen target public private quiz",
}
# Pictures that belong to others: beside a folder of FILLERS alone they are no class.
MASKS = frozenset("mask masks label labels annotation annotations gt groundtruth segmentation".split())
NUMBERED = re.compile(
    r"(fold|split|part|partition|subset|batch|chunk|cv|shard|set)s?[ _-]?([0-9]+|[a-z])", re.I
)
DEEPEST = 4  # folders that may wrap all others

Layout = dict[str, tuple[str, ...]]
Folders = Collection[tuple[str, ...]]  # names from the root on, of folders that hold images themselves

_ROLES = {word: role for role, words in SPELLINGS.items() for word in words.split()}
_PARTS = {word: role for role, words in PARTS.items() for word in words.split()}


@cache
def role(name: str) -> str:
    """The split that a name stands for by itself: train, test, validation, unlabelled; "" for none.

    Capitals, digits and what separates words do not count, nor do the FILLERS.
    """
    words = [word for word in _words(name) if word not in FILLERS]
    alone = "".join(words)
    if alone in _ROLES:
        return _ROLES[alone]
    for filler in FILLERS if len(words) == 1 else ():
        for rest in (alone.removeprefix(filler), alone.removesuffix(filler)):
            if rest != alone and rest in _ROLES:
                return _ROLES[rest]
    return ""


def _words(name: str) -> list[str]:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return re.findall(r"[^\W\d_]+", apart.casefold())


def _hints(name: str) -> set[str]:
    """Splits whose words stand in a name beside others: {"train"} for bullet_train and for trainA.

    Of PARTS only where the name is nothing else: an art_gallery is none.
    """
    words = _words(name)
    alone = [word for word in words if word not in FILLERS]
    parts = {_PARTS[alone[0]]} if len(alone) == 1 and alone[0] in _PARTS else set()
    return ({_ROLES[word] for word in words if word in _ROLES} - {UNLABELLED}) | parts


def layout(folders: Folders, root: Path) -> Layout:
    """The splits among the folders below `root`: {"train": (".",)} where there are none.

    A single folder that holds all others is gone into. Raises InputError, which says how to name the splits,
    where names look like splits and the table does not know which.
    """
    above: tuple[str, ...] = ()
    for _ in range(DEEPEST):
        names = _below(folders, above)
        found = _among(folders, above, names, root)
        if found:
            unwrapped = {part: tuple(_unwrapped(folders, p, part) for p in found[part]) for part in found}
            for pattern in unwrapped[TRAIN]:
                inside = tuple(name for name in pattern.split("/") if name != ".")
                _check_masks(root, inside, _below(folders, inside))
            return unwrapped
        _check_masks(root, above, names)
        if above in folders or len(names) != 1:
            break
        above = (*above, *names)
    return {TRAIN: (".",)}


def _check_masks(root: Path, above: tuple[str, ...], names: Sequence[str]) -> None:
    """Refuses folders of images beside folders of their masks."""
    words = {name: set(_words(name)) for name in names}
    masks = [name for name in names if words[name] & MASKS]
    rest = [name for name in names if name not in masks]
    if masks and rest and all(words[name] and words[name] <= {*FILLERS} for name in rest):
        raise InputError(
            f"{printable(str(root.joinpath(*above)))}: {_and(masks)} beside {_and(rest)} look like masks and "
            f"not like a class; say {option(f'train: {_yaml(_joined(above, rest))}, ...')}, or "
            "data.splits=none where each folder is a class"
        )


def given(said: Mapping[str, Any], root: Path) -> Layout:
    """The layout that `data.splits` says. Raises InputError."""
    found: dict[str, tuple[str, ...]] = {}
    for key, value in said.items():
        part = role(str(key))
        if not part or part in found:
            wrong = "says the same split twice" if part else f'has no split "{key}"'
            raise InputError(f"data.splits {wrong}; its keys are train, test, validation and unlabelled")
        patterns = [value] if isinstance(value, str) else value
        if (
            not isinstance(patterns, list | tuple)
            or not patterns
            or not all(isinstance(p, str) for p in patterns)
        ):
            raise InputError(f"data.splits.{key} is a folder below data.root, or a list of them, not {value}")
        found[part] = tuple(_pattern(pattern, str(key), root) for pattern in patterns)
    if TRAIN not in found and UNLABELLED not in found:
        raise InputError("data.splits names no train split, as in data.splits={train: FOLDER, test: FOLDER}")
    every = [pattern for patterns in found.values() for pattern in patterns]
    twice = next((pattern for pattern in every if every.count(pattern) > 1), None)
    if twice is not None:
        raise InputError(f"data.splits names the folder {printable(twice)} twice")
    return found


def _pattern(said: str, key: str, root: Path) -> str:
    names = [name for name in said.replace(os.sep, "/").split("/") if name not in ("", ".")]
    if said.startswith("/") or ".." in names or names.count("*") > 1:
        raise InputError(f"data.splits.{key} is a folder below data.root, not {printable(said)}")
    above = names[: names.index("*")] if "*" in names else names
    place = root.joinpath(*above)
    if not place.is_dir():
        beside = [one.name for one in place.parent.iterdir() if one.is_dir()] if place.parent.is_dir() else []
        hint = f"; {nearest(names[-1], beside)}" if beside else ""
        raise InputError(f"data.splits.{key}: there is no folder {printable(str(place))}{hint}")
    return "/".join(names) or "."


def _below(folders: Folders, above: tuple[str, ...]) -> list[str]:
    depth = len(above)
    return sorted({one[depth] for one in folders if len(one) > depth and one[:depth] == above})


def _among(folders: Folders, above: tuple[str, ...], names: list[str], root: Path) -> Layout:
    """The splits that these folders, which lie in one, are; {} where they are none."""
    where, roles = root.joinpath(*above), {name: role(name) for name in names}
    parts = {part: [name for name in names if roles[name] == part] for part in SPELLINGS}
    others = [name for name in names if not roles[name]]
    hinted = [name for name in others if _hints(name)]
    for part in (TRAIN, TEST, VALIDATION):
        if len(parts[part]) > 1:
            raise _unclear(where, f"{_and(parts[part])} are both {part}", above, names)
    scored = [*parts[TEST], *parts[VALIDATION]]
    if parts[TRAIN]:
        if scored and hinted:
            raise _unclear(where, f"{_and(hinted)} may be splits or not", above, names)
        if scored or not others:
            return _layout(above, parts)
        if len(others) < 2 or hinted or not _alike(folders, above, parts[TRAIN] + others):
            says = f"{parts[TRAIN][0]} beside {_and(others)} may be a split or a class"
            raise _unclear(where, says, above, names)
    elif scored:
        look = "look like splits" if scored[1:] else "looks like a split"
        says = f"{_and(scored)} {look} without a train split"
        raise _unclear(where, says, above, names)
    roles_hinted = set().union(*map(_hints, hinted))
    if hinted and (2 * len(hinted) >= len(names) if len(roles_hinted) > 1 else len(hinted) == len(names)):
        raise _unclear(where, f"{_and(hinted)} may be splits or classes", above, names)
    within = _classes_above(folders, above, others, where)
    if not within and len(names) > 1 and all(NUMBERED.fullmatch(name) for name in names):
        raise _unclear(where, f"{_and(names)} look like parts of one set and not like classes", above, names)
    if within:
        return within | ({UNLABELLED: _joined(above, parts[UNLABELLED])} if parts[UNLABELLED] else {})
    if parts[UNLABELLED] and others:
        return {TRAIN: ("/".join(above) or ".",), UNLABELLED: _joined(above, parts[UNLABELLED])}
    return {}


def _classes_above(folders: Folders, above: tuple[str, ...], names: list[str], where: Path) -> Layout:
    """The splits where each class has its own, as cat/train and dog/train."""
    found: dict[str, list[str]] = {part: [] for part in SPELLINGS}
    whole, some = True, False
    for name in names:
        inside = _below(folders, (*above, name))
        roles = [role(one) for one in inside]
        plain = (*above, name) in folders or not inside or not all(roles)
        whole = whole and not plain
        some = some or (TRAIN in roles and len(roles) > 1 and not plain)
        for part in (TRAIN, TEST, VALIDATION):
            if not plain and roles.count(part) > 1:
                raise _unclear(where / name, f"it holds {part} twice", (*above, "*"), inside)
        for part, one in zip(roles, inside, strict=True):
            if part and one not in found[part]:
                found[part].append(one)
    if len(names) < 2 or not found[TRAIN] or not (whole or some):
        return {}
    inner = [one for part in found.values() for one in part]
    if not whole:
        raise _unclear(where, f"some of {_and(names)} hold splits and some do not", (*above, "*"), inner)
    deep = any(len(_below(folders, (*above, name, one))) > 1 for name in names for one in inner)
    numbered = all(NUMBERED.fullmatch(name) for name in names)
    if deep or numbered or any(set(_words(name)) <= {*FILLERS, *MASKS} for name in names):
        raise _unclear(where, f"{_and(names)} hold splits and are no classes", (*above, names[0]), inner)
    return _layout((*above, "*"), found)


def _layout(above: tuple[str, ...], parts: Mapping[str, Sequence[str]]) -> Layout:
    return {part: _joined(above, names) for part, names in parts.items() if names}


def _joined(above: tuple[str, ...], names: Iterable[str]) -> tuple[str, ...]:
    return tuple("/".join((*above, name)) for name in names)


def _alike(folders: Folders, above: tuple[str, ...], names: Sequence[str]) -> bool:
    """Whether all of them hold images themselves, or all of them folders."""
    return len({(*above, name) in folders for name in names}) == 1


def _unwrapped(folders: Folders, pattern: str, part: str) -> str:
    """The folder that holds the classes: train/images for train/images/cat, seg_train/seg_train."""
    names = () if pattern == "." else tuple(pattern.split("/"))
    while names and "*" not in names and names not in folders:
        inside = _below(folders, names)
        empty = len(inside) == 1 and all(word in FILLERS for word in _words(inside[0])) and _words(inside[0])
        if not empty and not (len(inside) == 1 and role(inside[0]) == part):
            break
        names = (*names, inside[0])
    return "/".join(names) or "."


def _and(names: Sequence[str]) -> str:
    shown = [printable(name) for name in names[:4]]
    if len(names) > 4:
        return f"{', '.join(shown)} and {len(names) - 4} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _unclear(where: Path, says: str, above: tuple[str, ...], names: Sequence[str]) -> InputError:
    """A refusal with both ways out: the mapping that may be meant, and that there are only classes."""
    likely: dict[str, list[str]] = {TRAIN: [], TEST: []}
    for name in names:
        parts = {role(name)} if role(name) else _hints(name)
        if TRAIN in parts:
            likely[TRAIN].append(name)
        elif parts & {TEST, VALIDATION}:
            likely[TEST].append(name)
    if not any(likely.values()):  # folds
        likely = {TRAIN: list(names[:-1]), TEST: list(names[-1:])}
    guess = {part: _joined(above, found) for part, found in likely.items()}
    beside = any(name not in likely[TEST] for name in names) and "*" not in above
    train = _yaml(guess[TRAIN]) if guess[TRAIN] else ("/".join(above) or ".") if beside else "FOLDER"
    test = f", test: {_yaml(guess[TEST])}" if guess[TEST] else ""
    return InputError(
        f"{printable(str(where))}: {says}; say which is which, as {option(f'train: {train}{test}')}, or "
        "data.splits=none where each folder is a class"
    )


def option(mapping: str) -> str:
    """data.splits={mapping} as it can be typed: in double quotes unless a name has an effect within them."""
    word = f"data.splits={{{mapping}}}"
    return typed(word) if re.search(r'[$`"\\!]', word) else f'"{printable(word)}"'


def _yaml(patterns: Sequence[str]) -> str:
    said = [printable(one) if re.fullmatch(r"[\w/-]+", one) else f"'{printable(one)}'" for one in patterns]
    return said[0] if len(said) == 1 else f"[{', '.join(said)}]"


class Assigned:
    """What each folder below a root is, by a layout: of which split, and of which class in it."""

    def __init__(self, layout: Layout):
        patterns = [
            (() if pattern == "." else tuple(pattern.split("/")), part)
            for part, some in layout.items()
            for pattern in some
        ]
        self.patterns = sorted(patterns, key=lambda one: (-len(one[0]), "*" in one[0]))
        self.known: dict[str, tuple[str, str]] = {}

    def __call__(self, file: str) -> tuple[str, str]:
        """The split of a file, by its name from the root on, or ""; and its class, "" where it lies flat."""
        folder = os.path.dirname(file)
        if folder not in self.known:
            self.known[folder] = self._of(tuple(folder.split(os.sep)) if folder else ())
        return self.known[folder]

    def _of(self, names: tuple[str, ...]) -> tuple[str, str]:
        for pattern, part in self.patterns:
            if len(names) >= len(pattern) and all(
                p in ("*", n) for p, n in zip(pattern, names, strict=False)
            ):
                inside = names[len(pattern) :]
                return part, names[pattern.index("*")] if "*" in pattern else (inside[0] if inside else "")
        return "", names[0] if names else ""
