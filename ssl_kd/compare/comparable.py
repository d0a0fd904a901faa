"""What makes runs comparable: the same images, and scores made in the same way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ssl_kd.compare.runs import Entry
from ssl_kd.errors import InputError
from ssl_kd.identity import INCIDENTAL_DATA
from ssl_kd.saved import environments, probe_of

# Of the config's `probe`, what changes no score: how often, what stands beside it, how many images at once;
# and the rule for the checkpoint, which summary.json has too.
_NO_PROTOCOL = ("every", "baselines", "batch_size", "select")


def check_comparable(entries: Sequence[Entry]) -> list[str]:
    """Refuses other data and another protocol; notes the options that only one version of ssl_kd has."""
    first, odd = entries[0], []
    of_first = {settings: settings(first) for settings in (_data, _protocol)}
    for entry in entries[1:]:
        for settings, what in ((_data, "saw different data"), (_protocol, "were scored differently")):
            a, b = dict(of_first[settings]), settings(entry)
            if settings is _protocol:
                _add_common(a, b, first.summary.get("protocols", {}), entry.summary.get("protocols", {}))
            for key in (key for key in {**a, **b} if a.get(key) != b.get(key)):
                if settings is _protocol and (key not in a or key not in b):
                    odd.append(key)
                    continue
                raise InputError(
                    f"{first.folder} and {entry.folder} {what} ({key}: {a.get(key)} and {b.get(key)}) and "
                    "cannot be compared; train one of them anew with the other's options"
                )
    notes = [f"Not all runs say {key}: they come from different versions." for key in dict.fromkeys(odd)]
    return notes + _versions(entries)


def _data(entry: Entry) -> dict[str, Any]:
    """What decides which images a run saw; options that are off are as good as absent."""
    found = _flat(entry.config.data, "data")
    for key in ("hold_out", "hold_out_group"):
        found |= _flat(entry.config.get(key), key)
    incidental = [f"data.{key}" for key in INCIDENTAL_DATA]
    return {key: value for key, value in found.items() if value and key not in incidental}


def _protocol(entry: Entry) -> dict[str, Any]:
    """What decides how a run was scored."""
    probe = {
        key: value for key, value in probe_of(entry.summary, entry.config).items() if key not in _NO_PROTOCOL
    }
    return _flat(probe, "probe") | {"checkpoint": entry.summary.get("checkpoint", "last")}


def _add_common(a: dict, b: dict, first: dict[str, Any], second: dict[str, Any]) -> None:
    """How the probes were made that both runs have."""
    for probe in first.keys() & second.keys():
        a |= _flat(first[probe], probe)
        b |= _flat(second[probe], probe)


def _flat(node: Any, prefix: str) -> dict[str, Any]:
    plain = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    if not isinstance(plain, dict):
        return {prefix: plain}
    parts = [_flat(value, f"{prefix}.{key}") for key, value in plain.items()]
    return {key: value for part in parts for key, value in part.items()}


def _packages(entry: Entry) -> dict[str, str]:
    """The versions of all its starts; {} where nothing is known, which nothing else needs."""
    found: dict[str, dict[str, None]] = {}
    for start in environments(Path(entry.folder)):
        packages = start.get("packages")
        for name, version in packages.items() if isinstance(packages, dict) else ():
            found.setdefault(str(name), {})[str(version)] = None
    return {name: " then ".join(versions) for name, versions in found.items()}


def _versions(entries: Sequence[Entry]) -> list[str]:
    """A note for each of ssl_kd and torch that was not the same everywhere."""
    notes = []
    for package in ("ssl-kd", "torch"):
        homes: dict[str, list[str]] = {}
        for entry in entries:
            homes.setdefault(_packages(entry).get(package, "unknown"), []).append(entry.folder)
        if len(homes) > 1:
            each = (
                f"{version} in {folders[0]}" + (f" and {len(folders) - 1} more" if folders[1:] else "")
                for version, folders in homes.items()
            )
            notes.append(f"The runs had different versions of {package}: {', '.join(each)}.")
    return notes
