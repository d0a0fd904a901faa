"""Vision encoders of Hugging Face's transformers as backbones: NCHW stage maps, no head, no idle parameter.

Stages are the hidden states that transformers lists: the maps of a network of convolutions or windows, and
the blocks of a ViT. The embedding is what the encoder pools without a layer of its own, as the class token
after DINOv2's last norm, or else the first of the tokens before the patches, or the mean of all.

For images of at most 64 pixels the stem of a network of convolutions is lowered, as `timm_models` says; a
ViT's patches are what its config says. Needs the package `transformers`, which the extra `hf` brings. No
program of a folder or of the Hub is executed, and no pickle is read: see `ssl_kd.architecture`.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ssl_kd.architecture import architecture, place_of, weights_file
from ssl_kd.backbones.stems import SMALL, UNFIT, drop_unused, dry, lowered, probe_image
from ssl_kd.data.files import first_line
from ssl_kd.errors import InputError, nearest
from ssl_kd.finite import check_weights
from ssl_kd.system.room import check_tensor_file

# They would fetch another network, or are no encoder of images alone.
_NOT_THESE = ("timm_wrapper", "timm_backbone", "perceiver", "imagegpt", "shieldgemma2")
_PAIRS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model"}
_MORE = tuple(_PAIRS.values())


class HuggingFaceNet(nn.Module):
    """A vision encoder of transformers. image: any (1, C, H, W) of the size to come."""

    def __init__(self, model: Any, image: Tensor) -> None:
        super().__init__()
        self.model: Any = model
        if _learns(getattr(model, "pooler", None)):
            model.pooler = None  # a layer for one task of the past, as BERT's, on the class token
        takes = signature(model.forward).parameters
        self._more = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
        self._before = 0  # tokens in front of the patches
        self.stage_channels: dict[str, int] = {}
        with dry(model):
            out = self.run(image, states=True)
            last = out.last_hidden_state
            if last.ndim == 3 and out.get("reshaped_hidden_states") is None:
                patch = getattr(model.config, "patch_size", 1)
                patch = patch if isinstance(patch, int) else patch[0]
                side = image.shape[-1] // patch
                side = side if side * side <= last.shape[1] else math.isqrt(last.shape[1])
                self._before = last.shape[1] - side * side
            self.width = self._embed(out).shape[1]
            self.stage_channels = {f"stage{i}": m.shape[1] for i, m in enumerate(self._maps(out), 1)}
        drop_unused(self, image)

    def forward(self, x: Tensor, stages: Collection[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """x: (N, C, H, W), normalised. The embedding (N, width) and the asked-for maps (N, C, H, W)."""
        out = self.run(x, states=bool(stages))
        maps = self._maps(out) if stages else []
        named = zip(self.stage_channels, maps, strict=False)
        return self._embed(out), {stage: found for stage, found in named if stage in stages}

    def run(self, x: Tensor, states: bool = False) -> Any:
        """What transformers gives for images (N, C, H, W)."""
        return self.model(pixel_values=x, output_hidden_states=states, return_dict=True, **self._more)

    def translated(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict in a file of transformers by the names that this network has.

        transformers does it: names changed between its versions. Raises InputError for another network.
        """
        with _quiet(), torch.random.fork_rng(devices=[]):
            try:
                read, said = type(self.model).from_pretrained(
                    None,
                    config=self.model.config,
                    state_dict=dict(found),
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                )
            except (*UNFIT, OSError, KeyError) as error:
                raise InputError(f"its weights are of another network ({first_line(error)})") from error
        for key, there, here in said["mismatched_keys"]:
            differ = f'they differ in "{key}", {tuple(there)} there and {tuple(here)} here'
            raise InputError(f"its weights are of another network; {differ}")
        own, missing = self.model.state_dict(), set(said["missing_keys"])
        return {
            f"model.{key}": value.float() if value.is_floating_point() else value
            for key, value in read.state_dict().items()
            if key in own and key not in missing
        }

    def _embed(self, out: Any) -> Tensor:
        pooled = out.get("pooler_output")
        if pooled is not None:
            return pooled.flatten(1)
        last = out.last_hidden_state
        if last.ndim == 4:
            return last.mean((2, 3))
        return last[:, 0] if self._before else last.mean(1)

    def _maps(self, out: Any) -> list[Tensor]:
        shaped = out.get("reshaped_hidden_states")
        if shaped is not None:  # of one transformer (Hiera) with the channels last
            last = [m.shape[1] == m.shape[2] != m.shape[3] for m in shaped]
            return [m.permute(0, 3, 1, 2) if so else m for m, so in zip(shaped, last, strict=True)]
        states = out.get("hidden_states") or ()
        if all(state.ndim == 4 for state in states):
            return list(states)
        patches = [state[:, self._before :] for state in states[1:]]  # the first is what the blocks are given
        sides = [math.isqrt(patch.shape[1]) for patch in patches]
        if any(side * side != patch.shape[1] for side, patch in zip(sides, patches, strict=True)):
            return []
        return [p.transpose(1, 2).unflatten(2, (s, s)) for p, s in zip(patches, sides, strict=True)]


def build(
    name: str, channels: int, size: int, *, config: Mapping[str, Any] | None = None, pretrained: bool = False
) -> HuggingFaceNet:
    """An encoder by `hf/FOLDER`, `hf/OWNER/MODEL`, or `hf` and its config.

    config: with "model_type" the whole configuration, else changes to that of the place.
    pretrained: with the weights of the place; untrained otherwise. Raises InputError.
    """
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError as error:
        raise InputError(f'{name} needs the package "transformers": pip install "ssl-kd[hf]"') from error
    options = architecture(name, config or {}, pretrained)
    kind = options.pop("model_type")
    _check_kind(name, kind)
    known = _options_of(kind)
    odd = [key for key in options if known and key not in known]
    if odd and name == "hf":  # what a file says may be of another version
        raise InputError(f'{name}: {kind} has no option "{odd[0]}"; {nearest(odd[0], list(known))}')
    if "num_channels" in known:
        options["num_channels"] = channels
    if "image_size" in known and "image_size" not in options:
        options["image_size"] = [size, size] if isinstance(known["image_size"], list | tuple) else size
    try:
        with _quiet():
            made = AutoConfig.for_model(kind, **options)
            model: Any = AutoModel.from_config(made, trust_remote_code=False).float()
    except Exception as error:  # its checks of a configuration have types of their own
        raise InputError(f"{name}: {kind} cannot be made of its options ({first_line(error)})") from error
    if getattr(model, "main_input_name", "") != "pixel_values":
        raise InputError(f"{name}: {kind} is not an encoder of images alone")
    image = probe_image(channels, size)
    try:
        net = HuggingFaceNet(lowered(model, image, _called, _side) if size <= SMALL else model, image)
    except (*UNFIT, AttributeError) as error:
        raise InputError(f"{name} cannot take images of {size} pixels ({first_line(error)})") from error
    if pretrained:
        _load(net, name, weights_file(place_of(name)))
    return net


def _check_kind(name: str, kind: str) -> None:
    from transformers.models.auto import modeling_auto as auto

    named = {*auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, *auto.MODEL_FOR_BACKBONE_MAPPING_NAMES}
    kinds = sorted({*named, *_MORE} - {*_NOT_THESE, *_PAIRS})
    if kind in _PAIRS:
        raise InputError(f"{name}: {kind} is two encoders; that of its images is {_PAIRS[kind]}")
    if kind not in kinds:
        raise InputError(f'{name}: "{kind}" is no encoder of images; {nearest(kind, kinds)}')


def _options_of(kind: str) -> dict[str, Any]:
    """What a configuration of this kind has, by default; {} where that cannot be told."""
    from transformers import AutoConfig

    with suppress(Exception):
        default = AutoConfig.for_model(kind)
        more = getattr(default, "attribute_map", {})
        return {**dict.fromkeys(more), **default.to_dict()}
    return {}


def _called(model: Any, x: Tensor) -> Any:
    return model(pixel_values=x, return_dict=True)


def _side(model: Any, image: Tensor) -> int:
    """Pixels along the side of the last map; 0 where the model does not run or gives no map."""
    with suppress(*UNFIT), dry(model):
        last = _called(model, image).last_hidden_state
        return min(last.shape[-2:]) if last.ndim == 4 else 0
    return 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tables and progress bars that transformers prints of a loading; both are given back."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _learns(module: Any) -> bool:
    return isinstance(module, nn.Module) and any(True for _ in module.parameters())


def _load(net: HuggingFaceNet, name: str, path: Path) -> None:
    try:
        check_tensor_file(path)
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{name}: {path} cannot be read ({first_line(error)})") from error
    check_weights(found, f"{name}: {path}")
    try:
        theirs = net.translated(found)
    except InputError as error:
        raise InputError(f"{name}: {path}: {error}") from error
    lacking = [key for key in net.state_dict() if key not in theirs]
    if lacking:
        raise InputError(f'{name}: {path} lacks "{lacking[0]}"')
    net.load_state_dict(theirs)
