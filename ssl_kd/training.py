"""One training run, from a composed config to the table at its end."""

import os
import shlex
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from ssl_kd.build import (
    Feed,
    build_batches,
    build_cache,
    build_cohort,
    build_optimizers,
    build_terms,
    check_options,
    rate_scales,
    read_data,
)
from ssl_kd.cache import Cache
from ssl_kd.cast import is_frozen
from ssl_kd.cohort import Cohort
from ssl_kd.console import Meter, console, deploy, score_table
from ssl_kd.data import Data
from ssl_kd.data.identity import ACCEPT, check_accept, difference, hash_bytes, of_run, sampled
from ssl_kd.data.overlap import check_overlap
from ssl_kd.data.parts import join
from ssl_kd.distributed import check_launcher, global_batch_norm
from ssl_kd.engine import Join, NonFinite, Term, fit, step
from ssl_kd.enough import check_batch_norm, check_rows, check_views, check_widths, small
from ssl_kd.errors import InputError
from ssl_kd.evaluate import PROBES, Evaluator, classifiers
from ssl_kd.identity import run_name
from ssl_kd.labelled import called
from ssl_kd.launch import launched
from ssl_kd.lineage import check_classes, is_run, other_classes
from ssl_kd.machine import (
    compile_networks,
    full_attention,
    full_convolutions,
    pick_device,
    pick_precision,
    set_threads,
)
from ssl_kd.monitor import Collapsed, Monitor, Watch
from ssl_kd.own.pretrained import without_weights
from ssl_kd.run import Run
from ssl_kd.saved import changes, environments, probe_of
from ssl_kd.schedules import Weight
from ssl_kd.selection import Chooser, candidates, check_rule, other_probe
from ssl_kd.selection import summary as summarise
from ssl_kd.show import dry_table
from ssl_kd.signals import REQUEUE, Interrupted, Starved, Stop
from ssl_kd.status import Status
from ssl_kd.status import read as read_status
from ssl_kd.system.allocator import keep_freed_memory
from ssl_kd.trackers import Trackers, chosen, drawn
from ssl_kd.trust import put_on_record
from ssl_kd.watchers import Logger, Prober, Saver

COLLAPSED = 3  # exit code of a run that its alarm stopped


@dataclass
class Parts:
    """Everything that a config describes, built and prepared. `own` is the cohort without any wrapper."""

    config: DictConfig
    accelerator: Accelerator
    data: Data
    batches: Feed
    per_epoch: int
    terms: Sequence[Term]
    own: Cohort
    cohort: nn.Module
    own_optimizers: Sequence[Optimizer]
    optimizers: Sequence[Optimizer]
    rates: Sequence[Weight]
    watch: Watch
    cache: Cache | None = None

    @property
    def join(self) -> Join | None:
        """What makes the parts of an accumulated batch one for the terms, where the config wants it."""
        return join if self.config.grad_cache else None


def train(config: DictConfig) -> int:
    """Runs, resumes or reports the run of `config`; returns the exit code."""
    with Stop() as stop:
        try:
            parts = build(config)
            code = _dry_run(parts) if config.dry_run else _run(parts, stop)
            parts.accelerator.end_training()
            return code
        except Interrupted as error:
            stop.ends()
            if os.environ.get("RANK", "0") == "0":
                console(lasting=True).print(f"stopped{error}; the same command continues", soft_wrap=True)
            return REQUEUE
        except RuntimeError:
            if stop.asked and launched():  # another process has ended, which was asked, too
                stop.ends()
                return REQUEUE
            raise


def build(config: DictConfig) -> Parts:
    """What `config` describes, on its device and in its precision; prints a line that says which."""
    check_launcher()
    check_options(config)
    check_accept("data_changed", config.get("data_changed"))
    check_accept("data.overlap", config.data.get("overlap"))
    hash_bytes(config)
    chosen(config)
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    threads = set_threads(config.threads)
    if device == "cpu":
        keep_freed_memory()
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if precision == "bfloat16" else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],  # equal by construction
    )
    if config.processes and config.processes != accelerator.num_processes:
        raise InputError(f"processes is {config.processes}, but {accelerator.num_processes} were started")
    with accelerator.main_process_first():  # one process downloads
        data = read_data(config)
    check_rule(config, data)
    labelled = () if data.labelled is None else data.labelled.notes
    notes = [
        *data.notes,
        *(f"probe.data: {note.removeprefix('data: ')}" for note in labelled),
        Evaluator(config, data).missing,
        *(why for _, why in _classifiers_anew(config, data).values()),
    ]
    parts = assemble(config, accelerator, data)
    say(
        parts,
        f"{config.method} on {config.data.name}: {', '.join(config.peers)}; {config.epochs} epochs of "
        f"{parts.per_epoch} steps, batch {config.batch_size}; {accelerator.num_processes} x "
        f"{accelerator.device.type}, {threads} threads, {precision}",
    )
    for note in filter(None, notes):
        say(parts, note)
    for name, scale in rate_scales(config, parts.own).items():
        if scale != config.peers[name].get("lr_scale", 1.0):
            say(
                parts,
                f"{name}: {scale:g} of the rate, as it has layers without batch norm (optim.unnormalised)",
            )
    return parts


def say(parts: Parts, what: Any) -> None:
    """Prints text or a table, on the first process only."""
    if parts.accelerator.is_main_process:
        console(lasting=True).print(what, soft_wrap=isinstance(what, str))


def _classifiers_anew(config: DictConfig, data: Data) -> dict[str, tuple[str, str]]:
    """Learning peer -> its classifier and why, where its weights are of a run with other classes.

    Raises InputError for a frozen one, which would teach others than the data's.
    """
    found: dict[str, tuple[str, str]] = {}
    if _folder(config).self_contained:
        return found
    for name, head in classifiers(config).items():
        weights = config.peers[name].get("weights")
        if weights and is_run(weights) and is_frozen(config.peers[name]):
            check_classes(name, weights, data.train.classes)
        elif weights and is_run(weights) and (other := other_classes(weights, data.train.classes)):
            found[name] = head, f"peers.{name}: its {head} begin anew, since {other}"
    return found


def assemble(config: DictConfig, accelerator: Accelerator, data: Data) -> Parts:
    """What `config` makes of the images in `data`; `read_data` has filled in what the config left open."""
    watch = Watch(**config.health)
    batches, per_epoch = build_batches(
        config, data, accelerator.device, accelerator.process_index, accelerator.num_processes
    )
    terms, fresh = build_terms(config), not _folder(config).self_contained
    anew = {name: head for name, (head, _) in _classifiers_anew(config, data).items()}
    own = build_cohort(config, data.train.shape, terms, sources=fresh, anew=anew)
    check_rows(config, terms, own, accelerator.num_processes)
    check_views(config, terms)
    check_widths(config, terms, own)
    if accelerator.num_processes > 1:
        global_batch_norm(own)
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16":
        full_convolutions(own)
        if not config.compile:
            full_attention(own)
    if config.compile:
        compile_networks(own)
    if small(config, accelerator.num_processes):
        own.to(accelerator.device)
        check_batch_norm(config, own, next(batches(0)), accelerator.autocast())
    own_optimizers, rates = build_optimizers(config, own)
    cache = build_cache(config, own, batches.recipe, len(data.train), accelerator.autocast)
    with warnings.catch_warnings():  # torch 2.15 renames the option that accelerate passes on
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        cohort, *optimizers = accelerator.prepare(own, *own_optimizers)
    return Parts(
        config,
        accelerator,
        data,
        batches,
        per_epoch,
        terms,
        own,
        cohort,
        own_optimizers,
        optimizers,
        rates,
        watch,
        cache,
    )


def _dry_run(parts: Parts) -> int:
    _check_overlap(parts)
    began = time.monotonic()
    batch = next(parts.batches(0))
    result = step(
        parts.cohort,
        parts.terms,
        batch,
        parts.optimizers,
        parts.accelerator,
        0,
        clip=parts.config.clip,
        join=parts.join,
    )
    say(parts, dry_table(parts.config, parts.own, result.averaged(), time.monotonic() - began))
    return 0


def _run(parts: Parts, stop: Stop) -> int:
    run, before = _open(parts)
    if summary := run.finished(parts.config.steps):
        _leave_alone(parts, run, before, summary)
        return 0
    if run.writes:
        run.make()
    try:
        with _status(parts, run) as status:
            begun = _continue(parts, run, before)
            _train(parts, run, begun, stop, status)
    except Collapsed:
        say(parts, f"stopped by health.on_collapse=stop; the last checkpoint is {run.checkpoint}")
        return COLLAPSED
    return 0


def _status(parts: Parts, run: Run) -> AbstractContextManager[Status | None]:
    """Held by the process that writes the run."""
    if not run.writes:
        return nullcontext()
    return Status(run.folder, parts.config.steps, lambda text: say(parts, text))


def _leave_alone(parts: Parts, run: Run, before: dict[str, Any], summary: dict[str, Any]) -> None:
    """Tells what a finished run has scored, and changes nothing of it but what a kill left half done."""
    say(parts, f"run {parts.config.run}: finished before")
    parts.accelerator.wait_for_everyone()  # all have seen that it is finished
    if run.writes:
        run.tidy()
    if run.writes and before.get("state", "done") != "done":  # a kill after the last file
        with _status(parts, run):
            pass
    if parts.accelerator.is_main_process:
        evaluator = Evaluator(parts.config, parts.data, parts.accelerator.device)
        _report(parts, summary, evaluator.missing)
        if other := other_probe(probe_of(summary, run.config()), parts.config.probe, str(parts.config.run)):
            say(parts, other)


def _train(parts: Parts, run: Run, begun: int, stop: Stop, status: Status | None) -> None:
    names = chosen(parts.config) if run.writes else []
    meter = Meter(parts.config.steps, begun, parts.accelerator.is_main_process)
    with closing(Trackers(parts.config, names, run.folder, begun, meter.say)) as trackers:
        _steps_and_scores(parts, run, begun, stop, status, meter, trackers)
    parts.accelerator.wait_for_everyone()


def _steps_and_scores(
    parts: Parts, run: Run, begun: int, stop: Stop, status: Status | None, meter: Meter, trackers: Trackers
) -> None:
    config, accelerator = parts.config, parts.accelerator
    evaluator = Evaluator(config, parts.data, accelerator.device)
    probes = [name for name in PROBES if name != "linear" or config.probe.linear]
    every, size = config.log_every, config.batch_size
    logger = Logger(run, meter, parts.own_optimizers, parts.per_epoch, size, every, trackers)
    probe_steps = 0 if evaluator.missing else config.probe.every * parts.per_epoch
    prober = Prober(parts.own, lambda cohort: evaluator.cohort(cohort, probes), logger, probe_steps)
    save_steps = config.save_every * parts.per_epoch
    saver = Saver(run, parts.own, parts.own_optimizers, logger, config.steps, save_steps, stop, status, begun)
    monitor = _monitor(parts, run, begun, logger)
    chooser = Chooser(config, run, parts.own, evaluator, prober, logger, monitor)
    if parts.cache is not None and begun < config.steps:
        _fill(parts, parts.cache)
    run.clock()
    try:
        with stop.waiting():
            fit(
                parts.cohort,
                parts.terms,
                parts.batches,
                parts.optimizers,
                parts.rates,
                accelerator,
                steps=config.steps,
                start=begun,
                watchers=[logger, monitor, prober, chooser, saver],
                clip=config.clip,
                join=parts.join,
                weigh=monitor.weigh,
                known=parts.cache,
            )
    except Starved as error:
        raise saver.between_steps() from error
    except NonFinite as error:
        place = (
            f"the last good checkpoint is {run.checkpoint}" if run.checkpoint else "no checkpoint was written"
        )
        raise InputError(f"{error}; {place}; a lower learning rate (optim.rate.peak) may help") from error
    finally:
        meter.close()
        run.close()
    if accelerator.is_main_process:
        summary = run.read("summary.json") if begun >= config.steps else None
        if summary is None:
            summary = _score(parts, run, evaluator, probes, prober) | {
                "images_per_second": logger.mean_speed,
                "seconds": run.seconds,
            }
            run.write("summary.json", summary)
            trackers.log(config.steps, drawn(summary, "final/"))
        _report(parts, summary, evaluator.missing)


def _fill(parts: Parts, cache: Cache) -> None:
    began = time.monotonic()
    cache.fill(parts.batches.once())
    say(
        parts,
        f"the outputs of {', '.join(cache.wanted)} for {cache.count:,} images are computed once and kept: "
        f"{cache.bytes / 2**20:.1f} MiB, {time.monotonic() - began:.0f} s",
    )


def _score(
    parts: Parts, run: Run, evaluator: Evaluator, probes: Sequence[str], prober: Prober
) -> dict[str, Any]:
    """What the checkpoint that is reported scores, beside the baselines."""
    config = parts.config
    step = config.steps if config.probe.select == "last" else run.load(parts.own, chosen=True)
    scores = prober.last[1] if prober.last and prober.last[0] == step else {}
    if not scores and not evaluator.missing:
        scores = evaluator.cohort(parts.own, probes)
    none = evaluator.missing or not config.probe.baselines
    return summarise(config, parts.own, evaluator, scores, step) | {
        "baselines": {} if none else evaluator.baselines(probes)
    }


def _monitor(parts: Parts, run: Run, begun: int, logger: Logger) -> Monitor:
    """Looks without labels, going on from what metrics.jsonl says."""
    links = [link for term in parts.terms for link in getattr(term, "links", list)()]

    def write(line: dict[str, Any]) -> None:
        logger.write(line["step"], line)

    monitor = Monitor(parts.own, links, parts.watch, write, logger.meter.say, begun)
    monitor.recall(run.metrics())
    return monitor


def _folder(config: DictConfig, writes: bool = False) -> Run:
    """The run of a config, which gets its name here if it has none."""
    config.run = config.run or run_name(config)
    return Run(config.run, writes, config.keep)


def _open(parts: Parts) -> tuple[Run, dict[str, Any]]:
    """The run folder, after checks that change nothing in it; and what its status.json says."""
    config, accelerator = parts.config, parts.accelerator
    run = _folder(config, accelerator.is_main_process)
    before = read_status(run.folder) or {}
    if accelerator.is_main_process:
        run.check(config)
        noted = run.read("data.json")
        if noted is None:
            _check_overlap(parts)
        elif odd := _data_changed(parts, run, noted):
            if config.get("data_changed") != "accept":
                raise InputError(
                    f"the data of {run.folder} changed since it began: {odd}; name another run=, or {ACCEPT}"
                )
            say(parts, f"the data changed, which data_changed=accept takes: {odd}")
    return run, before


def _data_changed(parts: Parts, run: Run, noted: dict[str, Any]) -> str:
    """What differs in the images from what the run noted, in words; "" for nothing.

    Where another `probe.data` is said, those of a finished run may be others, since nothing of it changes.
    Raises InputError for a run that is not finished, whose scores would be of two data sets.
    """
    odd = difference(noted, parts.data, parts.config)
    there, here = (OmegaConf.to_container(each.probe, resolve=True) for each in (run.config(), parts.config))
    if not odd or there.get("data") == here.get("data"):
        return odd
    trained = {name: part for name, part in noted.items() if not name.startswith("labelled ")}
    odd = difference(trained, replace(parts.data, labelled=None), parts.config)
    if not odd and run.finished(parts.config.steps) is None:
        now, before = (called(each) or "none" for each in (parts.config, run.config()))
        raise InputError(
            f"probe.data is {now} here and {before} in {run.folder}, whose scores would be of both; continue "
            "it as it began and score it by ssl-kd transfer when it is finished, or name another run="
        )
    return odd


def _check_overlap(parts: Parts) -> None:
    """Tells of images that are in train and test; raises InputError where they are many."""
    if parts.accelerator.is_main_process:
        accept, held = parts.config.data.get("overlap"), parts.config.get("hold_out")
        for line in check_overlap(parts.data, accept, held, hash_bytes(parts.config)):
            say(parts, line)


def _continue(parts: Parts, run: Run, before: dict[str, Any]) -> int:
    """Puts the newest checkpoint, if there is one, into the cohort; returns the step to start from."""
    config, accelerator = parts.config, parts.accelerator
    if run.writes:
        run.tidy()
        run.start(config)
        if unrecorded := put_on_record(config, run.folder):
            say(parts, unrecorded)
        _note_data(parts, run)
    accelerator.wait_for_everyone()
    begun = 0
    if run.checkpoints:
        begun = run.load(parts.own, parts.own_optimizers, say=lambda text: say(parts, text))
    elif before.get("saved"):
        raise InputError(
            f"{run.folder} was saved after step {before['saved']}, and its checkpoints are gone; put them "
            "back, or name another run= to start again"
        )
    else:
        began = {str(name) for name, peer in config.peers.items() if peer.get("weights")}
        run.keep_start(parts.own, {*began, *without_weights(config.copy()), *parts.own.frozen})
    run.forget_after(begun)
    accelerator.wait_for_everyone()
    lost = f", killed at about step {before['step']}" if before.get("state") == "killed" else ""
    state = (
        f"continues after step {begun}{lost}"
        if 0 < begun < config.steps
        else "finished before"
        if begun
        else "begins again, since it ended before its first checkpoint"
        if before
        else "new"
    )
    say(parts, f"run {config.run}: {state}")
    if begun and (other := changes(environments(run.folder))):
        say(parts, f"its starts differ: {other}")
    skipped = getattr(parts.data.train, "skipped", [])
    if skipped:
        files = "1 image" if len(skipped) == 1 else f"{len(skipped)} images"
        say(parts, f"{files} skipped that cannot be decoded: {skipped[0]}")
    return begun


def _note_data(parts: Parts, run: Run) -> None:
    """Writes what the data are, also where they changed and that was accepted."""
    before = run.read("data.json")
    other = difference(before, parts.data, parts.config)
    if before is not None and not other:
        return
    noted: dict[str, Any] = of_run(parts.data, parts.config)
    noted["train"]["classes"] = list(parts.data.train.classes)  # for who has the run but not the data
    if other:
        noted["accepted"] = [*(before or {}).get("accepted", []), other]
    run.write("data.json", noted)
    if said := sampled(noted):
        say(parts, said)


def _report(parts: Parts, summary: dict[str, Any], missing: str) -> None:
    if not missing:
        say(parts, score_table(summary))
    best, why = deploy({k: v for k, v in summary["peers"].items() if k in candidates(parts.own)})
    say(parts, why)
    if best is not None:
        run = shlex.quote(f"run={parts.config.run}")
        say(parts, f"next: ssl-kd report {run}; ssl-kd export {run} peer={best}")
