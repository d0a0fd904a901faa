"""Networks that turn images into one embedding each, with their stages in reach.

`create("wrn-16-2")`, `create("resnet18", size=96)`, `create("vit_tiny_patch16_224")`: our own names first,
then every model of timm; `timm/` in front of a name skips ours. `torchvision/` stands before any classifier
of torchvision, `hf/` before a vision encoder of Hugging Face (see `hugging_face`). None of these packages is
imported before one of their models is asked for. Weights come from torch's global generator.
"""

import re
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from ssl_kd.errors import InputError, nearest

_CIFAR = ["resnet8", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"]
_VISION = ["resnet18", "resnet34", "resnet50", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "mobilenet_v2"]
_MOBILE = ["mobilenet_v1"]
_WRN = re.compile(r"wrn-(\d+)-(\d+)")


class Backbone(nn.Module):
    """A network behind its normalisation.

    net: net(images, stages) -> (embedding (N, width), {stage: map (N, C, H, W)} of the asked-for stages).
        Where it also has `remainder(stage)`, that builds what `self.remainder` gives, or None if it cannot.
    mean, std: of the pixels in [0, 1], one number or one per channel; buffers, so a checkpoint has them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        width: int,
        stage_channels: Mapping[str, int],
        *,
        channels: int = 3,
        mean: Sequence[float] | float = 0.5,
        std: Sequence[float] | float = 0.25,
        name: str = "the backbone",
    ) -> None:
        super().__init__()
        self.net = net
        self.width = width
        self.stage_channels = dict(stage_channels)  # in forward order
        self.name = name
        self.register_buffer("mean", _per_channel(mean, channels, "mean"))
        self.register_buffer("std", _per_channel(std, channels, "std"))
        if not bool((self.std > 0).all()):
            raise InputError(f"std must be above 0 in every channel, not {std}")

    def forward(self, images: Tensor) -> Tensor:
        """images: float (N, C, H, W) in [0, 1]. The embedding (N, width): pooled, before any classifier."""
        return self.net(self._normalise(images), ())[0]

    def forward_stages(self, images: Tensor, stages: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The embedding (N, width) and the asked-for maps (N, C, H, W), in forward order, from one pass.

        Raises InputError for a stage that is not in `stage_channels`.
        """
        self._check(stages)
        return self.net(self._normalise(images), tuple(stages))

    def remainder(self, stage: str) -> tuple[nn.Module, int]:
        """The network's own blocks after a stage, freshly initialised, and the width of what they give.

        The module maps that stage's (N, C, H, W) -> pooled features (N, width), and shares nothing with the
        backbone. The small networks' blocks are DCM's (Yao and Sun 2020): fewer or wider than the backbone's.
        Raises InputError for an unknown stage, for the last, and where the network cannot build them.
        """
        self._check([stage])
        if stage == list(self.stage_channels)[-1]:
            raise InputError(
                f'{self.name} has no blocks after "{stage}", its last stage; take an earlier one'
            )
        build = getattr(self.net, "remainder", None)
        rest = build(stage) if build else None
        if rest is None:
            raise InputError(
                f"{self.name} cannot build its blocks after a stage again; take the light exit "
                "(ssl_kd.exits.light)"
            )
        return rest

    def _check(self, stages: Collection[str]) -> None:
        unknown = [stage for stage in stages if stage not in self.stage_channels]
        if unknown:
            those = ", ".join(self.stage_channels) or "none"
            raise InputError(f'{self.name} has no stage "{unknown[0]}"; its stages: {those}')

    def _normalise(self, images: Tensor) -> Tensor:
        # One channel would broadcast to three, and bytes would pass as floats up to 255: both without a word.
        if images.ndim != 4 or images.shape[1] != len(self.mean) or not images.is_floating_point():
            raise InputError(
                f"{self.name} takes float images (N, {len(self.mean)}, H, W) in [0, 1], "
                f"not {images.dtype} {tuple(images.shape)}"
            )
        return (images - self.mean) / self.std


def create(
    name: str,
    *,
    channels: int = 3,
    size: int = 32,
    mean: Sequence[float] | float = 0.5,
    std: Sequence[float] | float = 0.25,
    **options: object,
) -> Backbone:
    """The backbone of that name, untrained unless an option says `pretrained` (timm's and Hugging Face's).

    channels, size: of the images (size in pixels, height = width); small sizes get a stem with less stride.
    options: arguments of the network's constructor (`drop_path_rate=0.1` of timm, say), or for a name that
        begins with `hf` those of `hugging_face.build`.
    Raises InputError for an unknown name or option, with the nearest right name.
    """
    if channels < 1 or size < 1:
        raise InputError(f"channels and size must be at least 1, not {channels} and {size}")
    try:
        net, width, stage_channels = _build(name, channels, size, options)
    except TypeError as error:
        option = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if option and option[1] in options:
            raise InputError(f'{name} takes no option "{option[1]}"') from error
        raise
    return Backbone(net, width, stage_channels, channels=channels, mean=mean, std=std, name=name)


def names() -> list[str]:
    """Our own names ("wrn-16-2": any wrn-DEPTH-WIDTH); `create` takes those of the libraries as well."""
    return sorted([*_CIFAR, *_MOBILE, *_VISION, "wrn-16-2"])


def _build(name: str, channels: int, size: int, options: dict) -> tuple[nn.Module, int, dict[str, int]]:
    if name in _CIFAR or _WRN.fullmatch(name):
        from ssl_kd.backbones import cifar

        wide = _WRN.fullmatch(name)
        if wide:
            net = cifar.wide_resnet(int(wide[1]), int(wide[2]), channels, **options)
        else:
            net = cifar.resnet(int(name.removeprefix("resnet")), channels, **options)
        return net, net.width, net.stage_channels
    if name in _MOBILE:
        from ssl_kd.backbones import mobile

        net = mobile.mobilenet(channels, **options)
        return net, net.width, net.stage_channels
    if name in _VISION or name.startswith("torchvision/"):
        from ssl_kd.backbones import vision

        plain = name.removeprefix("torchvision/")
        if plain not in vision.known():
            advice = nearest(name, [f"torchvision/{known}" for known in vision.known()])
            raise InputError(f'there is no backbone "{name}"; {advice}')
        net = vision.build(plain, channels, size, **options)
        return net, net.width, net.stage_channels
    if name == "hf" or name.startswith("hf/"):
        from ssl_kd.backbones import hugging_face

        encoder = hugging_face.build(name, channels, size, **options)
        return encoder, encoder.width, encoder.stage_channels

    import timm

    from ssl_kd.backbones import timm_models

    forced, plain = name.startswith("timm/"), name.removeprefix("timm/")
    if timm.is_model(plain):
        adapter = timm_models.build(plain, channels, size, options)
        return adapter, adapter.width, adapter.stage_channels
    theirs = timm.list_models()
    advice = nearest(name, [f"timm/{known}" for known in theirs] if forced else names() + theirs)
    if not advice.startswith("did you mean"):  # a thousand names are no help
        ours = ", ".join(names())
        advice = f"there are: {ours}, every name of timm.list_models(), torchvision/NAME and hf/FOLDER"
    raise InputError(f'there is no backbone "{name}"; {advice}')


def _per_channel(value: Sequence[float] | float, channels: int, what: str) -> Tensor:
    """(C, 1, 1)."""
    each = [value] * channels if isinstance(value, int | float) else list(value)
    if len(each) != channels:
        raise InputError(f"{what} must be one number or {channels}, one per channel, not {len(each)}")
    return torch.tensor(each, dtype=torch.float32).view(channels, 1, 1)
