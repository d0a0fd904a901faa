"""A page for every method, made from configs/method/NAME.yaml when the site is built.

The header of the file (citation, objective, commands), the cohort as a picture, its edges, the file.
"""

import re
from html import escape
from typing import Any

from mkdocs.structure.files import File, Files

from ssl_kd.config import choices, compose, config_folder
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
    header = _header(text)
    config = compose([f"method={name}", *NEEDED.get(name, ())])
    rows = [
        f"| {term} | `{link.student}` | {_code(link.teacher)} | {loss} | {_weight(link)} |"
        for term, loss, link in links(config)
    ]
    about = _linked("\n".join(header))
    return "\n".join(
        [
            f"# {TITLES.get(name) or header[0].partition(':')[0]}",
            "",
            f"`ssl-kd train method={name}`",
            "",
            f'<div class="graph">{drawing(config)}</div>',
            "",
            f'<pre class="header">{about}</pre>',
            "",
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


def index(names: list[str]) -> str:
    """The table of all methods, in Markdown."""
    rows = []
    for name in names:
        text = (config_folder() / "method" / f"{name}.yaml").read_text()
        first = " ".join(_header(text)).partition(". ")[0]
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


def _header(text: str) -> list[str]:
    return [line[2:].rstrip() for line in text.splitlines() if line.startswith("#")][1:]


def _code(address: str) -> str:
    return f"`{address}`" if address else "itself"


def _weight(link: Any) -> str:
    share = "" if link.share == 1 else f" / {round(1 / link.share)}"
    return f"{link.weight}{share}"


def _linked(text: str) -> str:
    """Escaped, with links to the pages that it names."""
    linked = re.sub(
        r"docs/results/([\w-]+)",
        r'<a href="../../results/\1/">docs/results/\1</a>',
        escape(text, quote=False),
    )
    linked = re.sub(r"docs/(results|performance|protocol)\.md", r'<a href="../../\1/">docs/\1.md</a>', linked)
    return linked
