"""Weighted k-nearest-neighbour accuracy: what a representation knows before anything is trained on it."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_kd.errors import InputError
from ssl_kd.probes.features import Features, labelled

QUERIES = 2048  # at once


def knn(
    features: Features, k: Sequence[int] = (1, 10, 20, 200), temperature: float = 0.07
) -> dict[int, float]:
    """The fraction of test rows whose class wins the vote of their k nearest train rows, for each k.

    Rows are L2-normalised, a neighbour of cosine s votes with exp(s / temperature), the bank is the whole
    labelled train split; a k larger than the bank means the whole bank. Equal votes go to the lowest class,
    and of bank rows that are the same the one that comes first is the nearer.
    Raises InputError for unlabelled, one-class or non-finite features, for k < 1 and for a temperature <= 0.
    Source: Wu et al. 2018 (instance discrimination), section 3.4; DINO's eval_knn.py has the same defaults.
    """
    correct, images = dict.fromkeys(k, 0), 0
    for labels, ballots in votes(features, k, temperature):
        images += len(labels)
        for count, ballot in ballots.items():
            correct[count] += int((ballot.argmax(1) == labels).sum())
    return {count: hits / images for count, hits in correct.items()}


def votes(
    features: Features, k: Sequence[int], temperature: float
) -> Iterator[tuple[Tensor, dict[int, Tensor]]]:
    """The vote of `knn` on a few labelled test rows after the other: their labels (q,), int64, and for each k
    what every class got, (q, K) float64, where the nearest neighbour has a vote of 1. Raises as `knn` does.
    """
    if not k or min(k) < 1 or not temperature > 0:
        raise InputError(f"knn needs k >= 1 and a temperature > 0, and was given {list(k)}, {temperature}.")
    train, train_labels, test, test_labels = labelled(features, "knn")
    nearest = _Bank(F.normalize(train.float()))
    queries = F.normalize(test.float())
    for start in range(0, len(queries), QUERIES):
        found, index = nearest(queries[start : start + QUERIES], min(max(k), len(train)))
        cosine = found.double()  # (q, k), descending
        weight = ((cosine - cosine[:, :1]) / temperature).exp()  # relative to the nearest: no overflow
        voters = train_labels[index]  # (q, k)
        ballots = {}
        for count in k:
            ballot = weight.new_zeros(len(weight), features.classes)
            ballots[count] = ballot.scatter_add_(1, voters[:, :count], weight[:, :count])
        yield test_labels[start : start + QUERIES], ballots


class _Bank:
    """Nearest rows by scalar product, in an order that depends on no library.

    Of rows that are the same faiss gives any, and even the last digits of their products depend on the size
    of the bank. So it is asked for different rows alone; the same ones follow each other by their positions.
    """

    def __init__(self, rows: Tensor) -> None:  # (N, D), float32
        places: dict[bytes, list[int]] = {}
        for place, row in enumerate((rows + 0.0).numpy()):  # + 0.0: -0.0 is 0.0
            places.setdefault(row.tobytes(), []).append(place)
        different = list(places.values())  # by their first positions
        self.places = torch.tensor([place for alike in different for place in alike])  # (N,)
        self.sizes = torch.tensor([len(alike) for alike in different])  # (U,)
        self.starts = self.sizes.cumsum(0) - self.sizes
        self.index = _faiss().IndexFlatIP(rows.shape[1])
        self.index.add(rows[self.places[self.starts]].numpy())

    def __call__(self, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Products, descending, and positions of the `count` <= N nearest rows, both (q, count)."""
        products, found = map(
            torch.from_numpy, self.index.search(queries.numpy(), min(count, len(self.sizes)))
        )
        found, order = found.sort(1)
        products, order = products.gather(1, order).sort(dim=1, descending=True, stable=True)
        found = found.gather(1, order)
        if len(self.places) == len(self.sizes):
            return products, found
        ends = self.sizes[found].cumsum(1)  # of each group of equals, among the nearest
        at = torch.arange(count).expand(len(queries), -1).contiguous()
        group = torch.searchsorted(ends, at, right=True)  # (q, count)
        chosen = found.gather(1, group)
        before = ends.gather(1, group) - self.sizes[chosen]
        return products.gather(1, group), self.places[self.starts[chosen] + at - before]


def _faiss():
    import faiss

    # faiss has a thread pool of its own, which would take all cores whatever was set for torch.
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss
