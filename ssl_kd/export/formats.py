"""The formats of `ssl-kd export`: what each writes, how it is checked, and the lines that load it again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file

from ssl_kd.errors import InputError
from ssl_kd.export import library_folder, onnx_graph, own, timm_model, torchvision_model
from ssl_kd.export.card import Loading, card
from ssl_kd.export.deployed import Deployed
from ssl_kd.export.files import own_folder, put
from ssl_kd.export.rebuilt import Rebuilt
from ssl_kd.system.paths import expand

NAMES = (own.WEIGHTS, "config.json", "README.md")  # of the files in a folder


@dataclass(frozen=True)
class Written:
    """What was written. left_out: what this format cannot hold."""

    path: Path
    parameters: int
    left_out: Sequence[str] = field(default_factory=list)
    note: str = ""


def safetensors(network: Deployed, to: str | None, overwrite: bool) -> Written:
    """One file in our own format."""
    path = _path(network, to, ".safetensors")
    made = Loading("ssl-kd", _our_lines(network, path.name), bool(len(network.network.heads)), _OURS)
    put({path: own.weights(network), _beside(path): card(network, made)}, _holds(network.network), overwrite)
    return Written(path, network.parameters)


def onnx(network: Deployed, to: str | None, overwrite: bool) -> Written:
    """One file with a graph that normalises its input."""
    onnx_graph.need_packages()
    path = _path(network, to, ".onnx")
    classifies = bool(len(network.network.heads))
    outputs = ", ".join(onnx_graph.names(network))
    shape = f"1, {network.channels}, {network.size}, {network.size}"
    lines = [
        "import numpy",
        "import onnxruntime",
        f"session = onnxruntime.InferenceSession({path.name!r})",
        f'images = numpy.random.rand({shape}).astype("float32")  # yours, in [0, 1]; any number at once',
        f'{outputs}{"" if classifies else ","} = session.run(None, {{"images": images}})',
    ]
    note = "The file's metadata has `mean`, `std` (both already in the graph) and `classes`, as JSON."
    made = card(network, Loading("onnx", lines, classifies, note))

    def check(part: Path) -> None:
        onnx_graph.check(network, part)

    put({path: onnx_graph.graph(network), _beside(path): made}, check, overwrite)
    return Written(path, network.parameters)


def timm(network: Deployed, to: str | None, overwrite: bool) -> Written:
    """A folder that timm loads."""
    return _library(network, to, overwrite, timm_model.rebuild(network), "-timm")


def torchvision(network: Deployed, to: str | None, overwrite: bool) -> Written:
    """A folder with weights for torchvision's model of that name."""
    return _library(network, to, overwrite, torchvision_model.rebuild(network), "-torchvision")


def hub_folder(network: Deployed, to: str | None, overwrite: bool) -> Written:
    """A folder for the Hugging Face Hub: timm's where plain timm builds the network, otherwise ours."""
    whole = len(network.network.heads) == (network.linear is not None)  # timm's has one linear layer
    try:
        rebuilt = timm_model.rebuild(network) if whole else None
    except InputError:
        rebuilt = None
    if rebuilt is not None and not rebuilt.edits:
        return _library(network, to, overwrite, rebuilt, "-hub")
    folder = _folder(network, to, "-hub")
    made = card(network, Loading("ssl-kd", _our_lines(network, "."), bool(len(network.network.heads)), _OURS))
    about = library_folder.to_json({"library": "ssl-kd", **network.about})
    files = dict(zip(NAMES, (own.weights(network), about, made), strict=True))
    put({folder / name: content for name, content in files.items()}, _holds(network.network), overwrite)
    return Written(folder, network.parameters, note="ssl_kd.export.read loads it")


def _library(network: Deployed, to: str | None, overwrite: bool, rebuilt: Rebuilt, ending: str) -> Written:
    folder = _folder(network, to, ending)
    simple = rebuilt.library == "timm" and not rebuilt.edits
    made = card(
        network, Loading(rebuilt.library, _library_lines(network, rebuilt), bool(rebuilt.num_classes))
    )
    about = library_folder.to_json(library_folder.config(network, rebuilt))
    files = dict(zip(NAMES, (library_folder.weights(rebuilt), about, made), strict=True))
    put({folder / name: content for name, content in files.items()}, _holds(rebuilt.model), overwrite)
    gone = list(network.network.heads) if not rebuilt.num_classes else []
    count = sum(parameter.numel() for parameter in rebuilt.model.parameters())
    note = f'timm.create_model("local-dir:{folder}", pretrained=True) loads it' if simple else ""
    if rebuilt.edits:
        note = f"{rebuilt.library}'s own model is changed before it fits: README.md has the lines"
    return Written(folder, count, gone, note)


def _library_lines(network: Deployed, rebuilt: Rebuilt) -> list[str]:
    shape = f"1, {network.channels}, {network.size}, {network.size}"
    said = "logits" if rebuilt.num_classes else "embedding"
    lines = [f"import {rebuilt.library}", "import torch"]
    if rebuilt.library == "timm" and not rebuilt.edits:
        lines += [
            "# in the folder of this card, with timm 1.0.26 or newer",
            'model = timm.create_model("local-dir:.", pretrained=True).eval()',
        ]
    else:
        lines += ["from safetensors.torch import load_file", *rebuilt.code]
        lines += [f'model.load_state_dict(load_file("{own.WEIGHTS}"))', "model.eval()"]
    lines.append(f"images = torch.rand({shape})  # yours, in [0, 1]")
    if network.normalisation is None:
        return [*lines, f"{said} = model(images)"]
    mean, std = (f"torch.tensor({values}).view(-1, 1, 1)" for values in network.normalisation)
    return [*lines, f"{said} = model((images - {mean}) / {std})"]


_OURS = (
    "The file starts a peer of another training too, by `peers.NAME.weights=FILE`. It needs "
    "`pip install ssl-kd`."
)


def _our_lines(network: Deployed, place: str) -> list[str]:
    shape = f"1, {network.channels}, {network.size}, {network.size}"
    lines = [
        "import torch",
        "from ssl_kd.export import read",
        f"network = read({place!r})  # beside this card",
        f"images = torch.rand({shape})  # yours, in [0, 1]",
        "embedding = network.embed(images)",
    ]
    return [*lines, "logits = network(images)"] if len(network.network.heads) else lines


def _holds(module: torch.nn.Module) -> Callable[[Path], None]:
    """A check that the weights in a file are those of `module`, to the bit."""

    def check(part: Path) -> None:
        found, wanted = load_file(part), module.state_dict()
        if found.keys() != wanted.keys() or not all(torch.equal(found[key], wanted[key]) for key in wanted):
            raise InputError(f"{part} does not hold what was written to it; is the disk whole?")

    return check


def _path(network: Deployed, to: str | None, ending: str) -> Path:
    return expand(to) if to else network.finished.run.folder / "export" / f"{network.name}{ending}"


def _folder(network: Deployed, to: str | None, ending: str) -> Path:
    folder = _path(network, to, ending)
    own_folder(folder, NAMES)
    return folder


def _beside(path: Path) -> Path:
    """The card of a file."""
    return path.with_name(path.name + ".md")


FORMATS: dict[str, Callable[[Deployed, str | None, bool], Written]] = {
    "safetensors": safetensors,
    "timm": timm,
    "torchvision": torchvision,
    "onnx": onnx,
    "hub-folder": hub_folder,
}
