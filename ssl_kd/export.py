"""A peer as it is deployed: the backbone and its classifier, without what only training needed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import save_file

from ssl_kd.data.files import first_line
from ssl_kd.encoder import Encoder
from ssl_kd.errors import InputError, nearest
from ssl_kd.evaluate import classifiers
from ssl_kd.finished import load

OPTIONS = ("run", "peer", "to", "checkpoint")


def export(folder: str, peer: str | None = None, to: str | None = None, checkpoint: str | None = None) -> str:
    """Writes the peer of a finished run as safetensors; returns what was written and dropped, in a sentence.

    peer: its name; needed where several embed images. to: the file, by default export/PEER.safetensors in the
    run. checkpoint: last or chosen, by default the one that the run reports.
    The file holds the names of an Encoder ("backbone.", "heads."), so `peers.NAME.weights=FILE` reads it, and
    as metadata how to build the network, what the pixels are divided by, and the classes.
    """
    finished = load(folder, checkpoint=checkpoint)
    there = finished.encoders
    if not there:
        raise InputError(f"{folder} has no peer that embeds images, and so nothing to deploy")
    if not peer and len(there) > 1:
        raise InputError(f"peer is needed; {folder} has: {', '.join(there)}")
    name = peer or next(iter(there))
    if name not in there:
        raise InputError(f'{folder} has no peer "{name}" that embeds images; {nearest(name, list(there))}')
    encoder = there[name]
    kept = _kept(encoder, classifiers(finished.config).get(name))
    tensors = {
        key: value.contiguous()
        for key, value in encoder.state_dict().items()
        if key.startswith("backbone.") or key.split(".")[1] in kept
    }
    odd = [key for key, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if odd:
        raise InputError(f'the weights of "{name}" in {folder} are not finite ("{odd[0]}"), and not exported')
    node = finished.config.peers[name]
    about: dict[str, Any] = {
        "peer": name,
        "backbone": OmegaConf.to_container(node.backbone, resolve=True),
        "heads": {head: OmegaConf.to_container(node.heads[head], resolve=True) for head in kept},
        "image": {"channels": finished.data.train.shape[0], "size": finished.config.data.size},
        "mean": _plain(finished.config.data.mean),
        "std": _plain(finished.config.data.std),
        "classes": list(finished.data.train.classes) if kept else [],
        "method": finished.config.method,
        "data": finished.config.data.name,
        "step": finished.step,
    }
    path = Path(to) if to else Path(folder) / "export" / f"{name}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, {"ssl_kd": json.dumps(about)})
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} cannot be written ({first_line(error)}); name another file by to="
        ) from error
    dropped = [head for head in encoder.heads if head not in kept]
    count = sum(p.numel() for key, p in encoder.named_parameters() if key in tensors)
    left = f"; left out: {', '.join(dropped)}" if dropped else ""
    return f"{path}: {name}, {count:,} parameters{left}"


def _kept(encoder: Encoder, classifier: str | None) -> list[str]:
    """The classifier on the embedding, with the heads that it reads."""
    chain: list[str] = []
    while classifier is not None and classifier in encoder.heads:
        chain.insert(0, classifier)
        classifier = encoder.reads[classifier]
    return chain


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def main(given: Mapping[str, Any]) -> int:
    """`ssl-kd export run=FOLDER [peer=NAME] [to=FILE] [checkpoint=last|chosen]`; returns the exit code."""
    odd = [key for key in given if key not in OPTIONS]
    if odd:
        raise InputError(f'"{odd[0]}" is not an option of export; {nearest(odd[0], list(OPTIONS))}')
    if given.get("run") in (None, ""):
        raise InputError("run is needed; give it as run=runs/NAME")
    print(export(*(None if given.get(key) is None else str(given[key]) for key in OPTIONS)))  # type: ignore[arg-type]
    return 0
