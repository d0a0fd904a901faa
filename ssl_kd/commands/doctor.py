"""`ssl-kd doctor`: what is wrong here, line by line, and with the options of a training whether that fits."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ssl_kd.commands import checks
from ssl_kd.commands.installed import Check, packages
from ssl_kd.config import compose
from ssl_kd.console import console
from ssl_kd.errors import InputError
from ssl_kd.identity import run_name
from ssl_kd.own.pretrained import without_weights
from ssl_kd.system import network
from ssl_kd.system.room import available_memory

# Data that would be downloaded: (C, H, W), training images, test images, classes.
DOWNLOADED: dict[str, tuple[tuple[int, int, int], int, int, int]] = {
    "cifar10": ((3, 32, 32), 50_000, 10_000, 10),
    "cifar100": ((3, 32, 32), 50_000, 10_000, 100),
    "fashion_mnist": ((1, 28, 28), 60_000, 10_000, 10),
}


def main(words: Sequence[str]) -> int:
    """`ssl-kd doctor [options of train]`: 0 without a problem, 1 with one; InputError for wrong options."""
    out, problems = console(), 0
    with network.reading_a_run():
        config = compose(words)
        without_weights(config)  # they need no memory that drawn ones do not
        for check in _all(config, bool(words)):
            problems += check.state == "problem"
            out.print(f"{check.state:<8} {check.what}", soft_wrap=True)
    if not words:
        out.print("with the options of a training, as method=dogo data=cifar10, its memory is estimated too")
    return 1 if problems else 0


def _all(config: DictConfig, training: bool) -> Iterator[Check]:
    yield from packages()
    yield from checks.threads(config)
    yield from checks.accelerator(config.device)
    device = _device(config)
    yield from checks.precision(config, device)
    yield from checks.compiler(config)
    yield from checks.neighbours()
    yield from checks.launch()
    yield from _trackers(config)
    if training:
        yield from _training(config, device)
    else:
        yield from checks.disk(Path("runs"))
        yield from _memory()


def _device(config: DictConfig) -> str:
    from ssl_kd.machine import pick_device

    try:
        return pick_device(config.device)
    except InputError:  # said already
        return "cpu"


def _memory() -> Iterator[Check]:
    free = available_memory()
    if free is not None:
        state: Any = "note" if free < checks.LITTLE else "ok"
        yield Check(state, f"{free / 2**30:.1f} GiB of memory available")


def _trackers(config: DictConfig) -> Iterator[Check]:
    from ssl_kd.trackers import chosen

    try:
        names = chosen(config)
    except InputError as error:
        yield Check("problem", str(error))
    else:
        yield Check("ok", f"curves are drawn by {', '.join(names) or 'none'}; metrics.jsonl has them anyway")


def _training(config: DictConfig, device: str) -> Iterator[Check]:
    """The data, the memory and the disk that a training takes."""
    from ssl_kd.commands.footprint import Footprint, footprint, resident

    images = None
    try:
        data, asked = _read(config)
    except InputError as error:
        yield Check("problem", str(error))
        return
    if data is None:
        known = DOWNLOADED.get(config.data.name)
        yield Check("note", f"the data {config.data.name} is not here yet: train downloads it ({asked})")
        shape, train, test, classes = known or ((3, config.data.size, config.data.size), 0, 0, 2)
        train = min(train, config.data.get("limit") or train)
        config.classes = config.classes or classes
        config.steps = config.steps or config.epochs * max(1, train // config.batch_size)
    else:
        shape, train = data.train.shape, len(data.train)
        test = len(data.test) if data.test is not None else 0
        images = resident(data)
        parts = [f"{train:,} training images of {' x '.join(map(str, shape))}"]
        parts += [f"{test:,} to test on"] if test else []
        parts += [f"{len(data.train.classes)} classes"] if data.train.classes else ["no labels"]
        yield Check("ok", f"data {config.data.name}: {', '.join(parts)}")
        if train < config.batch_size:
            yield Check("problem", f"a batch of {config.batch_size} is larger than that: lower batch_size=")
            return
    try:
        found: Footprint = footprint(config, device, shape, train, test, images)
    except InputError as error:
        yield Check("problem", str(error))
        return
    for line in found.lines():
        console().print(f"         {line}", soft_wrap=True)
    yield found.verdict(available_memory())
    folder = Path(config.run or run_name(config))
    once = found.need.weights + found.need.optimizer
    yield from checks.disk(folder, once * (config.keep + 1))


def _read(config: DictConfig) -> tuple[Any, str]:
    """The images, or None and what was wanted from the network, which is not asked."""
    from ssl_kd.build import read_data

    try:
        return read_data(config), ""
    except network.Offline as error:
        return None, error.address
