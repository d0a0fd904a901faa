"""timm's models as backbones: no classifier, NCHW stage maps, a stem for small images, no idle parameter.

The stem. timm's networks divide the size by 32 or cut it into patches of 16, which leaves one pixel of a
32-pixel image. For images of at most 64 pixels the stem is lowered, found by watching a forward pass:

1. a network that begins with a patch embedding (Swin, ViT) is built with a smaller `patch_size`: half, then
   half of that; a plain ViT (one resolution in all blocks) with the largest that gives at least 8x8 tokens;
2. in any other, the first strided convolutions that run (several where branches share the input) get half
   their stride; a first pooling goes, and so does a max-pool that is the next reduction by itself (ResNet);
3. once always, and again until the last map is at least 4x4 (3x3 below 32 pixels, 2x2 below 24). What then
   no longer runs (an attention bias sized to the image, say), or lets no patch be chosen, stays as timm
   made it.

Every attempt starts from the same state of torch's generator: the weights are those of one construction.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ssl_kd.backbones.cifar import anew
from ssl_kd.backbones.stems import SMALL, UNFIT, drop_unused, dry, lower, probe_image, reductions, side_of
from ssl_kd.data.files import first_line
from ssl_kd.errors import InputError
from ssl_kd.system import network

TOKENS = 8  # along a side, of a plain ViT

_FILE = "peers.NAME.weights takes a file, and executes nothing of it"
_OURS = {
    "num_classes": "it has no classifier",
    "in_chans": "set channels",
    "img_size": "set size",
    **dict.fromkeys(("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"), _FILE),
}


class TimmNet(nn.Module):
    """A timm model without classifier. Stages "stage1", "stage2", ... are the levels of its `feature_info`.

    Where timm counts the stem's output as a level (ResNet: five of them), so do the stages; in a ViT every
    block is one. image: any (1, C, H, W) of the size to come.
    """

    def __init__(self, model: Any, image: Tensor) -> None:
        super().__init__()
        self.model: Any = model  # timm's models share methods, not a class
        self.stage_channels: dict[str, int] = {}
        self._last = torch.Size()  # of the last map
        with dry(model):
            embedding = self._embed(self.model.forward_features(image))
            self.width = embedding.shape[1]
            again, maps = _intermediates(model, image)
            # A model whose two passes differ cannot give maps and embedding of one pass.
            if maps and torch.equal(self._embed(again), embedding):
                self.stage_channels = {f"stage{i}": m.shape[1] for i, m in enumerate(maps, 1)}
                self._last = maps[-1].shape
        drop_unused(self, image)

    def forward(self, x: Tensor, stages: Collection[str] = ()) -> tuple[Tensor, dict[str, Tensor]]:
        """x: (N, C, H, W), normalised. The embedding (N, width) and the asked-for maps (N, C, H, W)."""
        if not stages:
            return self._embed(self.model.forward_features(x)), {}
        indices = [i for i, stage in enumerate(self.stage_channels) if stage in stages]
        last, maps = self.model.forward_intermediates(x, indices=indices, output_fmt="NCHW")
        return self._embed(last), {f"stage{i + 1}": m for i, m in zip(indices, maps, strict=True)}

    def remainder(self, stage: str) -> tuple[nn.Module, int] | None:
        """A ViT's blocks after that stage and its norms, freshly initialised, and their width.

        None where the stages are not blocks that read tokens and nothing else (positions, class tokens).
        """
        later = list(self.stage_channels).index(stage) + 1
        model = self.model
        blocks = getattr(model, "blocks", ())
        whole = len(blocks) == len(self.stage_channels) and hasattr(model, "norm")
        if not whole or getattr(model, "rope", None) is not None:
            return None
        after = getattr(model, "fc_norm", nn.Identity())
        rest = anew(_Tokens(nn.Sequential(*blocks[later:], model.norm), after))
        if hasattr(model, "_init_weights"):  # timm's ViTs: more than each layer's own initialisation
            rest.apply(model._init_weights)
        pixels = torch.zeros(self._last, device=next(rest.parameters()).device)
        with suppress(*UNFIT), dry(rest):
            return rest, rest(pixels).shape[1]
        return None

    def _embed(self, features: Tensor) -> Tensor:
        return self.model.forward_head(features, pre_logits=True).flatten(1)


class _Tokens(nn.Module):
    """The pixels of a map as tokens, through blocks, their mean, a norm."""

    def __init__(self, blocks: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.blocks = blocks
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W). Features (N, C)."""
        return self.norm(self.blocks(x.flatten(2).transpose(1, 2)).mean(1))


def build(name: str, channels: int, size: int, options: dict[str, Any]) -> TimmNet:
    """A timm model by its name; options go to timm.create_model.

    Raises InputError for an option that is ours to set and for a model that cannot take images of this size.
    """
    for ours, instead in _OURS.items():
        if ours in options:
            raise InputError(f'{name} takes no option "{ours}": {instead}')
    if options.get("pretrained"):
        network.ask(f"the weights of timm's {name}", f"https://huggingface.co/timm/{name}")
    state = torch.get_rng_state()

    def fresh(**patch: int) -> nn.Module:
        torch.set_rng_state(state)
        fixed: dict[str, Any] = {"num_classes": 0, "in_chans": channels, **options, **patch}
        try:
            return timm.create_model(name, img_size=size, **fixed)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
        torch.set_rng_state(state)
        return timm.create_model(name, **fixed)  # it takes any size

    try:
        model = fresh()
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _unfit(name, size, error) from error
    image = probe_image(channels, size)
    if size <= SMALL:
        uniform = len({level["reduction"] for level in getattr(model, "feature_info", [])}) == 1
        enough = TOKENS if uniform else side_of(size)
        ran = _side(model, image) > 0
        for candidate in _lowered(fresh, model, image, enough, "patch_size" in options):
            side = _side(candidate, image)
            if side == 0 and ran:
                break  # it depends on its stride
            if side > 0:
                model, ran = candidate, True
            if side >= enough:
                break
    try:
        return TimmNet(model, image)
    except UNFIT as error:
        raise _unfit(name, size, error) from error


def _unfit(name: str, size: int, error: Exception) -> InputError:
    own = timm.get_pretrained_cfg_value(name, "input_size")
    advice = f"; its own size is {own[-1]}" if own else ""
    return InputError(f"{name} cannot take images of {size} pixels ({first_line(error)}){advice}")


def _lowered(
    fresh: Callable[..., nn.Module], model: nn.Module, image: Tensor, enough: int, patch_given: bool
) -> Iterator[nn.Module]:
    """The model with its stem lowered once, twice, ..."""
    size = image.shape[-1]
    patch = _patch(model, image)
    if patch:
        if patch_given:
            return  # the caller chose
        if enough == TOKENS:
            finest = max(p for p in range(1, max(1, size // TOKENS) + 1) if size % p == 0)
            smaller = [finest] if finest < patch else []
        else:
            smaller = [patch >> i for i in range(1, patch.bit_length())]
        with suppress(*UNFIT):  # some constructors do not let it be chosen
            for value in smaller:
                yield fresh(patch_size=value)
            return
    if enough == TOKENS and _side(model, image) >= enough:
        return
    for rounds in range(1, 4):
        candidate: Any = fresh()
        if not all([lower(candidate, image, candidate.forward_features) for _ in range(rounds)]):
            return
        yield candidate


def _patch(model: Any, image: Tensor) -> int:
    """The side of the patches of a model that begins with a patch embedding, which knows its grid; else 0."""
    first, _ = reductions(model, image, model.forward_features)
    if len(first) != 1 or not isinstance(first[0][0], nn.Conv2d):
        return 0
    conv = first[0][0]
    embeds = any(hasattr(parent, "patch_size") and conv in parent.children() for parent in model.modules())
    return conv.stride[0] if embeds and conv.kernel_size == conv.stride else 0


def _side(model: Any, image: Tensor) -> int:
    """Pixels along the shorter side of the last map; 0 where the model does not run."""
    with suppress(*UNFIT), dry(model):
        last, maps = _intermediates(model, image)
        model.forward_head(last, pre_logits=True)
        final = maps[-1] if maps else last
        return min(final.shape[-2:]) if isinstance(final, Tensor) and final.ndim == 4 else TOKENS
    return 0


def _intermediates(model: Any, image: Tensor) -> tuple[Any, list[Tensor]]:
    """The model's last features and the maps (1, C, H, W) of all its levels; no maps where it offers none."""
    if not hasattr(model, "forward_intermediates"):
        return model.forward_features(image), []
    return model.forward_intermediates(image, indices=list(range(len(model.feature_info))), output_fmt="NCHW")
