"""Folders of image files as data: which of them are splits and classes, and what is not read of them."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_kd.data.files import Paths
from ssl_kd.data.image_files import Tree, image_files, kinds, no_image
from ssl_kd.data.lists import read_list
from ssl_kd.data.sources import RESIDENT_BYTES, Data, Part, encoded
from ssl_kd.data.splits import (
    TEST,
    TRAIN,
    UNLABELLED,
    VALIDATION,
    Assigned,
    Layout,
    given,
    layout,
    option,
    role,
)
from ssl_kd.errors import InputError
from ssl_kd.system.paths import expand
from ssl_kd.system.text import printable


def folder(
    root: str | Path,
    size: int,
    test: str | Path | None = None,
    skip_broken: bool = False,
    limit: int | None = None,
    labels: str = "auto",
    unlabelled: str | None = "unlabelled",
    resident_bytes: int = RESIDENT_BYTES,
    train_list: str | Path | None = None,
    test_list: str | Path | None = None,
    splits: str | Mapping[str, Any] | None = None,
    bit_depth: int | None = None,
) -> Data:
    """Image files in a folder, at any depth, as RGB squares of `size` pixels.

    root: holds the folders of the splits (see `splits.SPELLINGS`), or the training images themselves.
    test: another folder, or a sub-folder of root, for the test images.
    skip_broken: decode every file now, leave out what cannot be decoded, name it in the sources' `skipped`;
        files of kinds that cannot be read are left out too, however many they are.
    labels: "auto" takes the first-level folders, if there are two or more, as classes; images that lie flat
        have no labels. "none" never looks at folders.
    unlabelled: the name of a first-level folder whose images have no label, beside those of the classes;
        "unlabelled" also stands for its other spellings.
    train_list, test_list: files that list the images of a part and their labels (`lists.read_list`), in place
        of what the folders say.
    splits: which folders are the splits, as {"train": "a", "test": ["b", "c"]}, below root ("*" stands for a
        class above them); "none" where no folder is one; None where their names say it.
    bit_depth: of images of 16 bits: how many bits their values have (see `depth`).
    """
    root = expand(root)
    if labels not in ("auto", "none"):
        raise InputError(f'labels must be "auto" or "none", not "{labels}"')
    if isinstance(splits, str) and splits != "none":
        raise InputError(
            f'splits says which folders, as {{train: FOLDER, test: FOLDER}}, or "none"; not "{splits}"'
        )
    options: dict[str, Any] = {
        "limit": limit,
        "skip_broken": skip_broken,
        "resident_bytes": resident_bytes,
        "bit_depth": bit_depth,
    }
    if train_list is not None:
        if test is not None or splits is not None:
            other = "test" if test is not None else "splits"
            raise InputError(
                f"the images are those of train_list; test_list, not {other}, names those of the test"
            )
        files = [train_list] if test_list is None else [train_list, test_list]
        return encoded([_listed(root, file) for file in files], size, **options)
    if test_list is not None:
        raise InputError("test_list needs a train_list beside it: both have to number the classes alike")
    if test is not None and splits is not None:
        raise InputError("data.test and data.splits both say where the test images are; say one of them")
    tree = image_files(root)
    where = _layout(tree, root, test, splits)
    others = None
    if test is not None and TEST not in where:
        place = expand(test)
        others = _Split(str(place))
        elsewhere = image_files(place)
        others.add(elsewhere, Assigned({TEST: (".",)}), (TEST,), unlabelled, str(place))
    return _data(tree, root, where, others, size, labels == "auto", unlabelled, options)


def _listed(root: Path, file: str | Path) -> Part:
    names, said = read_list(root, file)
    return Part(Paths(root, names), said, str(file))


def _layout(tree: Tree, root: Path, test: str | Path | None, splits: Any) -> Layout:
    """What folders the splits have. Raises InputError."""
    if isinstance(splits, Mapping):
        return given(splits, root)
    if splits == "none":
        return {TRAIN: (".",)}
    folders = {tuple(folder.split(os.sep)) for folder in map(os.path.dirname, tree.files) if folder}
    if any(os.sep not in file for file in tree.files):
        folders.add(())
    if test is None:
        found = layout(folders, root)
        _check_empty(found, tree, root)
        return found
    inside = root / test if (root / test).is_dir() else expand(test)
    if not inside.resolve().is_relative_to(root.resolve()):
        found = layout(folders, root)
        return {part: where for part, where in found.items() if part in (TRAIN, UNLABELLED)}
    below = inside.resolve().relative_to(root.resolve()).parts
    found = layout({one for one in folders if one[: len(below)] != below}, root)
    train = next(iter(found.get(TRAIN, ())), ".")
    if train == ".":
        raise InputError(
            f"the test folder {inside} lies inside the training folder {root}; "
            f"{option('train: ., test: ' + '/'.join(below))} takes it out of that"
        )
    return {TRAIN: found[TRAIN], TEST: ("/".join(below),)} | (
        {UNLABELLED: found[UNLABELLED]} if UNLABELLED in found else {}
    )


def _check_empty(found: Layout, tree: Tree, root: Path) -> None:
    """Refuses a split that has a folder and no image in it."""
    pattern = found[TRAIN][0]
    if pattern == "." or "*" in pattern or TEST in found or VALIDATION in found:
        return
    names = pattern.split("/")
    at = next(i for i, name in enumerate(names) if role(name) == TRAIN)
    above = os.path.join("", *names[:at])
    for other in sorted(tree.folders):
        if os.path.dirname(other) == above and other and role(os.path.basename(other)) == TEST:
            lost = [name for name in tree.passed if name.startswith(other + os.sep)]
            out = f"{option(f'train: {pattern}')} leaves it out"
            raise InputError(f"{no_image(str(root / other), lost)}; {out}")


@dataclass
class _Split:
    """The images of a split, their classes ("" for flat), and the files that are passed over in it."""

    where: str
    files: list[str] = field(default_factory=list)
    said: list[str | None] = field(default_factory=list)
    passed: list[tuple[str, str | None]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def add(
        self, tree: Tree, assigned: Assigned, parts: Sequence[str], unlabelled: str | None, folder: str
    ) -> None:
        """Takes what belongs to one of `parts`."""
        for files, passed in ((tree.files, False), (tree.passed, True)):
            for file in files:
                part, name = assigned(file)
                if part in parts:
                    said = None if part == UNLABELLED or _unlabelled(name, unlabelled) else name
                    if passed:
                        self.passed.append((file, said))
                    else:
                        self.files.append(file)
                        self.said.append(said)
        self.folders.append(folder)

    @property
    def classes(self) -> set[str]:
        return {name for name in self.said if name}


def _unlabelled(name: str, said: str | None) -> bool:
    return bool(name) and (name == said or (said == UNLABELLED and role(name) == UNLABELLED))


def _data(
    tree: Tree,
    root: Path,
    where: Layout,
    others: _Split | None,
    size: int,
    labels: bool,
    unlabelled: str | None,
    options: dict[str, Any],
) -> Data:
    assigned = Assigned(where)
    scored = TEST if TEST in where else VALIDATION
    splits = []
    for parts in ((TRAIN, UNLABELLED), (scored,)):
        patterns = [pattern for part in parts for pattern in where.get(part, ())]
        if patterns:
            split = _Split(", ".join(str(root / pattern) for pattern in patterns[:1]))
            split.add(tree, assigned, parts, unlabelled, "")
            split.folders = [_shown(root, pattern) for pattern in patterns]
            splits.append((root, split))
    if others is not None:
        splits.append((Path(others.where), others))
    for _, split in splits:
        if not split.files:
            raise InputError(no_image(split.where, (name for name, _ in split.passed)))
        if labels and "" in split.said and split.classes:
            both = f"{split.where} holds images both beside its sub-folders and in them"
            raise InputError(f'{both}; labels="none" takes them all')
    labelled = labels and len(splits[0][1].classes) > 1
    passed = [split for _, split in splits]
    notes = [_told(tree, root, where, assigned, splits, labelled), *_passed_over(passed, labels, options)]
    hint = _one_folder(tree, root, where, splits[0][1], labels, labelled)
    data = [
        Part(Paths(place, split.files), split.said if labelled and split.classes else [], split.where)
        for place, split in splits
    ]
    return encoded(data, size, notes=[*notes, *hint], **options)


def _shown(root: Path, pattern: str) -> str:
    name = printable(root.name or str(root.absolute()))
    return name if pattern == "." else f"{name}/{printable(pattern)}"


def _told(
    tree: Tree,
    root: Path,
    where: Layout,
    assigned: Assigned,
    splits: Sequence[tuple[Path, _Split]],
    labelled: bool,
) -> str:
    """Which folder became what, with counts."""
    said = []
    for part, (_, split) in zip((TRAIN, TEST), splits, strict=False):
        classes = len(split.classes)
        without = sum(name is None for name in split.said)
        counts = [f"{len(split.files):,} images"]
        if labelled and part == TRAIN:
            counts.append(f"{classes:,} classes")
        if without and without < len(split.files):
            counts.append(f"{without:,} of them without a label")
        said.append(f"{' and '.join(split.folders)} -> {part} ({', '.join(counts)})")
    read = {TRAIN, UNLABELLED, TEST if TEST in where else VALIDATION}
    left: Counter[str] = Counter()
    for file in tree.files:
        part, name = assigned(file)
        if part not in read:
            left[part or (os.path.dirname(file) and file.split(os.sep)[0])] += 1
    for part in [part for part in left if part in where]:
        left[" and ".join(where[part])] = left.pop(part)
    unread = [f"{_shown(root, name or '.')} ({count:,} images)" for name, count in sorted(left.items())]
    more = f", and {len(unread) - 4} more folders" if len(unread) > 4 else ""
    return f"data: {', '.join(said)}" + (f"; not read: {', '.join(unread[:4])}{more}" if unread else "")


def _one_folder(
    tree: Tree, root: Path, where: Layout, train: _Split, labels: bool, labelled: bool
) -> list[str]:
    """What is said where all images lie in one folder, which then is no class, and has folders itself."""
    if not labels or labelled or len(train.classes) != 1 or where != {TRAIN: (".",)}:
        return []
    (name,) = train.classes
    inside = {file.split(os.sep)[1] for file in tree.files if file.count(os.sep) > 1}
    if len(inside) < 2:
        return []
    place = printable(str(root / name))
    return [f"data: no labels, as all images lie in {place}; data.root={place} takes its folders as classes"]


def _passed_over(splits: Sequence[_Split], labels: bool, options: dict[str, Any]) -> list[str]:
    """What files cannot be read as images. Refuses where a class, or half of one, is lost that way."""
    passed = [name for split in splits for name, _ in split.passed]
    if not passed:
        return []
    files = "1 file is" if len(passed) == 1 else f"{len(passed):,} files are"
    said = f"{files} passed over as no image that can be read here, {kinds(passed)}: {printable(passed[0])}"
    for split in splits:
        lost = Counter(name if labels else "" for _, name in split.passed)
        kept = Counter(name if labels else "" for name in split.said)
        worst = next((name for name in sorted(lost, key=str) if lost[name] >= kept[name]), "") if lost else ""
        if any(lost[name] >= kept[name] for name in lost) and not options["skip_broken"]:
            of = f"of {split.where}{' in ' + printable(worst) if worst else ''}"
            share = "all" if not kept[worst] else f"{lost[worst]:,} of {lost[worst] + kept[worst]:,}"
            raise InputError(
                f"{said}; that is {share} {of}: convert them to PNG or JPEG, or leave them out by "
                "data.skip_broken=true"
            )
    return [f"data: {said}"]
