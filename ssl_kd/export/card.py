"""The model card of an exported network: what it is, how it was made, what it scored, how to load it."""

from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from ssl_kd.cost import macs
from ssl_kd.export import provenance
from ssl_kd.export.deployed import Deployed
from ssl_kd.export.markdown import fence, table, text
from ssl_kd.system.text import printable

MOST_CLASSES = 100  # that are listed; the file or config.json has all of them


@dataclass(frozen=True)
class Loading:
    """How the exported files are used.

    library: as the Hub calls it. code: lines of Python that run in the files' folder. note: said below them.
    classifies: whether the network as loaded gives logits.
    """

    library: str
    code: Sequence[str]
    classifies: bool
    note: str = ""


def card(network: Deployed, loading: Loading) -> bytes:
    """The card, Markdown with the header that the Hugging Face Hub reads."""
    sections = [
        _header(network, loading),
        _what(network, loading),
        "## Use\n\n"
        + fence("python", "\n".join(loading.code))
        + (f"\n\n{loading.note}" if loading.note else ""),
        _input(network, loading),
        provenance.data(network),
        provenance.training(network),
        provenance.scores(network),
        "## Limits\n\n" + _limits(network),
        "## Licence\n\nThe weights are yours: ssl_kd (Apache-2.0) makes no claim to what is trained with it. "
        "Say here under which licence you pass them on, as `license:` at the top too; the images that they "
        "were trained on may have terms of their own.",
    ]
    return ("\n\n".join(sections) + "\n").encode()


def _header(network: Deployed, loading: Loading) -> str:
    about = {
        "library_name": loading.library,
        "pipeline_tag": "image-classification" if loading.classifies else "image-feature-extraction",
        "tags": ["ssl-kd", "knowledge-distillation", printable(str(network.about["method"]))],
    }
    return "---\n" + yaml.safe_dump(about, sort_keys=False) + "---"


def _what(network: Deployed, loading: Loading) -> str:
    about, shape = network.about, (network.channels, network.size, network.size)
    node = network.backbone
    backbone = str(node.get("name") or node.get("_target_", "a network"))
    outputs = f"an embedding of {network.network.embed(network.images(1)).shape[1]} numbers"
    part = network.network if loading.classifies else network.network.backbone
    count = sum(parameter.numel() for parameter in part.parameters())
    if loading.classifies:
        outputs += f", and logits for {len(network.classes)} classes"
    return (
        f"# {text(network.name)}: {text(backbone)}, trained by {text(about['method'])} on "
        f"{text(provenance.data_name(network))}\n\n"
        f"Of an image it makes {outputs}. {count:,} parameters and "
        f"{macs(network.network.backbone, shape):,} multiply-adds for an image of {network.size} x "
        f"{network.size} pixels. Made by ssl_kd, `ssl-kd export`."
    )


def _input(network: Deployed, loading: Loading) -> str:
    channels = {1: "grey", 3: "RGB"}.get(network.channels, f"{network.channels} channels")
    rows = [
        ("images", f"{channels}, {network.size} x {network.size} pixels, floats in [0, 1]"),
        ("larger or smaller ones", "their central square, scaled bilinearly with antialiasing"),
    ]
    if network.normalisation is None:
        rows.append(("normalisation", "none"))
    else:
        inside = loading.library not in ("timm", "torchvision")
        where = "the network does it itself" if inside else "to be done before: (image - mean) / std"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in network.normalisation)
        rows.append(("normalisation", f"mean {mean}, standard deviation {std}; {where}"))
    if loading.classifies:
        classes = [text(name) for name in network.classes]
        more = f" and {len(classes) - MOST_CLASSES} more" if len(classes) > MOST_CLASSES else ""
        rows.append((f"{len(classes)} classes", ", ".join(classes[:MOST_CLASSES]) + more))
    return "## Input\n\n" + table(("what", "how"), rows)


def _limits(network: Deployed) -> str:
    data = network.about["data"]
    said = [
        f"Trained on {text(provenance.data_name(network))} alone, at {network.size} x {network.size} pixels; "
        "what it makes of other images, sizes and corruptions was not measured here.",
    ]
    if network.finished.step < network.finished.config.steps:
        said.append("The training was not finished.")
    if data in ("digits", "cifar10", "cifar100", "fashion_mnist"):
        said.append("That is a small benchmark: do not expect general features.")
    return " ".join(said)
