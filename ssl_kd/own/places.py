"""Files and folders that the config of a run has read: nothing outside the run that the user has not named.

A run folder may be anybody's, and what is read ends in scores and pages: classes are called after folders,
and images are shown. So a place counts as the user's where they have trained on it or on what lies around it
(which `train` notes), where `ssl-kd trust RUN` has shown it, below SSL_KD_TRUST or $SSL_KD_DATA, or inside
the run.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from ssl_kd.architecture import is_hugging_face, place_of
from ssl_kd.errors import InputError
from ssl_kd.own import record
from ssl_kd.own.nodes import within
from ssl_kd.system.paths import expand
from ssl_kd.system.text import typed

_OF_DATA = ("root", "path", "test", "train_list", "test_list")
# Data that are the same wherever they lie: of a place that is not the user's, their own copy is taken.
_STANDARD = ("cifar10", "cifar100", "fashion_mnist")


class Place(NamedTuple):
    """key: the option that says it. path: absolute, and not looked at: that alone may mount things."""

    key: str
    path: str


def of_data(config: DictConfig) -> Iterator[Place]:
    """What reading the images and labels of a config would read; but for code of the user's own."""
    for key, node in _nodes(config):
        if not within(str(node.get("_target_")), ("ssl_kd",)):
            continue
        for option in _OF_DATA:
            said = node.get(option)
            if isinstance(said, str) and not (node.get("name") == "hub" and _of_hub(said)):
                around = str(node.get("root") or node.get("path") or "")
                yield from (Place(f"{key}.{option}", path) for path in _meant(said, option, around))
    for key in ("labels", "hold_out_group"):
        node = config.get(key)
        if isinstance(node, DictConfig) and isinstance(node.get("file"), str):
            yield Place(f"{key}.file", _absolute(node.file))


def of_peers(config: DictConfig, whole: bool) -> Iterator[Place]:
    """What building the networks would read; whole: also what their weights are taken from."""
    for name, peer in (config.get("peers") or {}).items():
        weights, backbone = peer.get("weights"), peer.get("backbone")
        weights = weights.get("run") if isinstance(weights, DictConfig) else weights
        if whole and isinstance(weights, str):
            yield Place(f"peers.{name}.weights", _absolute(weights))
        called = backbone.get("name") if isinstance(backbone, DictConfig) else None
        if is_hugging_face(called) and "model_type" not in (backbone.get("config") or {}):
            place = place_of(str(called))
            if not _of_hub(place):
                yield Place(f"peers.{name}.backbone.name", _absolute(place))


def check_places(places: Iterable[Place], folder: str | Path, user: Collection[str] = ()) -> None:
    """Refuses what the config of the run in `folder` names and the user did not. Raises InputError.

    user: places that their own words say.
    """
    known = None
    for place in places:
        if _inside(place.path, folder) or place.path in user:
            continue
        known = record.paths() if known is None else known
        if not _below(place.path, (*known, *_by_variables())):
            raise InputError(
                f"{folder} names {place.path} ({place.key}), which is not on record as yours; if it may be "
                f"read, ssl-kd trust {typed(folder)} lets it"
            )


def own_copies(config: DictConfig, folder: str | Path, user: Collection[str] = ()) -> None:
    """Has data that are the same anywhere looked for where the user's lie, not where the run chooses.

    Where they may be fetched, that is where they go.
    """
    for key, node in _nodes(config):
        if str(node.get("_target_")).split(".")[-1] in _STANDARD and isinstance(node.get("root"), str):
            try:
                check_places([Place(f"{key}.root", _absolute(node.root))], folder, user)
            except InputError:
                node.root = None


def unknown(places: Iterable[Place]) -> list[Place]:
    """Those that are not on record."""
    known = record.paths()
    return [place for place in places if not _below(place.path, known)]


def _nodes(config: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """The nodes that say what images there are."""
    found = (("data", config.get("data")), ("probe.data", (config.get("probe") or {}).get("data")))
    yield from ((key, node) for key, node in found if isinstance(node, DictConfig))


def _of_hub(said: str) -> bool:
    """Whether it is a name on the Hub, and no folder from here."""
    return not os.path.isabs(said) and not said.startswith(("~", ".")) and not os.path.exists(said)


def _meant(said: str, option: str, around: str) -> list[str]:
    """A path, and of test images in a folder also that folder below the one of the training images."""
    path = _absolute(said)
    if option != "test" or not around or os.path.isabs(said) or said.startswith("~"):
        return [path]
    near = [_absolute(os.path.join(expand(base), said)) for base in (around, os.path.dirname(around))]
    return near + [path] * os.path.exists(path)


def _absolute(said: str) -> str:
    return os.path.abspath(expand(said))


def _below(path: str, places: Collection[str]) -> bool:
    return any(path == place or path.startswith(place.rstrip(os.sep) + os.sep) for place in places)


def _inside(path: str, folder: str | Path) -> bool:
    """Whether it came with the run, from which no link leads out (`saved.check_links`) but of checkpoints."""
    run = _absolute(str(folder))
    return _below(path, [run]) and not _below(path, [os.path.join(run, "checkpoints")])


def _by_variables() -> list[Any]:
    """What the user's environment names."""
    trusted = os.environ.get("SSL_KD_TRUST", "").replace(os.pathsep, ",").split(",")
    own = os.environ.get("SSL_KD_DATA") or "~/.cache/ssl_kd/data"
    return [_absolute(said.strip()) for said in (*trusted, own) if said.strip()]
