"""What metrics.jsonl says, read once into arrays: a long run has hundreds of thousands of lines."""

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NESTED = ("terms", "weighted", "health")  # names with their numbers
SINGLE = ("rate", "images_per_second")

Curves = dict[str, np.ndarray]  # name -> (points, 2), each an epoch and a value


@dataclass
class Log:
    """count: of lines. probes: epoch and "peers" of the lines that have them. alarms: in their order."""

    count: int = 0
    probes: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    _points: dict[str, dict[str, array]] = field(default_factory=dict)

    def curves(self, key: str) -> Curves:
        """The numbers that lines have under one of NESTED or SINGLE; finite ones."""
        own = self._points.get(key, {})
        return {name: np.frombuffer(points).reshape(-1, 2) for name, points in own.items()}

    def _add(self, key: str, name: str, epoch: float, value: Any) -> None:
        number = _finite(value)
        if number is not None:
            self._points.setdefault(key, {}).setdefault(name, array("d")).extend((epoch, number))


def read(lines: Iterable[Mapping[str, Any]]) -> Log:
    """What a report needs of the lines of a metrics.jsonl."""
    log = Log()
    for line in lines:
        log.count += 1
        epoch = _finite(line["epoch"])
        if epoch is None:
            continue
        for key in NESTED:
            node = line.get(key)
            for name, value in node.items() if isinstance(node, dict) else ():
                log._add(key, name, epoch, value)
        for key in SINGLE:
            if line.get(key):
                log._add(key, key.replace("_", " "), epoch, line[key])
        if isinstance(line.get("peers"), dict):
            log.probes.append((epoch, line["peers"]))
        log.alarms += map(str, line.get("alarms") or ())
    return log


def _finite(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:  # JSON knows whole numbers of any length
        return None
    return number if math.isfinite(number) else None
