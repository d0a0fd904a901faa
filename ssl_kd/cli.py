"""The command `ssl-kd`. Nothing heavy is imported before it is known to be needed."""

import sys
from collections.abc import Sequence

from ssl_kd.errors import guarded

COMMANDS = ("train", "show", "timing", "study", "compare", "report", "export")
PROBES = ("knn", "linear", "few_labels", "linear_sgd", "finetune", "robustness", "transfer", "health")

HELP = """ssl-kd: small networks that learn together, without labels

  ssl-kd train                                              a DoGo pair on digits, about a minute
  ssl-kd train method=simclr data=cifar10 peers=[resnet18]  one network alone
  ssl-kd train method=dogo data=folder data.root=photos peers=[resnet18,mobilenetv3_small_100]
  ssl-kd train run=runs/a                                   the same run= again continues it
  ssl-kd train processes=2                                  on two processes of this machine
  ssl-kd show method=dogo                                   a method's edges as a table
  ssl-kd timing method=dogo measure=20                      where a step's time goes, over 20 steps
  ssl-kd study study.yaml                                   methods x seeds from one file, then compared
  ssl-kd compare runs/solo-* runs/pair-*                    did the peers help? differences, paired by seed
  ssl-kd report run=runs/a                                  the run as one HTML page
  ssl-kd export run=runs/a peer=resnet20_1                  the network to deploy, as safetensors
  ssl-kd PROBE run=runs/a                                   one more score of a run's checkpoint; the probes:
      knn, linear             nearest neighbours; a linear probe
      few_labels              a linear probe on 1 %, 10 %, and 1, 5, 10 labels per class
      linear_sgd, finetune    trained on augmented images: the literature's linear probe; all weights
      robustness, transfer    corrupted test images; another data set (data=fashion_mnist)
      health                  effective rank, alignment, uniformity, agreement: without labels

Options are key=value; configs/config.yaml lists them with their defaults.
  method   {method}
  data     {data}
  recipe   {recipe}
  optim    {optim}
  peers    a list of backbones: resnet20, wrn-16-2, resnet18, resnet50, ... or any timm model
  dry_run=true builds everything, runs one step and says what the run needs

Exit codes: 0 done, 1 a run of a study failed, 2 bad input (one sentence says what), 3 stopped by
health.on_collapse=stop, 75 stopped by Ctrl-C, SIGTERM or SIGUSR1 and saved (the same command continues:
requeue the job), 130 stopped at once by a second Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """`ssl-kd COMMAND key=value ...`; returns the exit code."""
    return guarded(_main, list(sys.argv[1:] if argv is None else argv))


def _main(words: list[str]) -> int:
    from ssl_kd.errors import InputError, nearest

    if not words or words[0] in ("--help", "-h", "help") or "--help" in words:
        from ssl_kd.config import GROUPS, choices

        print(HELP.format(**{group: ", ".join(choices(group)) for group in GROUPS}), end="")
        return 0
    command, rest = words[0], words[1:]
    if command == "train":
        from ssl_kd.train import _main as train

        return train(rest)
    if command == "show":
        from ssl_kd.config import compose
        from ssl_kd.console import console
        from ssl_kd.show import method_page

        console().print(method_page(compose(rest)), soft_wrap=True)
        return 0
    if command == "timing":
        return timing(rest)
    if command == "study":
        from ssl_kd.study import main as study

        return study(rest)
    if command == "compare":
        from ssl_kd.compare import main as compare

        return compare(rest)
    if command == "report":
        from ssl_kd.report import main as report

        return report(rest)
    if command == "export":
        from ssl_kd.config import options
        from ssl_kd.export import main as export

        return export(options(rest))
    if command in PROBES:
        return probe(command, rest)
    if command == "--version":
        from ssl_kd import __version__

        print(__version__)
        return 0
    raise InputError(f'there is no command "{command}"; {nearest(command, [*COMMANDS, *PROBES])}')


def probe(name: str, words: list[str]) -> int:
    """One probe of a run: `run=FOLDER`, `device`, `checkpoint`, and the options of the probe."""
    from ssl_kd.config import options
    from ssl_kd.errors import InputError

    # What names a data set is kept as a word, which `transfer` composes.
    data = [word for word in words if word.startswith("data=")]
    given = options([word for word in words if word not in data]) | dict(word.split("=", 1) for word in data)
    folder, device = given.pop("run", None), given.pop("device", "auto")
    if folder in (None, ""):
        raise InputError("run is needed; give it as run=runs/NAME")
    from ssl_kd.console import console
    from ssl_kd.machine import pick_device, set_threads
    from ssl_kd.probing import probe as run_probe
    from ssl_kd.tables import probe_table

    set_threads(None)
    result = run_probe(str(folder), name, given, pick_device(device))
    console().print(probe_table(name, result))
    print(f"{folder}/eval/{name}.json")
    return 0


def timing(words: list[str]) -> int:
    """Where a step's time goes: any option of `train`, and `measure`, the number of steps."""
    from ssl_kd.config import compose, options
    from ssl_kd.errors import InputError
    from ssl_kd.launch import launched

    own = [word for word in words if word.lstrip("+").startswith("measure=")]
    count = options(own).get("measure", 20)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InputError(f'measure must be a whole number of steps, at least 1, and "{count}" is not')
    steps = [word.partition("=")[2] for word in words if word.lstrip("+").startswith("steps=")]
    if steps:
        raise InputError(f"steps is filled in by the data; measure={steps[-1]} says how many to measure")
    config = compose([word for word in words if word not in own])
    if config.processes and config.processes > 1 and not launched():
        raise InputError(
            "timing starts no processes of its own; start them with accelerate launch or torchrun, "
            "or leave processes= out"
        )
    from ssl_kd.timing import report

    return report(config, count)
