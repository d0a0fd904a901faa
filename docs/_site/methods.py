"""A page for every method, made from configs/method/NAME.yaml when the site is built.

The header of the file (source, measured result, objective, commands, remarks), the cohort as a picture, its
edges, the file.
"""

import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from ssl_kd.config import compose
from ssl_kd.groups import choices, config_folder
from ssl_kd.report.graph import drawing
from ssl_kd.show import links

sys.path.insert(0, str(Path(__file__).parent))  # mkdocs loads a hook as a file, not as a part of a package
import headers  # noqa: E402

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
    header = headers.read(text)
    config = compose([f"method={name}", *NEEDED.get(name, ())])
    rows = [
        f"| {term} | `{link.student}` | {_code(link.teacher)} | {loss} | {_weight(link)} |"
        for term, loss, link in links(config)
    ]
    title = TITLES.get(name) or headers.header(text).partition(":")[0]
    return "\n".join(
        [
            f"# {title}",
            "",
            header.source,
            "",
            *_section("Objective", header.objective),
            f'<div class="graph">{drawing(config)}</div>',
            "",
            *_section("Commands", header.commands),
            *_section("Remarks", header.remarks),
            *_section("Measured", header.measured),
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
        first = " ".join(headers.header(text).split("\n")).partition(". ")[0]
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
