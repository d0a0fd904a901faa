"""What a run computes, apart from where and how; by it a run is known again and two are told apart."""

import hashlib
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

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
    watched = (config.get("health") or {}).get("on_hurt") != "gate"
    left_out = {*INCIDENTAL, *(["health"] if watched else [])}
    left_out |= {key for key in LATER if config.get(key) is None}
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key not in left_out])
    usual = config.data.get("bit_depth") in (None, 16)  # as before there was the option
    data = {*INCIDENTAL_DATA, *(["bit_depth"] if usual else [])}
    kept.data = OmegaConf.masked_copy(config.data, [str(key) for key in config.data if key not in data])
    return kept


def run_name(config: DictConfig) -> str:
    """A folder name that the same options always get, and others do not."""
    text = OmegaConf.to_yaml(computed(config), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"runs/{config.method}-{config.data.name}-{config.seed}-{digest}"


def differences(old: DictConfig, new: DictConfig) -> list[str]:
    """`key: old there, new here` for every option that changes what a run computes."""
    a, b = (dict(_flat(computed(config))) for config in (old, new))
    keys = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    return [f"{key}: {a.get(key, 'absent')} there, {b.get(key, 'absent')} here" for key in keys]


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, DictConfig):
        for key in node:
            yield from _flat(node[key], f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, OmegaConf.to_container(node) if isinstance(node, ListConfig) else node
