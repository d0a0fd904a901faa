"""Our own format: safetensors under the names of an Encoder, and how to build the network as metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ssl_kd.data.files import first_line
from ssl_kd.encoder import Encoder
from ssl_kd.errors import InputError
from ssl_kd.export.deployed import Deployed, Network
from ssl_kd.finite import check_weights
from ssl_kd.own.places import check_places, of_peers
from ssl_kd.own.pretrained import without_weights
from ssl_kd.peers import Surroundings, build_peer
from ssl_kd.system import network as net
from ssl_kd.system.documents import from_json
from ssl_kd.system.paths import expand
from ssl_kd.system.reading import opened
from ssl_kd.system.room import check_tensor_file
from ssl_kd.trust import check_names

WEIGHTS = "model.safetensors"  # in a folder


def weights(network: Deployed) -> bytes:
    """The file: `peers.NAME.weights=FILE` starts a peer with it, `read` builds the network."""
    return save(plain(network.network), {"ssl_kd": json.dumps(network.about)})


def plain(module: nn.Module) -> dict[str, Tensor]:
    """The state dict, each tensor of its own memory and in the usual layout, as safetensors wants them."""
    layout = torch.contiguous_format
    return {key: value.detach().clone(memory_format=layout) for key, value in module.state_dict().items()}


def read(path: str | Path) -> Network:
    """The network in a file of `format=safetensors`, or in a folder of `format=hub-folder`, in eval mode.

    It takes floats (N, C, size, size) in [0, 1]; `network.embed(images)` gives the embedding (N, D), and
    `network(images)` the logits (N, K) where it has a classifier. Nothing in the file is executed, and it may
    name what a run folder may. Raises InputError for what was not exported that way.
    """
    place = expand(path)
    file = file_in(place)
    about = read_about(file)
    config = config_of(about)
    without_weights(config)  # the file has them
    check_names(config, place)
    check_places(of_peers(config, whole=False), place)
    try:
        with torch.random.fork_rng(devices=[]), net.reading_a_run():
            around = Surroundings(config, int(about["image"]["channels"]), {})
            encoder = build_peer("network", config.peers.network, around)
        assert isinstance(encoder, Encoder)
        network = Network(encoder.backbone, dict(encoder.heads.items()))
        weights = load_file(file)
        check_weights(weights, str(file))
        network.load_state_dict(weights)
    except InputError:
        raise
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:  # torch's, of other shapes
        raise InputError(f"{file} does not fit what it says of itself ({first_line(error)})") from error
    return network.eval()


def file_in(place: Path) -> Path:
    """The weights of an export, which is a folder or just them."""
    return place / WEIGHTS if place.is_dir() else place


def config_of(about: Mapping[str, Any]) -> DictConfig:
    """The config of the network alone, of what an export says of it."""
    return OmegaConf.create(
        {
            "data": {"size": about["image"]["size"], "mean": about["mean"], "std": about["std"]},
            "peers": {"network": {key: about[key] for key in ("backbone", "heads", "cut") if key in about}},
        }
    )


def read_about(file: Path) -> dict[str, Any]:
    """What the file says of its network; checked as far as it is read."""
    try:
        opened(file).close()  # what is no file is not waited for
        check_tensor_file(file)
        with safe_open(file, "pt") as weights:
            text = (weights.metadata() or {}).get("ssl_kd", "")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read ({first_line(error)})") from error
    try:
        if "${" in text:  # what a config would look up elsewhere
            raise ValueError("a reference")
        about = from_json(text, file)
        backbone, heads, image = about["backbone"], about["heads"], about["image"]
        good = isinstance(backbone, dict) and isinstance(heads, dict) and isinstance(image, dict)
        good = good and all(type(image[key]) is int and image[key] > 0 for key in ("channels", "size"))
        if not good or not {"mean", "std"} <= about.keys():
            raise ValueError("a part is missing")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} was not written by ssl-kd export format=safetensors") from error
    return about
