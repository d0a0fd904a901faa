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
    labelled train split; a k larger than the bank means the whole bank. Equal votes go to the lowest class.
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
    faiss = _faiss()
    bank = faiss.IndexFlatIP(train.shape[1])
    bank.add(F.normalize(train.float()).numpy())
    queries = F.normalize(test.float())
    for start in range(0, len(queries), QUERIES):
        found, index = bank.search(queries[start : start + QUERIES].numpy(), min(max(k), len(train)))
        cosine = torch.from_numpy(found).double()  # (q, k), descending
        weight = ((cosine - cosine[:, :1]) / temperature).exp()  # relative to the nearest: no overflow
        voters = train_labels[torch.from_numpy(index)]  # (q, k)
        ballots = {}
        for count in k:
            ballot = weight.new_zeros(len(weight), features.classes)
            ballots[count] = ballot.scatter_add_(1, voters[:, :count], weight[:, :count])
        yield test_labels[start : start + QUERIES], ballots


def _faiss():
    import faiss

    # faiss has a thread pool of its own, which would take all cores whatever was set for torch.
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss
