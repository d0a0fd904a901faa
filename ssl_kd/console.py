"""What a person sees: a progress bar on a terminal, a few plain lines in a pipe, a table at the end."""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from ssl_kd.saved import SINGLES
from ssl_kd.system.text import print_line, printable
from ssl_kd.system.writing import unwritten

PLAIN_LINES = 10  # of progress, where there is no terminal
MANY_TERMS = 4  # that one line can show


class Screen(Console):
    """Prints strings, in cells of tables too, as one line each, printable, and without markup.

    lasting: what prints has more to do: a full disk, where output is a file, is said once and ends nothing.
    """

    lasting = False
    lost = False  # whether something printed was, and that was said

    def render_str(self, text: str, **options: Any) -> Text:
        """The one way of rich from a string to what is printed."""
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})

    def print(self, *what: Any, **options: Any) -> None:
        """As rich's; see `lasting`."""
        try:
            super().print(*what, **options)
        except OSError as error:
            if not self.lasting or not unwritten(error):
                raise
            if not Screen.lost:
                print_line(
                    f"what is printed could not be written ({error.strerror}); the work goes on", sys.stderr
                )
            Screen.lost = True


def console(lasting: bool = False) -> Console:
    """Standard output; wide enough for a table where it is a pipe. lasting: see `Screen`."""
    screen = Screen(width=None if sys.stdout.isatty() else 120, highlight=False)
    screen.lasting = lasting
    return screen


def stacked(*lines: str) -> Text:
    """Lines below each other, as in a cell of a table."""
    return Text("\n".join(map(printable, lines)))


class Meter:
    """Progress of a run: a bar on a terminal, at most PLAIN_LINES lines elsewhere; nothing if not `shown`."""

    def __init__(self, steps: int, start: int, shown: bool = True) -> None:
        self.steps, self.start, self.shown = steps, start, shown
        self.out = console(lasting=True)
        self.began = time.monotonic()
        self.note = ""
        self.bar: Progress | None = None
        if shown and self.out.is_terminal and start < steps:
            whole, rest = (
                Column(no_wrap=True, min_width=5),
                Column(no_wrap=True, overflow="ellipsis", ratio=1),
            )
            self.bar = Progress(
                TextColumn("{task.completed}/{task.total}", table_column=Column(no_wrap=True, min_width=9)),
                BarColumn(bar_width=12, table_column=Column(min_width=12)),
                TimeRemainingColumn(compact=True, table_column=whole),
                TextColumn("left", table_column=Column(min_width=4)),
                TextColumn("{task.description}", table_column=rest, markup=False),
                console=self.out,
                expand=True,
            )
            self.task = self.bar.add_task("", total=steps, completed=start)
            self.bar.start()

    def plain(self, step: int) -> bool:
        """Whether this step has a plain line, where lines are printed; the same on every process."""
        share = max(1, math.ceil((self.steps - self.start) / PLAIN_LINES))
        return (step - self.start) % share == 0 or step == self.steps

    def tick(self, step: int) -> None:
        """Moves the bar."""
        if self.bar is not None:
            self.bar.update(self.task, completed=step)

    def report(self, step: int, terms: Mapping[str, float], rate: float) -> None:
        """Shows the terms (raw; each name's mean, where a line has no room for all) and images per second."""
        if len(terms) > (1 if self.bar else MANY_TERMS):
            groups: dict[str, list[float]] = {}
            for name, value in terms.items():
                groups.setdefault(name.split("/")[0], []).append(value)
            terms = {name: sum(each) / len(each) for name, each in groups.items()}
        more = f"  and {len(terms) - MANY_TERMS} more terms" if len(terms) > MANY_TERMS + 1 else ""
        shown = list(terms.items())[: MANY_TERMS if more else None]
        text = "  ".join(f"{name} {value:.3f}" for name, value in shown) + more
        text = printable(f"{text}  {rate:.0f} images/s  {self.note}".rstrip())
        if self.bar is not None:
            self.bar.update(self.task, description=text, completed=step)
        elif self.shown and self.plain(step):
            done = max(1, step - self.start)
            left = (time.monotonic() - self.began) / done * (self.steps - step)
            self.out.print(f"step {step}/{self.steps}  {text}  {left:.0f} s left", soft_wrap=True)

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self.shown:
            self.out.print(text, soft_wrap=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def score_table(summary: Mapping[str, Any]) -> Table:
    """One row per peer, their ensemble and each baseline; accuracies in per cent.

    summary: "peers", and if there are "ensemble", "baselines" and "scored_on", as in summary.json.
    """
    peers, baselines = summary["peers"], summary.get("baselines") or {}
    first: Mapping[str, Any] = next((scores for scores in peers.values() if "knn" in scores), {})
    first = first or next((scores for scores in peers.values() if "linear" in scores), {})
    ks = list(first.get("knn", {}))
    table = Table(title=f"accuracy on {summary.get('scored_on', 'the test split')}, %", title_justify="left")
    table.add_column("network")
    table.add_column("parameters", justify="right")
    singles = {key: name for key, name in SINGLES.items() if any(key in peer for peer in peers.values())}
    for head in [*(f"kNN {k}" for k in ks), *singles.values()]:
        table.add_column(head, justify="right")

    def row(name: str, scores: Mapping[str, Any], style: str | None = None) -> None:
        cells = [scores.get("knn", {}).get(k) for k in ks] + [scores.get(key) for key in singles]
        size = f"{scores['parameters']:,}" if "parameters" in scores else ""
        table.add_row(name, size, *("" if c is None else f"{100 * c:.1f}" for c in cells), style=style)

    for name, scores in peers.items():
        row(name, scores)
    if summary.get("ensemble"):
        row("all together", summary["ensemble"])
    for name, scores in baselines.get("untrained", {}).items():
        row(f"{name}, untrained", scores, "dim")
    if baselines.get("pixels"):
        row("raw pixels", baselines["pixels"], "dim")
    return table


def deploy(peers: Mapping[str, Any]) -> tuple[str | None, str]:
    """Which peer to use, and why. By a held-out tenth of the train split; the test split selects nothing."""
    if not peers:
        return None, "no network that learned embeds images by itself"
    if len(peers) == 1:
        name = next(iter(peers))
        return name, f"deploy {name}, the only peer"
    judged = {name: scores for name, scores in peers.items() if scores.get("linear_held_out") is not None}
    if not judged:
        name = min(peers, key=lambda name: peers[name]["parameters"])
        return name, f"deploy {name}, the smallest: without a linear probe nothing else tells the peers apart"
    best = max(scores["linear_held_out"] for scores in judged.values())
    equal = [name for name, scores in judged.items() if scores["linear_held_out"] == best]
    name = min(equal, key=lambda name: judged[name]["parameters"])
    return name, (
        f"deploy {name}: best linear probe on a held-out tenth of the train split "
        f"({100 * best:.1f} %), {judged[name]['parameters']:,} parameters"
    )
