"""What a reader has to know beside the numbers of a comparison, in sentences."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssl_kd.cast import learners
from ssl_kd.identity import differences
from ssl_kd.lineage import is_run

if TYPE_CHECKING:
    from ssl_kd.compare.differences import Difference
    from ssl_kd.compare.groups import Group

_EQUAL = 0.05  # relative compute that counts as equal
_SHOWN = 3  # options named one by one
# Where groups are meant to differ; epochs and what follows from them stand in the table.
_MEANT = "seed method preset parts peers terms epochs steps separate_views recipe.streams".split()
_WORDS = ("no", "one", "two", "three", "four", "five", "six")


def equal_compute(one: "Group", other: "Group") -> bool:
    """Whether the trainings of two groups cost the same, within 5 %."""
    return abs(one.compute / other.compute - 1) <= _EQUAL


def costs(group: "Group", base: "Group", rivals: Sequence[str]) -> list[str]:
    """Whether the base had as much compute as a group; if not, how to know what helped.

    rivals: groups of one network at the compute of `group`.
    """
    ratio = group.compute / base.compute
    if math.isnan(ratio):
        return []
    if equal_compute(group, base):
        return [f"{group.name} and {base.name} are compared at equal compute."]
    if ratio < 1:
        return [f"{group.name} has {ratio:.2g} times the compute of {base.name}."]
    more = f"{ratio:.1f} times the compute of {base.name}"
    if rivals:
        return [
            f"{group.name} has {more}, and {rivals[0]} has as much: base={rivals[0]} compares them at equal "
            "compute."
        ]
    if ratio <= group.epochs / base.epochs * (1 + _EQUAL):  # no dearer per epoch
        return [f"{group.name} trains longer: {more}."]
    epochs = round(base.epochs * ratio)
    return [
        f"{group.name} {networks(group)}: {more}; train {base.name} longer, epochs={epochs}, to know "
        "whether the peers or the compute helped."
    ]


def earlier(groups: Sequence["Group"]) -> list[str]:
    """Which groups have what other runs have learned: their own training is not all that they cost."""
    having = [
        group.name
        for group in groups
        if any(is_run(peer.get("weights")) for peer in group.runs[0].config.peers.values())
    ]
    return (
        [f"Not counted is the compute of the earlier runs that {_and(having)} go on from."] if having else []
    )


def networks(group: "Group") -> str:
    """`trains two networks`, `trains one network and runs one more`."""
    peers = group.runs[0].config.peers
    count = sum("backbone" in peers[name] and not peers[name].get("sees") for name in learners(peers))
    others = sum("backbone" in peer and not peer.get("sees") for peer in peers.values()) - count
    said = f"trains {_word(count)} network" + ("s" if count != 1 else "")
    return f"{said} and runs {_word(others)} more" if others > 0 else said


def other_options(group: "Group", base: "Group") -> list[str]:
    """Options beside the peers and what they teach each other: what they change is in the difference too."""
    one, other = base.runs[0], group.runs[0]
    follows = f": {one.summary.get('steps')} there, {other.summary.get('steps')} here"
    odd = [
        line
        for line in differences(one.config, other.config)
        if not line.startswith(tuple(f"{key}{end}" for key in _MEANT for end in (":", ".")))
        and not line.endswith(follows)
    ]
    more = f"; and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
    said = "; ".join(line.removesuffix(" here").replace(" there, ", " and ") for line in odd[:_SHOWN])
    return [f"{base.name} and {group.name} also differ in {said}{more}."] if odd else []


def seeds(group: str, base: str, own: Sequence[int], theirs: Sequence[int]) -> list[str]:
    """Seeds that one side lacks, and too few of them."""
    notes = []
    for name, has, other, lacks in ((group, own, base, theirs), (base, theirs, group, own)):
        alone = [str(seed) for seed in has if seed not in lacks]
        if alone:
            word, verb = ("seed", "is") if len(alone) == 1 else ("seeds", "are")
            notes.append(
                f"{word.capitalize()} {', '.join(alone)} {verb} in {name} and not in {other}: left out."
            )
    if len(set(own) & set(theirs)) < 2:
        notes.append(
            f"{group} and {base} have one seed in common, and one run proves nothing: train both with more "
            "seeds."
        )
    return notes


def partly(group: str, base: str, scores: Sequence[str]) -> list[str]:
    """Scores that not every run has."""
    if not scores:
        return []
    return [f"Not in every run of {group} and {base}, so not compared: {', '.join(scores)}."]


def equal_values(found: Sequence["Difference"]) -> list[str]:
    """Differences that are the same for every seed: Student's t has nothing to go by."""
    return [
        f"{d.group}, {d.peer}, {d.score}: the difference from {d.base_peer} is the same for all "
        f"{len(d.seeds)} seeds, which gives no interval."
        for d in found
    ]


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _word(count: int) -> str:
    return _WORDS[count] if count < len(_WORDS) else str(count)
