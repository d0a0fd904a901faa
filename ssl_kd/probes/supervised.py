"""Probes that train on augmented images with labels: a linear classifier by SGD, and fine-tuning."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_kd.data import Source, in_order
from ssl_kd.data.adapt import subset
from ssl_kd.data.draws import Amount, draw
from ssl_kd.data.loaders import label_tensor
from ssl_kd.errors import InputError
from ssl_kd.probes.descent import Augmented, Plain, ToViews, check_settings, descend, labelled_images
from ssl_kd.probes.features import Images, embed
from ssl_kd.streams import generator


@dataclass(frozen=True)
class Trained:
    """A classifier trained on images: what it scores after its last epoch."""

    accuracy: float  # on the test split
    held_out: float | None  # accuracy by which the rate was chosen, on a tenth of the train split
    rate: float  # at the first step
    history: tuple[float, ...]  # mean training loss of each epoch


def sgd_linear(
    network: Callable[[Tensor], Tensor],
    train: Source,
    test: Source,
    classes: int,
    *,
    recipe: ToViews,
    plain: Plain,
    epochs: int = 100,
    batch_size: int = 256,
    peak: float | Sequence[float] = (1.0, 0.3, 0.1, 0.03, 0.01),
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Trained:
    """The literature's linear evaluation: a classifier by SGD on the frozen network, on augmented images.

    network: (N, C, H, W) -> (N, D), on `device`; in eval mode, and no parameter or buffer of it changes.
    recipe: weak views for training. plain: for the held-out tenth, that of `linear`, and for the test split.
    peak: the rates to choose from. Each forward pass serves two classifiers of every rate: one learns from
        nine tenths of the images and scores the rate on the last tenth, the other learns from all of them.
        The best rate's second classifier is the one that is tested; of equally good rates the smallest wins.

    In front of the classifier the columns are standardised: networks differ in scale by orders of magnitude,
    and so one grid of rates serves all. Mean and deviation are those of the augmented images of one epoch;
    plain images would not do, where a pixel at the border is lit by a shift alone. Batch norm without affine
    (He et al. 2022) is the same with statistics that change from batch to batch.
    Sources: Chen et al. 2020 (SimCLR), appendix B; Kornblith et al. 2019.
    Equal arguments give equal bits on a CPU with as many threads. Raises InputError.
    """
    peaks = sorted([peak] if isinstance(peak, int | float) else peak)
    check_settings(epochs, batch_size, peaks)
    train = labelled_images(train, "train", classes, "the SGD probe")
    test = labelled_images(test, "test", classes, "the SGD probe")
    images = Augmented(train, recipe, batch_size, seed, device)
    first = ((views, labels) for views, labels, _ in images(1))
    mean, std = _mean_std(embed(network, first, torch.Tensor.float, device)[0])

    def standard(batches: Images, plain: Plain) -> tuple[Tensor, Tensor]:
        rows, labels = embed(network, batches, plain, device)
        return ((rows - mean) / std).float().to(device), labels  # (n, D), (n,)

    held = torch.randperm(len(train), generator=generator("held-out", seed))[-max(1, len(train) // 10) :]
    learns = torch.ones(len(train)).index_fill(0, held, 0).to(device)  # whether an image counts for choosing
    choosing, final = ([_classifier(len(mean), classes, device) for _ in peaks] for _ in range(2))

    def losses(views: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        rows, _ = standard([(views, labels)], torch.Tensor.float)
        counts = learns[index]
        counts = counts / counts.sum().clamp(min=1)
        each = [F.cross_entropy(one(rows), labels, reduction="none") @ counts for one in choosing]
        return torch.stack(each + [F.cross_entropy(one(rows), labels) for one in final])

    history = descend(images, epochs, losses, list(zip([*choosing, *final], peaks * 2, strict=True)))
    rows, labels = standard(in_order(subset(train, held), batch_size), plain)
    scores = [_correct(one(rows), labels) for one in choosing]
    best = max(range(len(peaks)), key=scores.__getitem__)  # of equal ones the first
    kept = _finite(history[:, len(peaks) + best], peaks[best])
    rows, labels = standard(in_order(test, batch_size), plain)
    return Trained(_correct(final[best](rows), labels), scores[best], peaks[best], kept)


def finetune(
    network: nn.Module,
    train: Source,
    test: Source,
    classes: int,
    *,
    recipe: ToViews,
    plain: Plain,
    labels: Amount | None = None,
    epochs: int = 60,
    batch_size: int = 256,
    peak: float = 0.03,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Trained:
    """A copy of the network with a classifier on top, all of it trained on labelled images.

    network: (N, C, H, W) -> (N, D), a backbone, or with layers of its head: see `cut.through_head`. It stays
        as it is; the copy trains in train mode, whatever was frozen before. The classifier starts at zero.
    recipe: weak views for training. plain: for the test split.
    labels: a share of the labelled train images (0.1), or a number of each class (10), those that the first
        draw of `few_labels` takes with this seed; None for all.
    Nothing is chosen, so `held_out` is None. Source: Chen et al. 2020 (SimCLRv2), section 2.
    Equal arguments give equal bits on a CPU with as many threads. Raises InputError.
    """
    check_settings(epochs, batch_size, [peak])
    train = labelled_images(train, "train", classes, "fine-tuning")
    test = labelled_images(test, "test", classes, "fine-tuning")
    if labels is not None:
        train = subset(train, draw(label_tensor(train), classes, labels, seed))
    copied = copy.deepcopy(network).to(device).requires_grad_(True)
    first = torch.from_numpy(train[0])[None], torch.zeros(1)
    width = embed(copied, [first], plain, device)[0].shape[1]
    model = nn.Sequential(copied, _classifier(width, classes, device)).train()

    def losses(views: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        return F.cross_entropy(model(views), labels)[None]

    images = Augmented(train, recipe, batch_size, seed, device)
    history = descend(images, epochs, losses, [(model, peak)])
    kept = _finite(history[:, 0], peak)
    logits, known = embed(model, in_order(test, batch_size), plain, device)
    return Trained(_correct(logits, known), None, peak, kept)


def _classifier(width: int, classes: int, device: torch.device | str) -> nn.Linear:
    """A linear layer of zeros, made without drawing from torch's stream."""
    layer = torch.nn.utils.skip_init(nn.Linear, width, classes, device=device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _mean_std(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of each column, float64 (D,); the deviation of a constant one is infinite, which makes the column 0."""
    std, mean = torch.std_mean(rows.double(), 0, correction=0)
    broken = int((~mean.isfinite()).sum())
    if broken:
        raise InputError(
            f"the SGD probe needs finite features, and {broken} of the {len(mean)} columns are not finite."
        )
    return mean, std.where(std > 1e-6 * mean.abs(), torch.inf)


def _correct(logits: Tensor, labels: Tensor) -> float:
    return int((logits.argmax(1).cpu() == labels).sum()) / len(labels)


def _finite(losses: Tensor, peak: float) -> tuple[float, ...]:
    """The losses of the epochs. Raises InputError where one is not finite: an accuracy would mean nothing."""
    if not losses.isfinite().all():
        epoch = int((~losses.isfinite()).nonzero()[0]) + 1
        raise InputError(f"the training diverged in epoch {epoch} at a peak of {peak:g}; take a lower one.")
    return tuple(losses.tolist())
