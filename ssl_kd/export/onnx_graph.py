"""A peer as an ONNX graph: normalisation inside, any number of images, outputs compared before it is kept."""

import contextlib
import io
import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_kd.data.files import first_line
from ssl_kd.errors import InputError
from ssl_kd.export.deployed import Deployed
from ssl_kd.export.rebuilt import alike

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of what onnxruntime says, in units of the largest output (1 where that is smaller)


class _Both(nn.Module):
    """All outputs of a deployed network."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.network.both(images)


def names(network: Deployed) -> list[str]:
    """Of the graph's outputs."""
    return ["embedding", *(["logits"] if len(network.network.heads) else [])]


def graph(network: Deployed) -> bytes:
    """The graph with its metadata. Raises InputError without the packages, and for what ONNX cannot say.

    Input "images": float32 (batch, C, size, size) in [0, 1]. Metadata, each as JSON: "mean" and "std", which
    the graph applies itself, "classes", and "ssl_kd".
    """
    need_packages()
    model, images = _Both(network.network), network.images(2)
    batch = torch.export.Dim("batch")
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of the exporter, about itself
            program: Any = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                input_names=["images"],
                output_names=names(network),
                dynamic_shapes={"images": {0: batch}},
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's own, of any operation that it does not know
        raise InputError(f'"{network.name}" cannot be written as ONNX ({first_line(error)})') from error
    proto = program.model_proto
    proto.doc_string = f"{network.name}, trained by {network.about['method']} on {network.about['data']}"
    mean, std = network.normalisation or ([], [])
    for key, value in (
        ("mean", mean),
        ("std", std),
        ("classes", network.classes),
        ("ssl_kd", network.about),
    ):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    return proto.SerializeToString()


def check(network: Deployed, path: Path) -> None:
    """Refuses a file whose outputs in onnxruntime differ from ours by more than TOLERANCE."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, 3):  # neither is the number that the graph was made with
        images = network.images(count)
        said = [torch.from_numpy(each) for each in session.run(None, {"images": images.numpy()})]
        with torch.no_grad():
            wanted = network.network.both(images)
        if not all(alike(a, b, TOLERANCE) for a, b in zip(said, wanted, strict=True)):
            raise InputError(
                f'the ONNX graph of "{network.name}" gives other numbers than the network, and is not kept; '
                "take format=safetensors"
            )


def need_packages() -> None:
    """Raises InputError where one of PACKAGES is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(f"format=onnx needs the package {missing[0]}: pip install 'ssl-kd[export]'")
