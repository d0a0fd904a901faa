"""What differs between the options of groups of runs, and how to make the runs again."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from omegaconf import OmegaConf

from ssl_kd.identity import computed
from ssl_kd.report import blocks
from ssl_kd.report.page import Section
from ssl_kd.saved import command

if TYPE_CHECKING:
    from ssl_kd.compare import Group

NONE = "\N{EN DASH}"  # where a group has no such option
OWN = ("seed", "run", "steps")  # differ between the runs of one group, or follow from other options


def section(groups: Sequence["Group"]) -> Section:
    lead = "What differs between the groups' resolved options, and how to make their runs again."
    configs = [OmegaConf.to_container(computed(group.runs[0].config)) for group in groups]
    rows = [[key, *texts] for key, texts in _differing(configs)]
    head, words = ["option", *(group.name for group in groups)], range(1, len(groups) + 1)
    caption = f"Options that differ; {NONE} where there is no such option"
    parts: list[Markup] = [
        blocks.table(head, rows, caption, words=words)
        if rows
        else blocks.note("The options of all groups are the same.")
    ]
    said = [command(Path(group.runs[0].folder)) for group in groups]
    if any(said):
        parts.append(blocks.heading("The command of the first run of each group"))
        parts.append(blocks.verbatim("\n".join(filter(None, said))))
    folders = "\n".join(run.folder for group in groups for run in group.runs)
    return Section("Options", lead, [*parts, blocks.heading("The runs"), blocks.verbatim(folders)])


def brief(node: Any) -> str:
    """A value as text; of a node with a `_target_`, its name and its options, as in `mlp(out=128)`."""
    if isinstance(node, list):
        return ", ".join(map(brief, node)) or "none"
    if not isinstance(node, dict):
        return "none" if node is None else str(node)
    name = str(node.get("_target_", "")).rsplit(".", 1)[-1]
    inside = ", ".join(f"{key}={brief(v)}" for key, v in node.items() if not str(key).startswith("_"))
    return f"{name}({inside})" if name and inside else name or inside


def _differing(nodes: Sequence[Any], path: str = "") -> Iterator[tuple[str, list[str]]]:
    """(path, text of each) where nodes differ; as near to the leaves as all of them have a mapping."""
    if all(isinstance(node, dict) for node in nodes) and (path == "" or _alike(nodes)):
        for key in dict.fromkeys(key for node in nodes for key in node):
            if path or key not in OWN:
                own = [node.get(key, NONE) for node in nodes]
                yield from _differing(own, f"{path}.{key}" if path else str(key))
    elif any(node != nodes[0] for node in nodes):
        yield path, [brief(node) for node in nodes]


def _alike(nodes: Sequence[Any]) -> bool:
    """Whether the nodes make the same thing, or nothing at all, so that their options can be compared."""
    return len({node.get("_target_") for node in nodes}) == 1
