"""`ssl-kd export`: a peer of a finished run as a file or a folder that is deployed, with its model card."""

from collections.abc import Callable, Mapping
from typing import Any

from ssl_kd.errors import InputError, nearest
from ssl_kd.export.deployed import Deployed as Deployed
from ssl_kd.export.deployed import Network as Network
from ssl_kd.export.deployed import deployed as deployed
from ssl_kd.export.formats import FORMATS, Written
from ssl_kd.export.own import read as read
from ssl_kd.finished import load
from ssl_kd.system.text import print_line

OPTIONS = ("run", "peer", "format", "to", "checkpoint")


def export(
    folder: str,
    peer: str | None = None,
    to: str | None = None,
    checkpoint: str | None = None,
    format: str = "safetensors",
) -> str:
    """Writes the peer of a finished run; returns what was written and left out, in a sentence.

    peer: its name; needed where several embed images. checkpoint: last or chosen, by default the one that the
    run reports. to: the file or folder, by default in export/ of the run.
    format: safetensors (ours, and what `peers.NAME.weights` takes), onnx (a graph), timm and torchvision (a
    folder for that library), hub-folder (a folder for the Hugging Face Hub). Each with its model card.
    Nothing is kept whose outputs are not those of the run's network. Raises InputError.
    """
    if format not in FORMATS:
        raise InputError(f'there is no format "{format}"; {nearest(format, list(FORMATS))}')
    write: Callable[[Deployed, str | None], Written] = FORMATS[format]
    network = deployed(load(folder, checkpoint=checkpoint), peer)
    written = write(network, to)
    gone = [*network.left_out, *written.left_out]
    left = f"; left out: {', '.join(gone)}" if gone else ""
    more = f"; {written.note}" if written.note else ""
    return f"{written.path}: {network.name}, {written.parameters:,} parameters{left}{more}"


def main(given: Mapping[str, Any]) -> int:
    """`ssl-kd export run=FOLDER [peer=] [format=] [to=] [checkpoint=last|chosen]`; returns the exit code."""
    odd = [key for key in given if key not in OPTIONS]
    if odd:
        raise InputError(f'"{odd[0]}" is not an option of export; {nearest(odd[0], list(OPTIONS))}')
    words = {key: str(value) for key, value in given.items() if value not in (None, "")}
    if "run" not in words:
        raise InputError("run is needed; give it as run=runs/NAME")
    print_line(export(words.pop("run"), **words))
    return 0
