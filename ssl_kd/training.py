"""One training run, from a composed config to the table at its end."""

import time
import warnings
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from omegaconf import DictConfig

from ssl_kd.build import build_batches, build_cohort, build_optimizers, build_terms, check, read_data
from ssl_kd.config import run_name
from ssl_kd.console import Meter, console, deploy, score_table
from ssl_kd.distributed import global_batch_norm
from ssl_kd.engine import NonFinite, fit, step
from ssl_kd.errors import InputError
from ssl_kd.evaluate import PROBES, Evaluator, parameters
from ssl_kd.machine import pick_device, pick_precision, set_threads
from ssl_kd.run import Run
from ssl_kd.show import dry_table
from ssl_kd.watchers import Interrupted, Logger, Prober, Saver


def train(config: DictConfig) -> int:
    """Runs, resumes or reports the run of `config`; returns the exit code."""
    check(config)
    device = pick_device(config.device)
    threads = set_threads(config.threads)
    precision = pick_precision(config.precision, device)
    config.run = config.run or run_name(config)
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if precision == "bfloat16" else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],  # equal by construction
    )
    if config.processes and config.processes != accelerator.num_processes:
        raise InputError(f"processes is {config.processes}, but {accelerator.num_processes} were started")
    first, out = accelerator.is_main_process, console()

    data = read_data(config)
    batches, per_epoch = build_batches(
        config, data, accelerator.device, accelerator.process_index, accelerator.num_processes
    )
    terms = build_terms(config)
    plain_cohort = build_cohort(config, data.train.shape, terms)
    if accelerator.num_processes > 1:
        global_batch_norm(plain_cohort)
    plain_optimizers, rates = build_optimizers(config, plain_cohort)
    with warnings.catch_warnings():  # torch 2.15 renames the option that accelerate passes on
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        cohort, *optimizers = accelerator.prepare(plain_cohort, *plain_optimizers)
    if first:
        out.print(
            f"{config.method} on {config.data.name}: {', '.join(config.peers)}; {config.epochs} epochs of "
            f"{per_epoch} steps, batch {config.batch_size}; {accelerator.num_processes} x "
            f"{accelerator.device.type}, {threads} threads, {precision}",
            soft_wrap=True,
        )
    if config.dry_run:
        began = time.monotonic()
        result = step(cohort, terms, next(batches(0)), optimizers, accelerator, 0, clip=config.clip)
        if first:
            out.print(dry_table(config, plain_cohort, result, time.monotonic() - began))
        return 0

    run = Run(config.run, writes=first)
    if first:
        run.start(config)
    accelerator.wait_for_everyone()
    begun = run.load(plain_cohort, plain_optimizers) if run.checkpoint else 0
    if first:
        run.forget_after(begun)
        state = (
            "new"
            if not begun
            else "finished before"
            if begun >= config.steps
            else f"continues after step {begun}"
        )
        out.print(f"run {config.run}: {state}", soft_wrap=True)
        skipped = getattr(data.train, "skipped", [])
        if skipped:
            files = "1 file" if len(skipped) == 1 else f"{len(skipped)} files"
            out.print(f"{files} skipped that are no images: {skipped[0]}", soft_wrap=True)

    evaluator = Evaluator(config, data, accelerator.device)
    probes = [name for name in PROBES if name != "linear" or config.probe.linear]
    logger = Logger(
        run, Meter(config.steps, begun, first), config.steps, per_epoch, config.batch_size, config.log_every
    )
    logger.rate(optimizers)
    prober = Prober(
        plain_cohort,
        lambda cohort: evaluator.cohort(cohort, probes),
        logger,
        0 if evaluator.missing else config.probe.every * per_epoch,
    )
    saver = Saver(run, plain_cohort, plain_optimizers, logger, config.steps, config.save_every * per_epoch)
    began = time.monotonic()
    try:
        with saver:
            fit(
                cohort, terms, batches, optimizers, rates, accelerator,
                steps=config.steps, start=begun, watchers=[logger, prober, saver], clip=config.clip,
            )  # fmt: skip
    except Interrupted:
        if first:
            logger.close()
            out.print(
                f"stopped after step {saver.saved} of {config.steps}; the same command continues",
                soft_wrap=True,
            )
        return 130
    except NonFinite as error:
        place = (
            f"the last good checkpoint is {run.checkpoint}"
            if run.checkpoint
            else "no checkpoint was written yet"
        )
        raise InputError(f"{error}; {place}; a lower optim.rate.peak may help") from error
    finally:
        logger.close()
    if first:
        old = run.read("summary.json") if begun >= config.steps else None
        seconds = time.monotonic() - began
        found = prober.last[1] if prober.last and prober.last[0] == config.steps else None
        summary = old or _summary(
            config, run, plain_cohort, evaluator, probes, logger.mean_speed, seconds, found
        )
        out.print(score_table(summary["peers"], summary["baselines"]))
        out.print(deploy(summary["peers"]), soft_wrap=True)
        if evaluator.missing:
            out.print(evaluator.missing, soft_wrap=True)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return 0


def _summary(
    config: DictConfig, run: Run, cohort: Any, evaluator: Evaluator, probes: list[str],
    speed: float, seconds: float, found: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """Probes the finished cohort, writes summary.json and the eval files, and returns the summary."""
    scores = {} if evaluator.missing else found or evaluator.cohort(cohort, probes)
    baselines = {} if evaluator.missing or not config.probe.baselines else evaluator.baselines(probes)
    peers = {
        name: {"parameters": parameters(peer), **scores.get(name, {})} for name, peer in cohort.peers.items()
    }
    summary = {
        "method": config.method,
        "data": config.data.name,
        "seed": config.seed,
        "steps": config.steps,
        "images_per_second": speed,
        "seconds": seconds,
        "checkpoint": "last",
        "peers": peers,
        "baselines": baselines,
    }
    run.write("summary.json", summary)
    return summary
