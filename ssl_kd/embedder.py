"""The embeddings of a finished run as a transformer of scikit-learn."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.metaestimators import available_if

from ssl_kd.errors import InputError
from ssl_kd.finished import Finished, load
from ssl_kd.inputs import Images


def _classifies(embedder: "Embedder") -> bool:
    try:
        finished, name = embedder._open()
    except InputError:
        return False
    return name in finished.classifiers


class Embedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Images -> embeddings, by a peer of a finished run; nothing is learned from what `fit` gets.

    `make_pipeline(Embedder("runs/a"), LogisticRegression()).fit(images, labels)`

    run: the run folder. peer: needed where several embed images. checkpoint: last or chosen; None is the one
    that the run reports. device: auto, cpu, cuda or mps. batch_size: images at a time; None takes that of the
    run's probes. A copy or a pickle holds these words, not the network, and loads it again.
    After `fit`: `peer_`, the peer's name; `classes_`, the names of the run's classes.
    """

    def __init__(
        self,
        run: str | Path | None = None,
        peer: str | None = None,
        *,
        checkpoint: str | None = None,
        device: str = "cpu",
        batch_size: int | None = None,
    ) -> None:
        self.run = run
        self.peer = peer
        self.checkpoint = checkpoint
        self.device = device
        self.batch_size = batch_size

    def fit(self, X: Images | None = None, y: Any = None) -> "Embedder":
        """Loads the network; X and y are not looked at. Raises InputError where it cannot be loaded."""
        self.__dict__.pop("_loaded", None)
        finished, self.peer_ = self._open()
        self.classes_ = np.array(finished.classes, dtype=object)
        self._n_features_out = finished.embed(torch.zeros(1, *finished.shape), self.peer_).shape[1]
        return self

    def transform(self, X: Images) -> np.ndarray:
        """Float32 (N, D) of N images, which may be all that `ssl_kd.inputs.batches` takes; needs no `fit`."""
        finished, name = self._open()
        return finished.embed(X, name, self.batch_size)

    @available_if(_classifies)
    def predict(self, X: Images) -> np.ndarray:
        """The class of each image by the peer's own classifier, int64 (N,): positions in `classes_`."""
        finished, name = self._open()
        return finished.predict(X, name, self.batch_size)

    def _open(self) -> tuple[Finished, str]:
        """The run of these words, loaded once, and the peer's name."""
        words = (str(self.run), self.device, self.checkpoint)
        kept = self.__dict__.get("_loaded")
        if kept is None or kept[0] != words:
            if self.run is None:
                raise InputError("an Embedder needs the folder of a finished run: Embedder(run=...)")
            kept = self._loaded = (words, load(*words))
        return kept[1], kept[1].one(self.peer)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_loaded"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # but images
        tags.input_tags.three_d_array = True
        tags.requires_fit = False
        tags.no_validation = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
