"""A peer that starts with what another network has learned: that of another run, or that of a file.

The run folder is the interface between our trainings, a state dict is the one with everybody else's.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor, nn

from ssl_kd.architecture import weights_file
from ssl_kd.data.files import first_line, load_tensors
from ssl_kd.errors import InputError, nearest
from ssl_kd.finite import check_weights
from ssl_kd.lineage import chosen
from ssl_kd.run import Run
from ssl_kd.saved import read_config
from ssl_kd.status import read as read_status
from ssl_kd.system.paths import expand
from ssl_kd.system.room import check_tensor_file

FILES = (".safetensors", ".pt", ".pth")
# What a state dict may be of: the peer itself, its backbone, the network in that, timm's model in that.
_OWNERS = ("", "backbone.", "backbone.net.", "backbone.net.model.")
_CLASSIFIERS = ("classifier", "fc", "head", "head_dist", "last_linear", "linear")


def start_from(
    peer: nn.Module,
    name: str,
    source: str | DictConfig,
    whole: bool = False,
    cut: str = "",
    anew: str | None = None,
) -> None:
    """Puts weights into `peer`: those of its backbone, and of heads that both have.

    source: a run folder, whose only learning peer is taken, or of several the one called `name`; or
        {run: folder, peer: name}, with unfinished: true one that has not come to its end;
    or a file (FILES) with the state dict of the peer, of its backbone, or of the network in that, which is
    timm's own model for a name of timm's. Its classifier is left out: our networks end before it.
    A network of Hugging Face reads the names of its library, and a folder of `save_pretrained`, too.
    whole: heads that the source has not are refused: one that never learns would say nothing.
    cut: the head of the source whose first layers the backbone goes on through; "" for none.
    anew: a head that is left as it is, since it says other classes than that of the source.
    Raises InputError for what is not there, for what would have to be executed, and for another network.
    """
    where, own = f"peers.{name}.weights", peer.state_dict()
    if isinstance(source, str) and _of_hugging_face(expand(source)):
        source = str(weights_file(source))
    if isinstance(source, str) and Path(source).suffix.lower() in FILES and not Path(source).is_dir():
        found, what = _translated(peer, _of_file(expand(source), where), where, source), source
        owner = _owner(found, own)
        theirs = {owner + key: value for key, value in found.items() if not _classifies(key, own, owner)}
    else:
        theirs, what, owner = *_of_run(source, name, where), ""
        if cut and not any(key.startswith("backbone.backbone.") for key in theirs):
            theirs = _through(theirs, cut, own)
    both = (_heads(own) & _heads(theirs)) - {anew}
    if whole and _heads(own) - both:
        head = min(_heads(own) - both)
        raise InputError(
            f'{where}: {what} has no head "{head}", and {name} is frozen, so it would never learn; take '
            f"~peers.{name}.heads.{head} away and let terms read the embedding"
        )

    def starts(key: str) -> bool:
        return key.startswith(owner) and (not key.startswith("heads.") or key.split(".")[1] in both)

    for key in filter(starts, [*own, *theirs]):
        there, here = (str(tuple(part[key].shape)) if key in part else "absent" for part in (theirs, own))
        if there != here:
            differ = f'they differ in "{key.removeprefix(owner)}", {there} there and {here} here'
            raise InputError(f"{where}: {what} is another network; {differ}")
    peer.load_state_dict({key: value for key, value in theirs.items() if starts(key)}, strict=False)


def _of_run(source: str | DictConfig, name: str, where: str) -> tuple[dict[str, Tensor], str]:
    """The weights of a peer of a run, and what to call it."""
    node = {"run": source} if isinstance(source, str) else source
    if (
        not isinstance(node, dict | DictConfig)
        or "run" not in node
        or set(node) - {"run", "peer", "unfinished"}
    ):
        raise InputError(
            f"{where} is a run folder, or {{run: folder, peer: name}}, or a file ({', '.join(FILES)}), "
            f"not {source}"
        )
    folder, wanted = node["run"], node.get("peer")
    run = Run(expand(str(folder)))
    try:
        config = read_config(run.folder)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    state = (read_status(run.folder) or {}).get("state", "done")
    if state != "done" and not node.get("unfinished"):
        raise InputError(
            f"{where}: {folder} is not finished (it is {state}); its own command continues it, and "
            f"{where}={{run: {folder}, unfinished: true}} takes it as it is"
        )
    place = run.chosen if config.probe.get("select", "last") != "last" else run.checkpoint
    if place is None:
        raise InputError(f"{where}: {folder} has no checkpoint")
    saved = _of_file(place / "cohort.safetensors", where)
    odd = [key for key in saved if key.count(".") < 2]
    if odd:
        raise InputError(f'{where}: {folder} has a checkpoint of something else, with "{odd[0]}"')
    peers = sorted({key.split(".")[1] for key in saved})
    taken = chosen(config, peers, wanted, name)
    if taken not in peers:
        raise InputError(f'{where}: {folder} has no peer "{taken}"; {nearest(taken, peers)}')
    theirs = {key.split(".", 2)[2]: value for key, value in saved.items() if key.split(".")[1] == taken}
    return theirs, f'"{taken}" of {folder}'


def _through(theirs: Mapping[str, Tensor], head: str, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a peer is called that goes on through a head, for one that does not: the layers that `own` has."""
    found = {f"backbone.{key}": value for key, value in theirs.items() if key.startswith("backbone.")}
    layers = {key.replace(f"heads.{head}.", "backbone.head.", 1): value for key, value in theirs.items()}
    return found | {key: value for key, value in layers.items() if key in own and key not in found}


def _of_file(path: Path, where: str) -> dict[str, Tensor]:
    """The state dict in a file; of several things in a dict, what is called state_dict or model."""
    if not path.is_file():
        raise InputError(f"{where}: there is no file {path}")
    try:
        if path.suffix.lower() == ".safetensors":
            check_tensor_file(path)
            found: Any = load_file(path)
        else:
            found = load_tensors(path)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except Exception as error:  # a damaged file can raise anything
        unsafe = isinstance(error, pickle.UnpicklingError)  # its text advises to execute the file
        why = "it is damaged, or holds more than tensors" if unsafe else first_line(error)
        raise InputError(f"{where}: {path} cannot be read ({why})") from error
    for key in ("state_dict", "model"):
        found = found.get(key, found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(map(_dense, found.values())):
        raise InputError(f"{where}: {path} holds no state dict (names and their tensors)")
    check_weights(found, f"{where}: {path}")
    return {str(key): value for key, value in found.items()}


def _of_hugging_face(folder: Path) -> bool:
    return (folder / "config.json").is_file() and not (folder / "config.yaml").is_file()


def _translated(peer: nn.Module, found: dict[str, Tensor], where: str, source: str) -> dict[str, Tensor]:
    """A state dict by the names of the peer's network, where that knows others of its own."""
    translate = getattr(getattr(getattr(peer, "backbone", None), "net", None), "translated", None)
    if translate is None or any(key.startswith("backbone.") for key in found):
        return found
    try:
        return translate(found)
    except InputError as error:
        raise InputError(f"{where}: {source}: {error}") from error


def _dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_meta


def _owner(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Which part of the peer the names of a file are from: that which has most of them, or the innermost."""
    parts = [part for part in _OWNERS if any(key.startswith(part) for key in own)]
    return max(reversed(parts), key=lambda part: sum(part + key in own for key in found))


def _classifies(key: str, own: Mapping[str, Tensor], owner: str) -> bool:
    """Whether weights of a file are of its classifier: called so, or of a part that our network lacks.

    A deeper network of the same family has other names too, but of parts that ours has.
    """
    first = key.split(".")[0]
    here = any(name.startswith(f"{owner}{first}.") for name in own)
    return owner + key not in own and (not here or first in _CLASSIFIERS)


def _heads(names: Mapping[str, Tensor]) -> set[str]:
    return {key.split(".")[1] for key in names if key.startswith("heads.")}
