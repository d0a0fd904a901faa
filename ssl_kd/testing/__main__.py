"""The command `python -P -m ssl_kd.testing method=NAME ... [processes=2,4] [steps=3]`."""

import sys

from ssl_kd.system.safe_path import leave_current_folder

leave_current_folder()  # before anything else is imported

from rich.table import Table  # noqa: E402

from ssl_kd.console import console  # noqa: E402
from ssl_kd.errors import InputError, guarded  # noqa: E402
from ssl_kd.system.text import print_lines  # noqa: E402
from ssl_kd.testing import Difference, compare_processes  # noqa: E402

EXACT = 1e-9  # in float64, of the largest gradient entry

HELP = """python -P -m ssl_kd.testing method=mine peers=[resnet8,resnet8] [processes=2,4] [steps=3]

Trains a few steps on one process and on several, each with its share of the same batches, and prints how
far they are apart, as shares of the largest value. Options are those of ssl-kd train; a batch has 32 images
unless batch_size= says otherwise.
Exit codes: 0 equal up to 1e-9 in float64, 1 not equal, 2 bad input (one sentence says what).
"""


def _main(words: list[str]) -> int:
    if not words or "--help" in words or "-h" in words:
        print_lines(HELP)
        return 0
    own = dict(word.split("=", 1) for word in words if word.startswith(("processes=", "steps=")))
    rest = [word for word in words if not word.startswith(("processes=", "steps="))]
    worlds = [_number("processes", text) for text in own.get("processes", "2,4").strip("[]").split(",")]
    steps = _number("steps", own.get("steps", "3"))
    name = " ".join(rest)
    found = compare_processes({name: rest}, worlds, steps=steps, float32=True)[name]
    table = Table(title=f"{name}: {steps} steps, several processes against one", title_justify="left")
    for column in ("processes", "precision", "losses", "gradients", "weights", "between processes"):
        table.add_column(column, justify="right")
    for world, difference in found.items():
        table.add_row(str(world), "float64", *_cells(difference))
        assert difference.float32 is not None
        table.add_row("", "float32, 1 step", *_cells(difference.float32), style="dim")
    console().print(table)
    wrong = [each for each in found.values() if not max(each.losses, each.gradients, each.weights) <= EXACT]
    console().print(f"{'not ' if wrong else ''}equal up to {EXACT:g} in float64")
    return 1 if wrong else 0


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise InputError(f'{name} must be whole numbers, and "{text}" is not')
    return int(text)


def _cells(difference: Difference) -> list[str]:
    return [
        f"{value:.1e}"
        for value in (difference.losses, difference.gradients, difference.weights, difference.spread)
    ]


if __name__ == "__main__":
    sys.exit(guarded(_main, sys.argv[1:]))
