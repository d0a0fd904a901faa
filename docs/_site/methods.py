"""A page for every method, made from configs/method/NAME.yaml when the site is built.

The header of the file (source, measured result, objective, commands, remarks), the cohort as a picture, its
edges, the file.
"""

import re
from html import escape
from typing import Any, NamedTuple

from mkdocs.structure.files import File, Files

from ssl_kd.config import compose
from ssl_kd.groups import choices, config_folder
from ssl_kd.headers import blocks, commands, header, paragraphs
from ssl_kd.report.graph import drawing
from ssl_kd.show import links

# Of those whose header does not begin with "NAME: ".
TITLES = {
    "dml": "Deep mutual learning",
    "kd": "Knowledge distillation",
    "exits": "Cross-layer exits, without labels",
    "fusion": "Fused features, without labels",
    "ssl_kd": "Peers, exits and fusion: ssl_kd",
    "dogo_mixed": "DoGo between SimCLR and SimSiam",
    "rotation": "Rotation",
    "finetune": "Fine-tuning",
    "retrain": "Classifier retraining",
    "supervised": "Supervised",
}
INTRODUCTION = """\
A method is a YAML file that names peers and what they learn from each other. Each page has its source, its
objective, a picture of the cohort and the whole file. `ssl-kd show method=NAME` prints the same for your own
options.
"""
# What a method cannot be drawn without.
NEEDED = {
    "kd": ["peers.teacher.backbone=wrn-16-4", "peers.teacher.weights=runs/teacher"],
    "cbd": ["peers.teacher.backbone=resnet20", "peers.teacher.weights=runs/teacher"],
    "retrain": ["peers.network.backbone=resnet20", "peers.network.weights=runs/teacher"],
    "finetune": [
        "peers.network.backbone=resnet20",
        "peers.network.weights=runs/pretrained",
        "peers.network.cut=0",
    ],
}


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages to those of the folder docs/."""
    names = choices("method")
    for name in names:
        files.append(File.generated(config, f"methods/{name}.md", content=page(name)))
    files.append(File.generated(config, "methods/index.md", content=index(names)))
    return files


def page(name: str) -> str:
    """The page of one method, in Markdown."""
    text = (config_folder() / "method" / f"{name}.yaml").read_text()
    about = _read(text)
    config = compose([f"method={name}", *NEEDED.get(name, ())])
    rows = [
        f"| {term} | `{link.student}` | {_code(link.teacher)} | {loss} | {_weight(link)} |"
        for term, loss, link in links(config)
    ]
    title = TITLES.get(name) or header(text).partition(":")[0]
    return "\n".join(
        [
            f"# {title}",
            "",
            about.source,
            "",
            *_section("Objective", about.objective),
            f'<div class="graph">{drawing(config)}</div>',
            "",
            *_section("Commands", about.commands),
            *_section("Remarks", about.remarks),
            *_section("Measured", about.measured),
            "## Who learns what from whom",
            "",
            '<div class="wide" markdown>',
            "",
            "| term | student | teacher | loss | weight |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "</div>",
            "",
            "## The file",
            "",
            f'```yaml title="configs/method/{name}.yaml"',
            *(line for line in text.splitlines() if not line.startswith("#")),
            "```",
            "",
        ]
    )


def _section(title: str, text: str) -> list[str]:
    return [f"## {title}", "", text, ""] if text else []


def index(names: list[str]) -> str:
    """The table of all methods, in Markdown."""
    rows = []
    for name in names:
        text = (config_folder() / "method" / f"{name}.yaml").read_text()
        first = " ".join(header(text).split("\n")).partition(". ")[0]
        labels = "batch.label" in str(compose([f"method={name}", *NEEDED.get(name, ())]).terms)
        rows.append(f"| [`{name}`]({name}.md) | {first} | {'yes' if labels else 'no'} |")
    return "\n".join(
        [
            "# Methods",
            "",
            INTRODUCTION,
            "",
            "| `method=` | what | labels |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _code(address: str) -> str:
    return f"`{address}`" if address else "itself"


def _weight(link: Any) -> str:
    share = "" if link.share == 1 else f" / {round(1 / link.share)}"
    return f"{link.weight}{share}"


class _Header(NamedTuple):
    """Parts of a page, each Markdown or empty."""

    source: str
    measured: str
    objective: str
    commands: str
    remarks: str


def _read(text: str) -> _Header:
    """What the header of a YAML file says."""
    first, *rest = paragraphs(header(text))
    parts: dict[str, list[str]] = {name: [] for name in _Header._fields}
    parts["source"].append(_prose(first.text))
    for paragraph in rest:
        if paragraph.kind == "commands":
            parts["commands"].append("\n".join(["```bash", *commands(paragraph.lines), "```"]))
        elif paragraph.kind == "objective":
            parts["objective"].append(_equation(paragraph.lines))
        else:
            parts["measured" if paragraph.kind == "measured" else "remarks"].append(_prose(paragraph.text))
    return _Header(*("\n\n".join(parts[name]) for name in _Header._fields))


# What is marked already; a page of ours; an option with its value; an option or a name of Python.
_NAMED = re.compile(
    r"`[^`]*`|docs/[\w/-]+(?:\.md)?|~?[a-z][\w.]*=(?:{[^}]*}|\[[^]]*]|[\w./-]*\w)"
    r"|~?[a-z]\w+(?:[./]\w{2,})+|\w*_\w*"
)


def _prose(text: str) -> str:
    return _NAMED.sub(_named, text)


def _named(found: re.Match[str]) -> str:
    word = found[0]
    if word.startswith("docs/"):
        page = word.removeprefix("docs/").removesuffix(".md")
        return f'<a href="../../{page}/">{word}</a>'
    return word if word.startswith("`") else f"`{word}`"


def _equation(lines: list[str]) -> str:
    parts = [
        f'<div class="{"laid-out" if laid_out else "running"}">{escape(text, quote=False)}</div>'
        for laid_out, text in blocks(lines)
    ]
    return f'<pre class="objective">{"".join(parts)}</pre>'
