"""`ssl-kd export`: a peer of a finished run as a file or a folder that is deployed, with its model card."""

from collections.abc import Callable, Mapping
from typing import Any

from ssl_kd.errors import InputError, nearest
from ssl_kd.export.deployed import Deployed as Deployed
from ssl_kd.export.deployed import Network as Network
from ssl_kd.export.deployed import deployed as deployed
from ssl_kd.export.formats import FORMATS, Written
from ssl_kd.export.own import config_of
from ssl_kd.export.own import read as read
from ssl_kd.finished import load
from ssl_kd.system.text import print_line
from ssl_kd.trust import put_on_record

OPTIONS = ("run", "peer", "format", "to", "checkpoint", "overwrite")


def export(
    folder: str,
    peer: str | None = None,
    to: str | None = None,
    checkpoint: str | None = None,
    format: str = "safetensors",
    overwrite: bool = False,
) -> str:
    """Writes the peer of a finished run; returns what was written and left out, in a sentence.

    peer: its name; needed where several embed images. checkpoint: last or chosen, by default the one that the
    run reports. to: the file or folder, by default in export/ of the run.
    format: safetensors (ours, and what `peers.NAME.weights` takes), onnx (a graph), timm and torchvision (a
    folder for that library), hub-folder (a folder for the Hugging Face Hub). Each with its model card.
    overwrite: true replaces a file that is no export, or was changed since; one of a run never is.
    Nothing is kept whose outputs are not those of the run's network. Raises InputError.
    """
    if format not in FORMATS:
        raise InputError(f'there is no format "{format}"; {nearest(format, list(FORMATS))}')
    write: Callable[[Deployed, str | None, bool], Written] = FORMATS[format]
    network = deployed(load(folder, checkpoint=checkpoint), peer)
    written = write(network, to, overwrite)
    inside = written.path.resolve().is_relative_to(network.finished.run.folder.resolve())
    unrecorded = "" if inside else put_on_record(config_of(network.about), written.path)
    gone = [*network.left_out, *written.left_out]
    left = f"; left out: {', '.join(gone)}" if gone else ""
    more = "".join(f"; {note}" for note in (written.note, unrecorded) if note)
    return f"{written.path}: {network.name}, {written.parameters:,} parameters{left}{more}"


def main(given: Mapping[str, Any]) -> int:
    """`ssl-kd export run=FOLDER [peer=] [format=] [to=] [checkpoint=] [overwrite=]`; the exit code."""
    odd = [key for key in given if key not in OPTIONS]
    if odd:
        raise InputError(f'"{odd[0]}" is not an option of export; {nearest(odd[0], list(OPTIONS))}')
    overwrite = given.get("overwrite")
    if overwrite not in (None, "") and not isinstance(overwrite, bool):
        raise InputError(f'overwrite must be true or false, and "{overwrite}" is not')
    words = {key: str(v) for key, v in given.items() if v not in (None, "") and key != "overwrite"}
    if "run" not in words:
        raise InputError("run is needed; give it as run=runs/NAME")
    print_line(export(words.pop("run"), **words, overwrite=overwrite is True))
    return 0
