"""Every peer of a group against its counterpart in the base, paired by seed."""

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssl_kd.cast import learners
from ssl_kd.compare import notes as say
from ssl_kd.compare.comparable import check_comparable
from ssl_kd.compare.counterparts import alike, counterparts, nothing_in_common
from ssl_kd.compare.groups import Group, groups
from ssl_kd.compare.runs import read
from ssl_kd.compare.scores import ENSEMBLE, scored
from ssl_kd.errors import InputError, nearest
from ssl_kd.intervals import interval


@dataclass(frozen=True)
class Difference:
    """One peer of one group against one of the base, in one score; fractions, not per cent.

    mean, low, high: of the paired differences, with their 95 % interval (Student's t over the seeds).
    detectable: the smallest true difference that this many seeds and this spread would have found with 80 %
    power. The three are NaN where there is no interval. group_mean, base_mean: over the same seeds.
    """

    group: str
    peer: str
    base_peer: str
    score: str
    mean: float
    low: float
    high: float
    detectable: float
    group_mean: float
    base_mean: float
    seeds: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def leaves_out_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, the base first, and in sentences what has to be known beside the numbers."""

    base: str
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def compare(folders: Sequence[str], base: str | None = None) -> Comparison:
    """The finished runs in `folders` as groups, each against the base.

    base: a group's name; without it, the cheapest group with one learning peer. Raises InputError for what
    cannot be compared: runs that are not finished, other data, another protocol, no equal backbone, no seed
    in common.
    """
    entries = [read(folder) for folder in {os.path.realpath(folder): folder for folder in folders}.values()]
    if not entries:
        raise InputError("name the folders of finished runs, as in ssl-kd compare runs/solo-* runs/pair-*")
    notes = check_comparable(entries)
    found, unknown = groups(entries)
    notes += unknown
    if len(found) < 2:
        raise InputError(
            f'all runs are of one group, "{found[0].name}": they differ in their seed alone; '
            "name the runs that they are to be compared with too"
        )
    start = _base(found, base)
    others = [group for group in found if group is not start]
    differences: list[Difference] = []
    for group in others:
        pairs, left_out = counterparts(group, start)
        new, said = _paired(group, start, pairs) if pairs else ([], [])
        differences += new
        notes += [*left_out, *said, *(say.other_options(group, start) if pairs else ())]
    if not differences:
        raise nothing_in_common(others[0], start)
    compared = {d.group for d in differences}
    for group in (group for group in others if group.name in compared):
        rivals = [other.name for other in others if other is not group and alike(other, group)]
        notes += say.costs(group, start, rivals)
    notes += say.earlier([group for group in (start, *others) if group is start or group.name in compared])
    return Comparison(start.name, (start, *others), tuple(differences), tuple(notes))


def _base(found: Sequence[Group], name: str | None) -> Group:
    names = [group.name for group in found]
    if name is not None:
        if name not in names:
            raise InputError(f'base: there is no group "{name}"; {nearest(name, names)}')
        return found[names.index(name)]
    single = [group for group in found if len(learners(group.runs[0].config.peers)) == 1]
    least = [group for group in single if not any(other.compute < group.compute for other in single)]
    if len(least) != 1 or (len(single) > 1 and math.isnan(least[0].compute)):
        what = (
            f"{len(single)} groups train one network alone" if single else "no group trains one network alone"
        )
        raise InputError(f"{what}; say by base= which one the others are compared with: {', '.join(names)}")
    return least[0]


def _paired(group: Group, base: Group, pairs: dict[str, str]) -> tuple[list[Difference], list[str]]:
    """The differences of one group's peers and of its ensemble, over the seeds in common; and notes."""
    own, theirs = ({entry.seed: scored(entry) for entry in g.runs} for g in (group, base))
    seeds = tuple(seed for seed in own if seed in theirs)
    if not seeds:
        raise InputError(
            f"{group.runs[0].folder} and {base.runs[0].folder} are of groups without a seed in common "
            f"({_list(own)} and {_list(theirs)}); runs are paired by seed=, so train them with the same ones"
        )
    notes = say.seeds(group.name, base.name, list(own), list(theirs))
    couples = list(pairs.items())
    if all(ENSEMBLE in own[seed] for seed in seeds):
        also = [ENSEMBLE] if all(ENSEMBLE in theirs[seed] for seed in seeds) else []
        couples += [(ENSEMBLE, name) for name in [*dict.fromkeys(pairs.values()), *also]]
    found: list[Difference] = []
    partly: dict[str, None] = {}
    for peer, base_peer in couples:
        ours, others = (
            [own[seed].get(peer, {}) for seed in seeds],
            [theirs[seed].get(base_peer, {}) for seed in seeds],
        )
        for score in dict.fromkeys(name for has in [*ours, *others] for name in has):
            if all(score in has for has in [*ours, *others]):
                values = [one[score] for one in ours], [other[score] for other in others]
                found.append(_difference(group.name, peer, base_peer, score, seeds, *values))
            elif peer != ENSEMBLE:  # which has few of the scores
                partly[score] = None
    if not found:
        raise InputError(
            f"{group.runs[0].folder} and {base.runs[0].folder} have no score in common; train one of them "
            "anew with the other's options of probe"
        )
    flat = [d for d in found if len(seeds) > 1 and math.isnan(d.low)]
    return found, notes + say.partly(group.name, base.name, list(partly)) + say.equal_values(flat)


def _difference(
    group: str, peer: str, base_peer: str, score: str, seeds: tuple[int, ...], a: list[float], b: list[float]
) -> Difference:
    values = tuple(one - other for one, other in zip(a, b, strict=True))
    found = interval(values)
    spans = (found.mean, found.low, found.high, found.detectable)
    means = (statistics.fmean(a), statistics.fmean(b))
    return Difference(group, peer, base_peer, score, *spans, *means, seeds, values)


def _list(numbers: Any) -> str:
    return ", ".join(str(number) for number in numbers)
