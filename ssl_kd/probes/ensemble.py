"""What the peers of a cohort know together: their answers averaged, each by the probe of its peer."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssl_kd.errors import InputError
from ssl_kd.probes.features import Features
from ssl_kd.probes.knn import votes
from ssl_kd.probes.linear import Linear


def ensemble(probes: Sequence[Linear], rows: Sequence[Tensor], labels: Tensor) -> float:
    """The accuracy of the mean of the peers' softmax probabilities, over the rows that have a label.

    probes: of each peer. rows: (M, D_i) of each peer, of the same images in the same order.
    labels: int64 (M,), -1 for none. Equal means go to the lowest class.
    Raises InputError for no peers, peers that differ in the number of classes or images, and no labels.
    """
    if not probes or len(probes) != len(rows):
        raise InputError(f"an ensemble needs rows for each probe, and got {len(probes)} and {len(rows)}.")
    _equal("classes", [len(probe.bias) for probe in probes])
    _equal("images", [*map(len, rows), len(labels)])
    known = labels >= 0
    if not known.any():
        raise InputError("an ensemble needs labelled test images, and these have no labels.")
    total = torch.zeros((), dtype=torch.float64)
    for probe, part in zip(probes, rows, strict=True):
        total = total + probe.logits(part[known]).double().softmax(1)  # (M, K)
    return float((total.argmax(1) == labels[known]).double().mean())


def ensemble_knn(
    features: Sequence[Features], k: Sequence[int] = (1, 10, 20, 200), temperature: float = 0.07
) -> dict[int, float]:
    """`knn` of all peers together, for each k: the class wins that has most of the mean of their votes.

    features: of each peer, of the same images in the same order. The votes of one peer sum to 1 for each
    image, so that a peer whose cosines are large counts no more than another.
    Raises what `knn` raises, and InputError for no peers and for peers that saw different images.
    """
    if not features:
        raise InputError("an ensemble needs the features of at least one peer, and got none.")
    _equal("classes", [peer.classes for peer in features])
    for split in ("train_labels", "test_labels"):
        if not all(torch.equal(getattr(features[0], split), getattr(peer, split)) for peer in features):
            raise InputError(
                f"an ensemble needs the same images for each peer, in one order, and their {split} differ."
            )
    correct, images = dict.fromkeys(k, 0), 0
    for parts in zip(*(votes(peer, k, temperature) for peer in features), strict=True):
        labels = parts[0][0]
        images += len(labels)
        for count in correct:
            shares = [ballots[count] / ballots[count].sum(1, keepdim=True) for _, ballots in parts]
            correct[count] += int((torch.stack(shares).mean(0).argmax(1) == labels).sum())
    return {count: hits / images for count, hits in correct.items()}


def _equal(what: str, found: Sequence[int]) -> None:
    if len(set(found)) > 1:
        raise InputError(f"an ensemble needs as many {what} for each peer, and got {list(found)}.")
