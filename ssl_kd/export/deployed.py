"""A peer as it is deployed: the backbone and its classifier, without what only training needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from ssl_kd.encoder import Encoder
from ssl_kd.errors import InputError
from ssl_kd.finished import Finished


class Network(nn.Module):
    """Images, floats (N, C, size, size) in [0, 1] -> logits (N, K); the embedding where nothing classifies.

    heads: the classifier, after the heads that it reads; each reads what comes before it.
    """

    def __init__(self, backbone: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)

    def embed(self, images: Tensor) -> Tensor:
        """Images, as in `forward` -> embedding (N, D)."""
        return self.backbone(images)

    def both(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images, as in `forward` -> (embedding, logits), or (embedding,) where nothing classifies."""
        said = [self.embed(images)]
        for head in self.heads.values():
            said.append(head(said[-1]))
        return (said[0], said[-1]) if len(said) > 1 else (said[0],)

    def forward(self, images: Tensor) -> Tensor:
        return self.both(images)[-1]


@dataclass
class Deployed:
    """What is exported of a finished run. left_out: heads that only training needed."""

    finished: Finished
    name: str
    network: Network  # on the CPU, in eval mode
    left_out: Sequence[str]

    @property
    def channels(self) -> int:
        return self.finished.shape[0]

    @property
    def size(self) -> int:
        """Pixels of an image, height = width."""
        return int(self.finished.config.data.size)

    @property
    def classes(self) -> list[str]:
        """What the logits stand for; [] where nothing classifies."""
        return list(self.finished.classes) if len(self.network.heads) else []

    @property
    def backbone(self) -> dict[str, Any]:
        """The node of the config that built the backbone."""
        return _plain(self.finished.config.peers[self.name].backbone)

    @property
    def normalisation(self) -> tuple[list[float], list[float]] | None:
        """What the network subtracts from the pixels and divides them by, per channel; None for nothing."""
        mean, std = (getattr(self.network.backbone, key, None) for key in ("mean", "std"))
        if not isinstance(mean, Tensor) or not isinstance(std, Tensor):
            return None
        return mean.flatten().tolist(), std.flatten().tolist()

    @property
    def linear(self) -> nn.Linear | None:
        """The classifier, where it is one linear layer on the embedding: what other libraries have."""
        heads = list(self.network.heads.values())
        return heads[0] if len(heads) == 1 and type(heads[0]) is nn.Linear else None

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def about(self) -> dict[str, Any]:
        """What whoever has the file alone needs to build the network again and to feed it."""
        config = self.finished.config
        node = config.peers[self.name]
        return {
            "peer": self.name,
            "backbone": self.backbone,
            "heads": {
                head: _alone(node.heads[head], self.network.heads[head]) for head in self.network.heads
            },
            **({"cut": _plain(node.cut)} if node.get("cut") else {}),
            "image": {"channels": self.channels, "size": self.size},
            "mean": _plain(config.data.mean),
            "std": _plain(config.data.std),
            "classes": self.classes,
            "method": config.method,
            "data": config.data.name,
            "step": self.finished.step,
        }

    def images(self, count: int = 4) -> Tensor:
        """Noise (count, C, size, size) to compare outputs on, always the same."""
        drawn = torch.Generator().manual_seed(0)
        return torch.rand(count, self.channels, self.size, self.size, generator=drawn)


def _alone(node: Any, head: nn.Module) -> Any:
    """The options of a head, without those that name other peers."""
    if not hasattr(head, "alone"):
        return _plain(node)
    kept = {key: value for key, value in _plain(node).items() if key in ("_target_", "reads")}
    return {**kept, **head.alone}  # type: ignore[dict-item]


def deployed(finished: Finished, peer: str | None) -> Deployed:
    """The peer of that name; None stands for the only one. Raises InputError."""
    there, folder = finished.encoders, finished.run.folder
    if not there:
        raise InputError(f"{folder} has no peer that embeds images, and so nothing to deploy")
    name = next(iter(there)) if peer is None and len(there) == 1 else finished.one(peer)
    if name not in there:
        raise InputError(f'"{name}" of {folder} reads what other peers say, and cannot be deployed alone')
    encoder = there[name]
    kept = _kept(encoder, finished.classifiers.get(name))
    network = Network(encoder.backbone, {head: encoder.heads[head] for head in kept})
    network = network.eval().requires_grad_(False).to(memory_format=torch.contiguous_format)
    return Deployed(finished, name, network, [head for head in encoder.heads if head not in kept])


def _kept(encoder: Encoder, classifier: str | None) -> list[str]:
    """The classifier on the embedding, after the heads that it reads."""
    chain: list[str] = []
    while classifier is not None and classifier in encoder.heads:
        chain.insert(0, classifier)
        classifier = encoder.reads[classifier]
    return chain


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
