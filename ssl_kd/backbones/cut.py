"""A backbone that goes on through the first layers of a projection head, as SimCLRv2 fine-tunes it."""

from collections.abc import Collection

from torch import Tensor, nn

from ssl_kd.errors import InputError


class Cut(nn.Module):
    """The backbone and the layers behind it: images (N, C, H, W) -> embedding (N, width).

    Stages are the backbone's. It is made by `through_head`.
    """

    def __init__(self, backbone: nn.Module, head: nn.Sequential) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.width = [part for part in head if isinstance(part, nn.Linear)][-1].out_features
        self.stage_channels: dict[str, int] = getattr(backbone, "stage_channels", {})

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))

    def forward_stages(self, images: Tensor, stages: Collection[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The embedding (N, width) and the asked-for maps (N, C, H, W) of the backbone, from one pass."""
        embedding, maps = self.backbone.forward_stages(images, stages)  # type: ignore[operator]
        return self.head(embedding), maps

    def remainder(self, stage: str) -> tuple[nn.Module, int]:
        """The backbone's own blocks after a stage, as `Backbone.remainder`."""
        return self.backbone.remainder(stage)  # type: ignore[operator]


def through_head(backbone: nn.Module, head: nn.Module, layers: int) -> nn.Module:
    """The backbone and the first `layers` Linear layers of its head, each with what follows it.

    What follows a Linear is all before the next one (batch norm, ReLU); 0 layers is the backbone alone.
    The modules are the given ones, not copies. Raises InputError where the head has fewer layers.
    Source: Chen et al. 2020 (SimCLRv2), who fine-tune from the first layer of a head of three.
    """
    parts = list(head) if isinstance(head, nn.Sequential) else [head]
    at = [place for place, part in enumerate(parts) if isinstance(part, nn.Linear)]
    if isinstance(layers, bool) or not isinstance(layers, int) or not 0 <= layers <= len(at):
        raise InputError(
            f"the head has {len(at)} linear layers, so the layer to take is 0 to {len(at)}, not {layers}"
        )
    if layers == 0:
        return backbone
    return Cut(backbone, nn.Sequential(*parts[: at[layers] if layers < len(at) else len(parts)]))
