"""A finished run, loaded again from its folder alone."""

from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ssl_kd import __version__
from ssl_kd.build import build_cohort, check_options, read_data
from ssl_kd.cohort import Cohort
from ssl_kd.data import Data
from ssl_kd.encoder import Encoder, encoders
from ssl_kd.errors import InputError
from ssl_kd.evaluate import Evaluator
from ssl_kd.run import Run
from ssl_kd.saved import check_links, read_config, read_json
from ssl_kd.trust import check_names


@dataclass
class Finished:
    """The cohort of a run's checkpoint, on a device, with its data. `step` is the checkpoint's."""

    run: Run
    config: DictConfig
    data: Data
    cohort: Cohort
    step: int
    checkpoint: str
    device: torch.device

    @property
    def encoders(self) -> dict[str, Encoder]:
        """The peers that embed images."""
        return encoders(self.cohort)

    @property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.config, self.data, self.device)


def load(folder: str, device: str = "cpu", checkpoint: str | None = None) -> Finished:
    """The run in `folder`.

    checkpoint: last or chosen; None is the one that the run itself reports.
    Raises InputError: no run, no checkpoint, or a run that another version made and this one cannot read.
    """
    run = Run(folder)
    config = read_config(folder)
    check_links(folder)
    config.run = str(run.folder)  # it may have been moved
    if checkpoint not in (None, "last", "chosen"):
        raise InputError(f'checkpoint is "{checkpoint}", but can be: last, chosen')
    chosen = checkpoint == "chosen" or (checkpoint is None and config.probe.get("select", "last") != "last")
    if (run.chosen if chosen else run.checkpoint) is None:
        raise InputError(f"{folder} has no {'chosen ' if chosen else ''}checkpoint")
    check_names(config, folder)
    try:
        check_options(config)
        data = read_data(config)
        cohort = build_cohort(config, data.train.shape, sources=not run.self_contained)
        step = _weights(run, cohort, chosen)
    except (InputError, OmegaConfBaseException) as error:
        packages = read_json(run.folder / "environment.json").get("packages")
        made = packages.get("ssl-kd") if isinstance(packages, dict) else None
        other = "" if made in (None, __version__) else f" was made by ssl-kd {made} and"
        if not other and isinstance(error, InputError):
            raise
        said = " ".join(str(error).split())
        raise InputError(f"{folder}{other} cannot be read by {__version__}: {said}") from error
    place = torch.device(device)
    return Finished(run, config, data, cohort.to(place), step, "chosen" if chosen else "last", place)


def _weights(run: Run, cohort: Cohort, chosen: bool) -> int:
    """Loads the checkpoint; returns its step."""
    try:
        return run.load(cohort, chosen=chosen)
    except InputError:
        raise
    except (RuntimeError, ValueError, KeyError) as error:  # torch's, of tensors of other shapes
        said = " ".join(str(error).split())
        raise InputError(f"the checkpoint of {run.folder} does not fit its config.yaml: {said}") from error
