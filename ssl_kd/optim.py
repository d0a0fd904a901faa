"""Parameter groups by peer, and LARS."""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from ssl_kd.cohort import Cohort
from ssl_kd.errors import InputError


def param_groups(
    cohort: Cohort,
    weight_decay: float,
    lr_scale: Mapping[str, float] | None = None,
    peers: Sequence[str] | None = None,
    decay: Literal["all"] | None = None,
) -> list[dict[str, Any]]:
    """Two groups per learning peer: weights; and biases and norms, neither decayed nor adapted by LARS.

    lr_scale: peer -> factor on the learning rate. Every group carries its "peer".
    peers: of these alone. decay: all decays biases and norms too, as some papers do.
    """
    if decay not in (None, "all"):
        raise InputError(f'optim.decay is "{decay}", but can be: null, all')
    groups: list[dict[str, Any]] = []
    for name in cohort.trainable if peers is None else peers:
        parameters = [p for p in cohort.peers[name].parameters() if p.requires_grad]
        common = {"peer": name, "lr_scale": (lr_scale or {}).get(name, 1.0)}
        for decayed in (True, False):
            chosen = [p for p in parameters if (p.dim() > 1) == decayed]
            if chosen:
                groups.append(
                    {
                        "params": chosen,
                        **common,
                        "weight_decay": weight_decay if decayed or decay == "all" else 0.0,
                        "adapt": decayed,
                    }
                )
    return groups


def unnormalised(peer: nn.Module) -> bool:
    """Whether the peer's backbone has learning layers with a bias, and no batch norm after them.

    A batch norm takes away the scale of the weights before it, so that a step that is too large undoes itself
    (Arora, Li, Lyu 2019), and their bias with it, which networks therefore leave out.
    """
    backbone = getattr(peer, "backbone", None)
    if not isinstance(backbone, nn.Module):
        return False
    leaves = [part for part in backbone.modules() if not any(True for _ in part.children())]
    learning = [part for part in leaves if any(p.requires_grad for p in part.parameters())]
    return any(
        isinstance(getattr(part, "bias", None), Tensor)
        and getattr(part, "weight", torch.zeros(0)).dim() > 1
        and not isinstance(after, _BatchNorm)
        for part, after in zip_longest(learning, learning[1:])
    )


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling with momentum; the learning rate is inside the momentum buffer.

    g <- g + weight_decay * w;  trust = trust_coefficient * |w| / |g|, 1 where either is 0;
    v <- momentum * v + lr * trust * g;  w <- w - v.
    Groups with adapt=False (biases, norms) are plain momentum SGD without decay.
    Source: You et al. 2017, in the form of the SimCLR authors' code.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        trust_coefficient: float = 0.001,
        adapt: bool = True,
    ) -> None:
        defaults = dict(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            trust_coefficient=trust_coefficient,
            adapt=adapt,
        )
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad
                if group["adapt"]:
                    update = update.add(p, alpha=group["weight_decay"])
                    sizes = p.norm(), update.norm()
                    trust = torch.where(
                        (sizes[0] > 0) & (sizes[1] > 0), group["trust_coefficient"] * sizes[0] / sizes[1], 1.0
                    )
                    update = update * trust
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(update, alpha=group["lr"])
                p.sub_(velocity)
        return loss
