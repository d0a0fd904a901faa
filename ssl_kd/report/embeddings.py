"""What each peer makes of the images that the report shows: rows, the votes of neighbours, a map."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_kd.data import Plain, Source, in_order
from ssl_kd.data.adapt import subset
from ssl_kd.encoder import Encoder
from ssl_kd.errors import InputError
from ssl_kd.probes import Features, embed
from ssl_kd.probes.knn import votes
from ssl_kd.report.reported import Reported

BANK = 50_000  # train images that neighbours are looked for among
IMAGES = 10_000  # images that are shown and counted
NEIGHBOURS = 20  # that vote


@dataclass
class Seen:
    """The images of a report: a bank of train images, and those that are asked about.

    Splits that are larger than BANK and IMAGES give so many images, evenly spaced. Without a test split, the
    bank itself is asked about, and then is of IMAGES too: there are no scores that it could be complete for.
    """

    bank: Source
    asked: Source
    split: str  # that `asked` is from: test, held-out or train
    positions: np.ndarray  # of the asked images in their split
    whole: bool  # nothing was left out

    @property
    def tested(self) -> bool:
        """Whether what is asked about is not in the bank."""
        return self.split != "train"


class Embedded:
    """One peer's rows of the bank and of the asked images, on the CPU."""

    def __init__(
        self, bank: Tensor, asked: Tensor, bank_labels: Tensor, labels: Tensor, classes: int
    ) -> None:
        self.features = Features(bank, bank_labels, asked, labels, classes)  # (N, D), (M, D)

    @cached_property
    def unit(self) -> tuple[Tensor, Tensor]:
        """The rows of length 1: what cosines are between."""
        return F.normalize(self.features.train), F.normalize(self.features.test)

    def predicted(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Classes (m,) of the labelled asked images: what NEIGHBOURS train images vote for, and the truth."""
        parts = [
            (ballots[NEIGHBOURS].argmax(1), labels)
            for labels, ballots in votes(self.features, [NEIGHBOURS], temperature)
        ]
        return torch.cat([p for p, _ in parts]), torch.cat([labels for _, labels in parts])

    def nearest(self, queries: Sequence[int], count: int, itself: bool) -> Tensor:
        """Positions in the bank (q, count) of the nearest by cosine; itself: queries are in the bank."""
        bank, asked = self.unit
        cosine = asked[list(queries)] @ bank.T
        if itself:
            cosine[range(len(queries)), list(queries)] = -2
        order = cosine.argsort(dim=1, descending=True, stable=True)  # of equals the first, as the kNN probe
        return order[:, : min(count, len(bank) - itself)]


def choose(run: Reported) -> Seen:
    """The images that a report shows."""
    data = run.data.scored
    bank, bank_at = _spread(data.train, BANK if data.test is not None else IMAGES)
    if data.test is None:
        return Seen(bank, bank, "train", bank_at, len(bank) == len(data.train))
    asked, at = _spread(data.test, IMAGES)
    whole = len(bank) == len(data.train) and len(asked) == len(data.test)
    return Seen(bank, asked, "test" if run.config.get("hold_out") is None else "held-out", at, whole)


def embed_all(run: Reported, seen: Seen) -> dict[str, Embedded]:
    """Each encoder's rows, in float32, without augmentation, as the probes see them."""
    return {name: _embedded(run, seen, peer) for name, peer in run.encoders.items()}


def project(rows: Tensor, how: str) -> tuple[np.ndarray, str]:
    """Rows (M, D) of length 1 on a plane, float64 (M, 2), and a sentence on how. how: pca or umap.

    Raises InputError as `check` does.
    """
    check(how)
    if how == "umap":
        return _umap(rows.numpy()), "UMAP keeps neighbours together; distances between groups mean little."
    from sklearn.decomposition import PCA

    pca = PCA(2, svd_solver="full").fit(rows.double().numpy())
    share = 100 * pca.explained_variance_ratio_.sum()
    return pca.transform(rows.double().numpy()), f"The two directions hold {share:.0f} % of the variance."


def turned(points: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`points` (M, 2) centred, turned and mirrored so that they lie as near to `like` as they can."""
    from scipy.linalg import orthogonal_procrustes

    points, like = points - points.mean(0), like - like.mean(0)
    return points @ orthogonal_procrustes(points, like)[0]


def check(how: str) -> None:
    """Raises InputError for a map that cannot be made: neither pca nor umap, or umap is not installed."""
    from importlib.util import find_spec

    if how not in ("pca", "umap"):
        raise InputError(f'map is "{how}", but can be: pca, umap')
    if how == "umap" and find_spec("umap") is None:
        raise InputError("map=umap needs another package: pip install umap-learn; or leave it at map=pca")


def spaced(count: int, most: int) -> np.ndarray:
    """At most `most` positions of `count`, evenly spaced and always the same."""
    return np.arange(count) if count <= most else (np.arange(most) * count) // most


def _spread(source: Source, most: int) -> tuple[Source, np.ndarray]:
    at = spaced(len(source), most)
    return (source if len(at) == len(source) else subset(source, at)), at


def _embedded(run: Reported, seen: Seen, peer: Encoder) -> Embedded:
    plain, size = Plain(run.config.data.size), run.config.probe.batch_size
    bank, bank_labels = embed(peer.embed, in_order(seen.bank, size), plain, run.device)
    if seen.tested:
        asked, labels = embed(peer.embed, in_order(seen.asked, size), plain, run.device)
    else:
        asked, labels = bank, bank_labels
    return Embedded(bank, asked, bank_labels, labels, len(run.classes))


def _umap(rows: np.ndarray) -> np.ndarray:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fixed seed costs it its threads, which it says each time
        from umap import UMAP

        return np.asarray(UMAP(metric="cosine", random_state=0, n_jobs=1).fit_transform(rows), np.float64)
