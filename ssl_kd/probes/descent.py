"""How a probe trains on augmented images with labels: the images, and one loop of SGD.

Nesterov's momentum 0.9, a cosine rate without warm-up, no weight decay, as Chen et al. 2020 (SimCLR, appendix
B) and, but for the decay, Kornblith et al. 2019 train.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from ssl_kd.data import Batches, Source
from ssl_kd.data.adapt import subset
from ssl_kd.data.loaders import label_tensor
from ssl_kd.errors import InputError
from ssl_kd.schedules import Cosine
from ssl_kd.streams import seed_of

ToViews = Callable[[dict[str, Any], int], dict[str, Any]]  # a raw batch and a step -> "views" and the rest
Plain = Callable[[Tensor], Tensor]  # uint8 (B, C, H, W) -> images without augmentation
Losses = Callable[[Tensor, Tensor, Tensor], Tensor]


class Augmented:
    """Labelled images as a probe trains on them: shuffled, in batches, as the views of a recipe.

    A batch larger than the images is all of them; what does not fill a batch waits for another epoch.
    """

    def __init__(
        self, images: Source, recipe: ToViews, batch_size: int, seed: int, device: torch.device | str
    ) -> None:
        self.batches = Batches(images, min(batch_size, len(images)), seed=seed, device=device)
        self.recipe, self.seed, self.device = recipe, seed, torch.device(device)

    def __call__(self, epochs: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each step from the first: views (n, C, H, W), their labels and positions in the images, (n,).

        n is the batch size times the views of an image. Raises InputError for a recipe without "views".
        """
        for step, raw in enumerate(islice(self.batches(0), epochs * self.batches.steps_per_epoch)):
            seen = self.recipe(raw, step)
            if "views" not in seen:
                raise InputError(f'a probe trains on "views", and its recipe makes: {", ".join(seen)}.')
            views = seen["views"]  # (V, B, C, H, W)
            yield views.flatten(0, 1), raw["label"].repeat(len(views)), raw["index"].repeat(len(views))


def descend(
    images: Augmented, epochs: int, losses: Losses, groups: Sequence[tuple[nn.Module, float]]
) -> Tensor:
    """Trains the modules of `groups`, each with the rate beside it as the peak of its cosine.

    losses: views, labels and positions, as `images` has them -> (G,), one loss for each group, which depends
        on the parameters of no other.
    Returns the mean losses of each epoch, float64 (epochs, G) on the CPU. Whatever the modules draw from
    torch's own stream (dropout) belongs to the seed, and the caller's stream stays where it was.
    """
    length = images.batches.steps_per_epoch
    rates = [Cosine(peak, epochs * length) for _, peak in groups]
    optimizer = SGD(
        [{"params": list(module.parameters())} for module, _ in groups], lr=0.0, momentum=0.9, nesterov=True
    )
    total = torch.zeros(epochs, len(groups), dtype=torch.float64, device=images.device)
    with _stream_of(images.seed, images.device), torch.enable_grad():
        for step, batch in enumerate(images(epochs)):
            loss = losses(*batch)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate(step)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            total[step // length] += loss.detach()
    return total.cpu() / length


def check_settings(epochs: int, batch_size: int, peaks: Sequence[float]) -> None:
    """InputError for what no training can do."""
    if epochs < 1 or batch_size < 1 or not peaks or not min(peaks) > 0:
        raise InputError(
            "training a probe needs epochs and a batch_size from 1 on and a peak above 0, not "
            f"epochs={epochs}, batch_size={batch_size}, peak={', '.join(map(str, peaks))}."
        )


def labelled_images(source: Source | None, split: str, classes: int, probe: str) -> Source:
    """The images of a split that have a label. InputError where there are none or, to train, one class."""
    labels = torch.empty(0) if source is None else label_tensor(source)
    known = (labels >= 0).nonzero()[:, 0]
    if source is None or not len(known):
        why = "has no labels" if len(labels) else "has no images"
        raise InputError(f"{probe} needs labelled train and test images, and the {split} split {why}.")
    if int(labels.max()) >= classes:
        raise InputError(
            f"{probe} was told of {classes} classes, and the {split} split has the label {int(labels.max())}."
        )
    if split == "train" and len(labels[known].unique()) == 1:
        raise InputError(f"{probe} needs two classes or more, and the train split has one.")
    return source if len(known) == len(source) else subset(source, known)


@contextmanager
def _stream_of(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch draws from a stream of `seed`; afterwards from where it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed_of(seed, "probe"))
        yield
