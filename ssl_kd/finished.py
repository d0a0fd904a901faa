"""A finished run, loaded again from its folder: its networks at once, its images when they are needed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ssl_kd import __version__
from ssl_kd.build import build_cohort, check_options, read_data
from ssl_kd.cast import is_frozen
from ssl_kd.cohort import Cohort
from ssl_kd.data import Data
from ssl_kd.data.identity import ACCEPT, check_accept, difference
from ssl_kd.encoder import Encoder, encoders
from ssl_kd.errors import InputError, nearest
from ssl_kd.evaluate import Evaluator, classifiers, network
from ssl_kd.inputs import Images, batches
from ssl_kd.machine import pick_device
from ssl_kd.own.places import check_places, of_data, of_peers, own_copies
from ssl_kd.own.pretrained import without_weights
from ssl_kd.probes.features import embed
from ssl_kd.run import Run
from ssl_kd.saved import check_links, environment, read_config
from ssl_kd.system import network as net
from ssl_kd.system.documents import mapping_of
from ssl_kd.system.paths import expand
from ssl_kd.system.text import printable
from ssl_kd.trust import check_names


@dataclass
class Finished:
    """The cohort of a run's checkpoint, on a device. `step` is the checkpoint's.

    Its networks need nothing but the folder; `data`, and what is made from it, needs the images too.
    data_changed: "accept" takes images that are not those of the training; `differs` says what was found.
    online: whether these may be fetched. lost: peers that began with weights which the run does not have.
    """

    run: Run
    config: DictConfig
    cohort: Cohort
    step: int
    checkpoint: str
    device: torch.device
    data_changed: str | None = field(default=None, kw_only=True)
    online: bool = field(default=False, kw_only=True)
    lost: frozenset[str] = field(default=frozenset(), kw_only=True)
    differs: str = field(default="", init=False)

    @cached_property
    def data(self) -> Data:
        """The run's own images, read when first asked for.

        Raises InputError where they cannot be, and where they are not those that the run noted, unless
        data_changed is "accept".
        """
        check_names(self.config, self.run.folder)  # another run may have been read since
        data = _read(self.config, self.run.folder, self.online)
        self.differs = difference(mapping_of(self.run.folder / "data.json"), data, self.config)
        if self.differs and self.data_changed != "accept":
            raise InputError(
                f"the data of {self.run.folder} changed since it began: {self.differs}; {ACCEPT}"
            )
        return data

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the run's own images, before they are scaled to `config.data.size`."""
        return _shape(self.run, self.config, self.online)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Name of each label; () where the data has no labels."""
        count, noted = self.config.get("classes"), _noted(self.run).get("classes")
        if not count:
            return ()
        if isinstance(noted, list) and len(noted) == count and all(isinstance(n, str) for n in noted):
            return tuple(map(printable, noted))
        return tuple(self.data.train.classes)

    @property
    def peers(self) -> tuple[str, ...]:
        """Names of the peers that embed images; one that only keeps or decodes what others say does not."""
        return tuple(name for name, peer in self.cohort.peers.items() if isinstance(peer, Encoder))

    @property
    def encoders(self) -> dict[str, Encoder]:
        """The peers that embed images by themselves."""
        return encoders(self.cohort)

    @property
    def classifiers(self) -> dict[str, str]:
        """Peer -> the output of its classifier, of those that learned from the labels."""
        return {name: head for name, head in classifiers(self.config).items() if name in self.peers}

    @property
    def evaluator(self) -> Evaluator:
        """The run's probes. Raises InputError where the data cannot be read."""
        return Evaluator(self.config, self.data, self.device, self.lost)

    def embed(self, images: Images, peer: str | None = None, batch_size: int | None = None) -> np.ndarray:
        """The embeddings of images, float32 (N, D): for the run's own images the features of its probes.

        images: an array or a tensor (N, H, W, C), (N, C, H, W) or (N, H, W), uint8 or floats in [0, 1]; or a
            list of such images, of PIL images, of paths of image files; of any size. `ssl_kd.inputs.batches`
            says what is made of them.
        peer: whose; needed where several embed images. batch_size: images at a time; None takes that of the
            probes. Raises InputError for another peer, and for what is no image.
        """
        return self._said(images, self.one(peer), "embedding", batch_size).numpy()

    def predict(self, images: Images, peer: str | None = None, batch_size: int | None = None) -> np.ndarray:
        """The class of each image by the peer's own classifier, int64 (N,): positions in `classes`.

        The arguments are those of `embed`. Raises InputError for a peer that learned without labels.
        """
        name, heads = self.one(peer), self.classifiers
        if name not in heads:
            have = f"; these have: {', '.join(heads)}" if heads else ""
            raise InputError(f'"{name}" of {self.run.folder} learned without labels: no classifier{have}')
        return self._said(images, name, heads[name], batch_size).argmax(1).numpy()

    def one(self, peer: str | None) -> str:
        """The name of the peer that is meant; None stands for the only one. Raises InputError."""
        if not self.peers:
            raise InputError(f"{self.run.folder} has no peer that embeds images")
        if peer is None and len(self.peers) > 1:
            raise InputError(
                f"peer is needed, as peer={self.peers[0]}; {self.run.folder} has: {', '.join(self.peers)}"
            )
        name = self.peers[0] if peer is None else peer
        if name not in self.peers:
            near = nearest(str(name), list(self.peers))
            raise InputError(f'{self.run.folder} has no peer "{name}" that embeds images; {near}')
        return name

    def _said(self, images: Images, name: str, output: str, batch_size: int | None) -> Tensor:
        def labelled() -> Iterator[tuple[Tensor, Tensor]]:
            size = self.config.probe.batch_size if batch_size is None else batch_size
            depth = self.config.data.get("bit_depth")
            for part in batches(images, self.shape, self.config.data.size, size, self.device, depth):
                yield part, torch.full((len(part),), -1)

        said, _ = embed(network(self.cohort, name, output), labelled(), lambda part: part, self.device)
        return said


def load(
    run: str | Path,
    device: str = "cpu",
    checkpoint: str | None = None,
    data_changed: str | None = None,
    online: bool = False,
) -> Finished:
    """The run in the folder `run`; its images are not read before they are asked for.

    device: auto, cpu, cuda or mps. checkpoint: last or chosen; None is the one that the run itself reports.
    data_changed: "accept" takes images that changed since the run began.
    online: whether what its config names may be fetched; weights that a checkpoint has never are.
    Raises InputError: no run, no checkpoint, or a run that another version made and this one cannot read.
    """
    folder = str(expand(run))
    there, place = Run(folder), _place(device)
    config = read_config(folder)
    check_links(folder)
    config.run = str(there.folder)  # it may have been moved
    check_accept("data_changed", data_changed)
    if checkpoint not in (None, "last", "chosen"):
        raise InputError(f'checkpoint is "{checkpoint}", but can be: last, chosen')
    chosen = checkpoint == "chosen" or (checkpoint is None and config.probe.get("select", "last") != "last")
    if (there.chosen if chosen else there.checkpoint) is None:
        raise InputError(f"{folder} has no {'chosen ' if chosen else ''}checkpoint")
    whole, began = there.self_contained, there.begins_with
    frozen = {str(name) for name, peer in config.peers.items() if is_frozen(peer)}
    lost = without_weights(config, {*map(str, config.peers)} - (frozen - began)) - began
    check_names(config, folder)
    check_places(of_peers(config, whole=not whole), folder)
    try:
        check_options(config)
        with net.reading_a_run(online):
            cohort = build_cohort(config, _shape(there, config, online), sources=not whole)
        step = _weights(there, cohort, chosen)
    except (InputError, OmegaConfBaseException) as error:
        packages = environment(there.folder).get("packages")
        made = packages.get("ssl-kd") if isinstance(packages, dict) else None
        other = "" if made in (None, __version__) else f" was made by ssl-kd {made} and"
        if not other and isinstance(error, InputError):
            raise
        said = " ".join(str(error).split())
        raise InputError(f"{folder}{other} cannot be read by {__version__}: {said}") from error
    return Finished(
        there,
        config,
        cohort.to(place),
        step,
        "chosen" if chosen else "last",
        place,
        data_changed=data_changed,
        online=online,
        lost=frozenset(lost),
    )


def _place(device: str) -> torch.device:
    try:
        return torch.device(device if ":" in device else pick_device(device))  # cuda:1
    except RuntimeError as error:
        raise InputError(f'"{device}" is no device of torch') from error


def _noted(run: Run) -> dict:
    """What the run wrote of its train images; {} in a run that wrote nothing."""
    train = mapping_of(run.folder / "data.json").get("train")
    return train if isinstance(train, dict) else {}


def _read(config: DictConfig, folder: Path, online: bool) -> Data:
    """The images that a run names, where they may be read."""
    own_copies(config, folder)
    check_places(of_data(config), folder)
    with net.reading_a_run(online):
        return read_data(config)


def _shape(run: Run, config: DictConfig, online: bool) -> tuple[int, int, int]:
    noted = _noted(run).get("shape")
    if isinstance(noted, list) and len(noted) == 3 and all(type(n) is int and n > 0 for n in noted):
        return noted[0], noted[1], noted[2]
    return _read(config, run.folder, online).train.shape


def _weights(run: Run, cohort: Cohort, chosen: bool) -> int:
    """Loads the checkpoint; returns its step."""
    try:
        return run.load(cohort, chosen=chosen)
    except InputError:
        raise
    except (RuntimeError, ValueError, KeyError) as error:  # torch's, of tensors of other shapes
        said = " ".join(str(error).split())
        raise InputError(f"the checkpoint of {run.folder} does not fit its config.yaml: {said}") from error
