"""`probe.data`: a small labelled data set that is scored in place of what is trained on. No torch here.

It is a file, a folder, or the name of data; or a mapping, {name: folder, root: photos, ...}, with the options
of that data. In a run's config it stands whole.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.errors import InputError, nearest
from ssl_kd.groups import choices, chosen_file
from ssl_kd.system.documents import config_of
from ssl_kd.system.paths import expand

# Of training alone: a probe takes the images as the run's networks normalise them.
_TRAINING = ("mean", "std", "suits")


def settle(config: DictConfig) -> None:
    """Writes the whole node in place of what `probe.data` says. Raises InputError."""
    given = config.probe.get("data")
    if given is None:
        return
    plain = OmegaConf.to_container(given) if OmegaConf.is_config(given) else given
    options = _said(plain)
    name = options.pop("name")
    known = choices("data")
    if name not in known:
        raise InputError(f'probe.data: there is no data "{name}"; {nearest(str(name), known)}')
    file = chosen_file("data", str(name))
    node = config_of(file) if file else OmegaConf.create({})
    if not isinstance(node, DictConfig):
        raise InputError(f"probe.data: {file} is a list, not the options of data")
    own = [str(key) for key in node if key not in (*_TRAINING, "_target_")]  # `in` misses what is needed: ???
    odd = [key for key in options if key not in own]
    if odd:
        raise InputError(f'"probe.data.{odd[0]}" is not an option of {name}; {nearest(str(odd[0]), own)}')
    kept = OmegaConf.masked_copy(node, ["_target_", *own])
    kept.size = config.data.size
    for key, value in options.items():
        kept[key] = value
    missing = sorted(OmegaConf.missing_keys(kept))
    if missing:
        raise InputError(
            f"probe.data.{missing[0]} is needed, as in probe.data={{name: {name}, {missing[0]}: ...}}"
        )
    for key in ("path", "root"):  # a run is evaluated from any folder
        if isinstance(kept.get(key), str) and (name != "hub" or expand(kept[key]).exists()):
            kept[key] = str(expand(kept[key]).absolute())
    config.probe.data = kept


def called(config: DictConfig) -> str:
    """What people call the labelled data of a run; "" where there is none."""
    node = config.probe.get("data")
    if not isinstance(node, DictConfig):
        return ""
    place = node.get("root") or node.get("path")
    return str(node.get("name")) if place is None else Path(str(place)).name


def _said(plain: Any) -> dict[str, Any]:
    if isinstance(plain, Mapping):
        if not isinstance(plain.get("name"), str):
            raise InputError("probe.data as a mapping names its data, as in {name: folder, root: photos}")
        return {str(key): value for key, value in plain.items()}
    if not isinstance(plain, str) or not plain.strip():
        raise InputError(f"probe.data is a folder, an .npz file, or a name of data, not {plain}")
    if plain in choices("data"):
        return {"name": plain}
    path = expand(plain)
    if path.is_dir():
        return {"name": "folder", "root": plain}
    if path.is_file():
        return {"name": "arrays", "path": plain}
    near = nearest(plain, choices("data"))
    raise InputError(f'probe.data: "{plain}" is neither a folder, nor an .npz file, nor data; {near}')


def scored_on(config: DictConfig) -> str:
    """Which images the scores are of."""
    held, other = config.get("hold_out"), called(config)
    whole = " in whole groups" if config.get("hold_out_group") is not None else ""
    split = f"a held-out {held} of the train split{whole}" if held is not None else "the test split"
    return f"{split} of {other}" if other else split
