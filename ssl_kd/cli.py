"""The command `ssl-kd`. Nothing heavy is imported before it is known to be needed."""

import sys
from collections.abc import Sequence

from ssl_kd.errors import guarded

HELP = """ssl-kd: small networks that learn together, without labels

  ssl-kd train                                              a DoGo pair on digits, about a minute
  ssl-kd train method=simclr data=cifar10 peers=[resnet18]  one network alone
  ssl-kd train method=dogo data=folder data.root=photos peers=[resnet18,mobilenetv3_small_100]
  ssl-kd train run=runs/a                                   the same run= again continues it
  ssl-kd train processes=2                                  on two processes of this machine
  ssl-kd show method=dogo                                   a method's edges as a table
  ssl-kd timing method=dogo measure=20                      where a step's time goes, over 20 steps
  ssl-kd knn run=runs/a                                     nearest-neighbour accuracy of a run's checkpoint
  ssl-kd linear run=runs/a                                  linear-probe accuracy of a run's checkpoint

Options are key=value; configs/config.yaml lists them with their defaults.
  method   {method}
  data     {data}
  recipe   {recipe}
  optim    {optim}
  peers    a list of backbones: resnet20, wrn-16-2, resnet18, resnet50, ... or any timm model
  dry_run=true builds everything, runs one step and says what the run needs

Exit codes: 0 done, 2 bad input (one sentence says what), 130 stopped by Ctrl-C with its state saved.
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
    if command in ("knn", "linear"):
        return probe(command, rest)
    if command == "--version":
        from ssl_kd import __version__

        print(__version__)
        return 0
    raise InputError(
        f'there is no command "{command}"; {nearest(command, ["train", "show", "timing", "knn", "linear"])}'
    )


def probe(name: str, words: list[str]) -> int:
    """One probe of a run: `run=FOLDER`, and any key of the config's `probe`."""
    from ssl_kd.config import options
    from ssl_kd.errors import InputError

    given = options(words)
    folder, device = given.pop("run", None), given.pop("device", "auto")
    if folder is None:
        raise InputError("run is needed; give it as run=runs/NAME")
    allowed = ["knn", "temperature", "batch_size"]
    for key in given:
        if key not in allowed:
            raise InputError(f'"{key}" is not an option; there are: run, device, {", ".join(allowed)}')
    from ssl_kd.console import console, score_table
    from ssl_kd.evaluate import evaluate_run
    from ssl_kd.machine import pick_device, set_threads

    set_threads(None)
    result = evaluate_run(str(folder), name, given, pick_device(device))
    console().print(score_table(result["peers"], result["baselines"]))
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
    config = compose([word for word in words if word not in own])
    if config.steps is not None:
        raise InputError(f"steps is filled in by the data; measure={config.steps} says how many to measure")
    if config.processes and config.processes > 1 and not launched():
        raise InputError(
            "timing starts no processes of its own; start them with accelerate launch or torchrun, "
            "or leave processes= out"
        )
    from ssl_kd.timing import report

    return report(config, count)
