"""What a probe sees of a network: one row of numbers per image, made once and kept on the CPU."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_kd.errors import InputError

CPU_PIXELS = 1 << 17  # that a CPU embeds at once: more leave its caches, and take longer
Images = Iterable[tuple[Tensor, Tensor]]  # batches of uint8 (b, C, H, W) and int64 (b,)


@dataclass(frozen=True)
class Features:
    """The rows of both splits. A label of -1 means none; a data set without a test split has M = 0 rows."""

    train: Tensor  # (N, D) float32, cpu
    train_labels: Tensor  # (N,) int64
    test: Tensor  # (M, D) float32, cpu
    test_labels: Tensor  # (M,) int64
    classes: int


def embed(
    network: Callable[[Tensor], Tensor],
    images: Images,
    plain: Callable[[Tensor], Tensor],
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """The rows (N, D) that `network` gives to un-augmented images, float32 on the CPU, and their labels (N,).

    plain: uint8 (b, C, H, W) on `device` -> what the network takes, floats of images in [0, 1].
    The network runs in eval mode, in float32, without gradients; no parameter and no buffer changes, and
    every submodule is back in its own mode afterwards. A plain function, which has no modes, is called as is.
    Raises InputError where there are no images, or where the network gives anything but (b, D).
    """
    device = torch.device(device)
    owner = getattr(network, "__self__", network)  # of `encoder.features`, the encoder
    module = owner if isinstance(owner, nn.Module) else nn.Module()
    memory_format = _memory_format(module)
    rows, labels = [], []
    # No inference_mode: a constant that a network caches at its first call must stay usable in training.
    with evaluating(module), torch.no_grad(), torch.autocast(device.type, enabled=False):
        for batch, label in images:
            views = plain(batch.to(device, non_blocking=True)).float()
            for part in _parts(views.contiguous(memory_format=memory_format)):
                out = network(part)  # (b, D)
                if not isinstance(out, Tensor) or out.shape[:-1] != part.shape[:1]:
                    found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                    raise InputError(
                        f"a probe needs one row per image, (b, D), and the network gave {found}."
                    )
                rows.append(out.float().cpu())
            labels.append(label.cpu().long())
    if not rows:
        raise InputError("a probe needs images, and there are none.")
    return torch.cat(rows), torch.cat(labels)


def _parts(views: Tensor) -> Sequence[Tensor]:
    """The views (b, C, H, W) as the device takes them at once."""
    if views.device.type != "cpu" or views.dim() < 3:
        return [views]
    return views.split(at_once(views.shape[-2], views.shape[-1]))


def at_once(height: int, width: int) -> int:
    """How many images of that size, in pixels, a CPU embeds at once: what fits its caches, 16 at least."""
    return max(16, CPU_PIXELS // max(1, height * width))


def pixels(images: Images, size: int = 32) -> tuple[Tensor, Tensor]:
    """The baseline that every network has to beat: pixels in [0, 1], (N, C * size * size), and labels."""
    rows, labels = [], []
    for batch, label in images:
        batch = batch.cpu().float()
        if batch.shape[-2:] != (size, size):
            batch = F.interpolate(batch, (size, size), mode="bilinear", antialias=True, align_corners=False)
        rows.append(batch.div(255).flatten(1))
        labels.append(label.cpu().long())
    if not rows:
        raise InputError("a probe needs images, and there are none.")
    return torch.cat(rows), torch.cat(labels)


def labelled(features: Features, probe: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The rows with a label: train (N, D), its labels (N,), test (M, D), its labels (M,).

    Raises InputError, in the name of `probe`, for a split without labelled rows, a train split of one class,
    labels outside the classes, and rows that are not finite.
    """
    kept = []
    for split, rows, labels in (
        ("train", features.train, features.train_labels),
        ("test", features.test, features.test_labels),
    ):
        known = labels >= 0
        if not known.any():
            why = "has no images" if len(labels) == 0 else "has no labels"
            raise InputError(f"{probe} needs labelled train and test images, and the {split} split {why}.")
        if not known.all():
            rows, labels = rows[known], labels[known]
        if int(labels.max()) >= features.classes:
            raise InputError(
                f"{probe} was told of {features.classes} classes, and the {split} split has the label "
                f"{int(labels.max())}."
            )
        broken = int((~rows.isfinite().all(1)).sum())
        if broken:
            raise InputError(
                f"{probe} needs finite features, and {broken} of the {len(rows)} {split} rows are not finite."
            )
        kept += [rows, labels]
    if len(kept[1].unique()) == 1:
        raise InputError(f"{probe} needs two classes or more, and the train split has one.")
    return kept[0], kept[1], kept[2], kept[3]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each submodule's own mode, which `module.train()` would not know."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _memory_format(module: nn.Module) -> torch.memory_format:
    """That of the convolutions; one of one input channel or of a 1x1 kernel is in both and says nothing."""
    for weight in module.parameters():
        if weight.dim() == 4 and not weight.is_contiguous():
            if weight.is_contiguous(memory_format=torch.channels_last):
                return torch.channels_last
    return torch.contiguous_format
