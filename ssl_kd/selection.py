"""Which checkpoint of a run is reported, and what is said of it. No rule here looks at the test split."""

import shlex
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssl_kd.cohort import Cohort
from ssl_kd.cost import macs, training_macs
from ssl_kd.data import Data
from ssl_kd.encoder import Encoder, encoders
from ssl_kd.engine import Result
from ssl_kd.errors import InputError
from ssl_kd.evaluate import Evaluator, needed, parameters
from ssl_kd.labelled import scored_on
from ssl_kd.monitor import Monitor
from ssl_kd.run import Run
from ssl_kd.watchers import Logger, Prober

RULES = ("last", "uniformity", "rank", "held_out")


def check_rule(config: DictConfig, data: Data) -> None:
    """Refuses a `probe.select` that does not exist or lacks what it goes by, and labelled data of no use."""
    if data.labelled is not None and (unfit := Evaluator(config, data).missing):
        raise InputError(f"probe.data cannot be scored: {unfit}")
    rule = config.probe.select
    if rule not in RULES:
        raise InputError(f'probe.select is "{rule}", but can be: {", ".join(RULES)}')
    if rule != "last" and not config.probe.every:
        raise InputError(f"probe.select={rule} chooses among probes; say how often by probe.every=10")
    if rule == "uniformity" and not config.health.every:
        raise InputError("probe.select=uniformity goes by the looks without labels, and health.every is 0")
    if rule == "held_out" and not config.probe.linear:
        raise InputError("probe.select=held_out needs the linear probe, and probe.linear is false")
    missing = Evaluator(config, data).missing if rule == "held_out" else ""
    if missing:
        raise InputError(
            f"probe.select=held_out cannot choose: {missing}; probe.select=uniformity needs no labels"
        )


class Chooser:
    """Keeps the best checkpoint of every `probe.every` epochs and the last, by the rule `probe.select`.

    Where that is `last` it does nothing.
    Means over the peers that learn. uniformity: of their heads' outputs, over the monitor's last looks, lower
    is better. rank: effective rank of the embeddings. held_out: accuracy of the linear probes on the held-out
    tenth of the train split. Called after the probes and the look of a step. The record of the best is the
    checkpoint itself, so a continued run chooses as the uninterrupted one.
    """

    def __init__(
        self,
        config: DictConfig,
        run: Run,
        cohort: Cohort,
        evaluator: Evaluator,
        prober: Prober,
        logger: Logger,
        monitor: Monitor,
    ) -> None:
        self.config, self.run, self.cohort = config, run, cohort
        self.evaluator, self.prober, self.logger, self.monitor = evaluator, prober, logger, monitor
        self.every = 0 if config.probe.select == "last" else config.probe.every * logger.per_epoch

    def __call__(self, step: int, result: Result) -> None:
        if not self.every or not self.run.writes or (step % self.every and step != self.config.steps):
            return
        with self.logger.paused():
            score = self._score(step)
            if score > self.run.best:
                self.run.choose(self.cohort, step, self.config.probe.select, score)

    def _score(self, step: int) -> float:
        if self.config.probe.select == "uniformity":
            return -self.monitor.mean("uniformity", self.cohort.trainable)
        if self.config.probe.select == "rank":
            return self.evaluator.rank(self.cohort)
        last = self.prober.last
        scores = last[1] if last and last[0] == step else self.evaluator.cohort(self.cohort, ["linear"])
        learning = [name for name in encoders(self.cohort) if name in self.cohort.trainable]
        judged = [scores["peers"][name]["linear_held_out"] for name in learning]
        return sum(judged) / len(judged)


def candidates(cohort: Cohort) -> list[str]:
    """The peers that may be deployed: what is frozen has learned nothing, what reads others is not alone."""
    return [
        name
        for name, peer in cohort.peers.items()
        if name not in cohort.frozen and not getattr(peer, "sees", ())
    ]


def summary(
    config: DictConfig, cohort: Cohort, evaluator: Evaluator, scores: dict[str, Any], step: int
) -> dict[str, Any]:
    """What summary.json says of a finished run but for its speed. scores: of the cohort, from `step`."""
    networks = {
        name: peer
        for name, peer in cohort.peers.items()
        if any(True for _ in peer.parameters())
        and (isinstance(peer, Encoder) or (parameters(peer) and not getattr(peer, "reads", ())))
    }  # neither a queue nor what only decodes what others say, nor what only puts that side by side
    sizes = {
        name: sum(parameters(cohort.peers[other]) for other in needed(cohort, name)) for name in networks
    }  # what reads others is not to be had without them
    shape = evaluator.data.train.shape[0], config.data.size, config.data.size
    return {
        "method": config.method,
        "data": config.data.name,
        "scored_on": scored_on(config),
        "scored": {"on": scored_on(config), "probe": OmegaConf.to_container(config.probe, resolve=True)},
        "seed": config.seed,
        "steps": config.steps,
        "checkpoint": config.probe.select,
        "checkpoint_step": step,
        "peers": {
            name: {"parameters": sizes[name], **scores.get("peers", {}).get(name, {})} for name in networks
        },
        **({"ensemble": scores["ensemble"]} if "ensemble" in scores else {}),
        "macs": {name: macs(peer.backbone, shape) for name, peer in encoders(cohort).items()},
        "training_macs": _training_macs(cohort, shape),
    }


_OF_KNN = ("knn", "temperature")  # options of the probes of a finished run
_NO_SCORE = ("every", "batch_size")


def other_probe(scored: Mapping[str, Any], asked: Mapping[str, Any], run: str) -> str:
    """What to say of a finished run that was scored by other options than are asked for; "" where it was not.

    scored, asked: options of `probe`.
    """
    odd = [str(key) for key in asked if key not in _NO_SCORE and asked[key] != scored.get(key)]
    if not odd:
        return ""
    listed = ", ".join(
        f"probe.{key} is {_briefly(key, asked[key])} here and {_briefly(key, scored.get(key))} there"
        for key in odd
    )
    knn = [f"{key}={asked[key]}".replace(" ", "") for key in _OF_KNN if key in odd]
    ways = [shlex.join(["ssl-kd", "knn", f"run={run}", *knn])] if knn else []
    ways += [shlex.join(["ssl-kd", "linear", f"run={run}"])] if "linear" in odd else []
    data = asked["data"] if "data" in odd else None
    if isinstance(data, Mapping):
        words = [
            f"data={data.get('name')}",
            *(f"data.{k}={data[k]}" for k in ("path", "root") if data.get(k)),
        ]
        ways.append(shlex.join(["ssl-kd", "transfer", f"run={run}", *words]))
    others = not {*odd} <= {*_OF_KNN, "linear", *(["data"] if data else [])}
    ways += ["the same command with another run= trains and scores anew"] if others else []
    return f"nothing of a finished run changes: {listed}; to score it so: {'; '.join(ways)}"


def _briefly(key: str, value: Any) -> Any:
    """An option as a sentence has it: of data their place or their name."""
    if key != "data" or not isinstance(value, Mapping):
        return value
    return value.get("path") or value.get("root") or value.get("name")


def _training_macs(cohort: Cohort, shape: tuple[int, int, int]) -> dict[str, int]:
    try:
        return training_macs(cohort, shape)
    except Exception:  # a peer may be anybody's and want more than views; only this figure is lost
        return {}
