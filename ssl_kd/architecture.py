"""What a network of Hugging Face is made of, as the config.json beside its weights says it. No torch here.

`hf/PLACE` names a folder that `save_pretrained` wrote, or a model of the Hub; its architecture is put into
the run's own config, so that the run needs the place no more. Only config.json and model.safetensors are ever
read: neither programs that lie there nor pickles. What a config may say is checked here and in
`ssl_kd.backbones.hugging_face`: it may be anybody's.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.errors import InputError, nearest
from ssl_kd.system import network
from ssl_kd.system.documents import CONFIG, json_of
from ssl_kd.system.paths import expand

WEIGHTS = "model.safetensors"
# Said of a model, and no part of its architecture: classes, versions, number formats, where its program lies.
_ASIDE = (
    "architectures auto_map custom_pipelines dtype finetuning_task id2label label2id license_name "
    "num_labels problem_type tokenizer_class torch_dtype transformers_version"
).split()
# What makes transformers fetch something else, or a program: other networks, kernels, quantizers.
FETCHES = (
    "attn_implementation backbone backbone_config backbone_kwargs experts_implementation fusion_config "
    "quantization_config trust_remote_code use_pretrained_backbone use_timm_backbone"
).split()


def settle(peer: DictConfig, name: str) -> None:
    """Writes into a peer that names `hf/PLACE` the architecture of that, and where its weights are.

    `pretrained: true` of such a backbone becomes `weights` of the peer. Raises InputError.
    """
    node = peer.get("backbone")
    if not isinstance(node, DictConfig) or node.get("_target_") != "ssl_kd.backbones.create":
        return
    called = node.get("name")
    if not is_hugging_face(called):
        return
    pretrained = node.pop("pretrained", False)
    if not isinstance(pretrained, bool):
        raise InputError(f"peers.{name}.backbone.pretrained must be true or false, not {pretrained}")
    if pretrained and peer.get("weights"):
        raise InputError(f"peers.{name} has weights, and its backbone is pretrained; leave one of them out")
    given = OmegaConf.to_container(node.config) if node.get("config") else {}
    node.config = architecture(str(called), given, pretrained)
    if pretrained:
        peer.weights = str(weights_file(place_of(str(called))))


def is_hugging_face(name: Any) -> bool:
    return isinstance(name, str) and (name == "hf" or name.startswith("hf/"))


def place_of(name: str) -> str:
    """The folder or the name on the Hub in `hf/PLACE`; "" in `hf`."""
    return name.removeprefix("hf").removeprefix("/")


def architecture(name: str, given: Any, pretrained: bool = False) -> dict[str, Any]:
    """The options of a network's configuration, "model_type" among them.

    given: with a "model_type" all of them, and nothing is read; else changes to those of the place.
    pretrained: the weights of the place are to fit, so the size of its images stays; it sizes the positions.
    Raises InputError for what is not there, for unknown options and for those that would fetch anything.
    """
    if not isinstance(given, Mapping):
        raise InputError(
            f"{name}: config is a mapping, as in {{model_type: vit, hidden_size: 192}}, not {given}"
        )
    if "model_type" in given:
        return _checked(name, dict(given))
    place = place_of(name)
    if not place:
        raise InputError(
            "hf names a network of Hugging Face, as hf/FOLDER or hf/OWNER/MODEL, or by its config, as "
            "{name: hf, config: {model_type: vit, hidden_size: 192}}"
        )
    found = {
        key: value
        for key, value in _read(_file(place, "config.json")).items()
        if key not in _ASIDE and not key.startswith("_")
    }
    if not pretrained:
        found.pop("image_size", None)
    odd = [key for key in given if key not in found and key != "image_size"]
    if odd:
        raise InputError(f'{name}: its config has no "{odd[0]}"; {nearest(str(odd[0]), list(found))}')
    return _checked(name, {**found, **given})


def weights_file(place: str) -> Path:
    """The safetensors of a folder or of a model of the Hub. Raises InputError."""
    return _file(place, WEIGHTS)


def _file(place: str, file: str) -> Path:
    folder = expand(place)
    if folder.is_dir():
        if (folder / file).is_file():
            return folder / file
        why = "; pickled weights and weights in several files are not read" if file == WEIGHTS else ""
        raise InputError(f"there is no {file} in the folder {place}{why}")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", place):  # no name that the Hub can have
        raise InputError(f"there is no folder {place}")
    try:
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
    except ImportError as error:
        raise InputError(f'hf/{place} needs the package "transformers": pip install "ssl-kd[hf]"') from error
    if not network.allowed():
        kept = try_to_load_from_cache(place, file)
        if isinstance(kept, str):
            return Path(kept)
        network.ask(f"{file} of hf/{place}", f"https://huggingface.co/{place}")
    try:
        return Path(hf_hub_download(place, file))
    except Exception as error:  # of the network and of the Hub, in many types
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"there is no folder {place}, and the Hub gave no {file} of it ({said})") from error


def _read(path: Path) -> dict[str, Any]:
    found = json_of(path, CONFIG)
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise InputError(f'{path} cannot be read (it says no "model_type")')
    return found


def _checked(name: str, config: dict[str, Any]) -> dict[str, Any]:
    for key, value in _pairs(config):
        if key in FETCHES and value not in (None, False):
            raise InputError(f'{name}: its config says "{key}", and nothing is fetched or executed for that')
        if "${" in key or (isinstance(value, str) and "${" in value):
            raise InputError(f'{name}: "{key}" of its config refers to something else by ${{...}}')
    kept = {key: value for key, value in config.items() if not str(key).startswith("_")}
    return {key: value for key, value in kept.items() if key not in (*_ASIDE, *FETCHES)}


def _pairs(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of everything in a mapping, at any depth; what lies in a list has the list's key."""
    if isinstance(node, Mapping):
        for own, value in node.items():
            yield str(own), value if not isinstance(value, Mapping | list) else True
            yield from _pairs(value, str(own))
    elif isinstance(node, list):
        for value in node:
            yield from _pairs(value, key)
    else:
        yield key, node
