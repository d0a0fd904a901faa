"""What a run computes, apart from where and how; by it a run is known again and two are told apart."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

# Keys that may differ when a run is continued: where and how it runs, not what it computes.
INCIDENTAL = (
    "run",
    "device",
    "threads",
    "processes",
    "log_every",
    "save_every",
    "keep",
    "dry_run",
    "probe",
    "tracker",
    "tracker_options",
    "data_changed",
)
LATER = ("hold_out_group",)  # newer options: where they are not said, a run keeps the name that it had
INCIDENTAL_DATA = ("workers", "resident_bytes", "hash_bytes", "overlap")


def computed(config: DictConfig) -> DictConfig:
    """The options that change what a run computes, without those of where and how it runs."""
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return OmegaConf.create(_kept(plain))


def _kept(options: dict[Any, Any]) -> dict[Any, Any]:
    watched = (options.get("health") or {}).get("on_hurt") != "gate"
    left_out = {*INCIDENTAL, *(["health"] if watched else [])}
    left_out |= {key for key in LATER if options.get(key) is None}
    usual = options["data"].get("bit_depth") in (None, 16)  # as before there was the option
    of_data = {*INCIDENTAL_DATA, *(["bit_depth"] if usual else [])}
    kept = {key: value for key, value in options.items() if key not in left_out}
    return {**kept, "data": {key: value for key, value in options["data"].items() if key not in of_data}}


def run_name(config: DictConfig) -> str:
    """A folder name that the same options always get, and others do not."""
    text = OmegaConf.to_yaml(computed(config), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"runs/{config.method}-{config.data.name}-{config.seed}-{digest}"


def differences(old: DictConfig, new: DictConfig) -> list[str]:
    """`key: old there, new here` for every option that changes what a run computes."""
    a, b = (flat(OmegaConf.to_container(config, resolve=True)) for config in (old, new))
    return told(a, b)


def flat(options: Any) -> dict[str, Any]:
    """The options that change what a run computes by their full names, of a config as plain mappings."""
    return dict(_leaves(_kept(options)))


def told(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """`differences`, of what `flat` made."""
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    return [f"{key}: {a.get(key, 'absent')} there, {b.get(key, 'absent')} here" for key in keys]


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node
