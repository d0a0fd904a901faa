"""The table of `ssl-kd runs`: a line for each peer, and below it what to know of runs that are not well.

Plain text: rich takes longer to lay a hundred rows out than they take to read.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssl_kd.system.text import print_line, printable

if TYPE_CHECKING:
    from ssl_kd.commands.runs import Row

HEADS = ("run", "method", "data", "peers", "state", "step", "kNN 20", "linear", "seen", "took")
FIRST_TO_GO = ("took", "data", "step", "method")  # where a terminal is too narrow
_RIGHT = HEADS[5:]
_COLOURS = {"running": 32, "failed": 31, "broken": 31, "killed": 33, "stopped": 33, "interrupted": 33}  # ANSI


def print_table(folder: Path, rows: Sequence["Row"], others: Sequence[str]) -> None:
    if rows:
        print_line(f"runs in {folder}")
        print_line()
        for line in _lines(rows):
            print(line)  # its cells are printable; the colours are ours
        print_line()
    else:
        print_line(f"there is no run in {folder}")
    for row in rows:
        if row.note:
            print_line(f"{row.run}: {row.note}")
    lost = [row.run for row in rows if row.state in ("killed", "interrupted")]
    if lost:
        print_line(f"the command that began it continues: {', '.join(lost)}")
    if others:
        print_line(f"no runs: {', '.join(others)}")


def _lines(rows: Sequence["Row"]) -> list[str]:
    cells = [line for row in rows for line in _cells(row)]
    terminal = sys.stdout.isatty()
    shown = list(HEADS)
    widths = {head: max(len(head), *(len(line[head]) for line in cells)) for head in HEADS}
    for head in FIRST_TO_GO:
        if terminal and sum(widths[h] + 2 for h in shown) > shutil.get_terminal_size().columns:
            shown.remove(head)
    lines = []
    for line in [{head: head for head in HEADS}, *cells]:
        texts = []
        for head in shown:
            text = line[head].rjust(widths[head]) if head in _RIGHT else line[head].ljust(widths[head])
            colour = _COLOURS.get(line[head]) if head == "state" and terminal else None
            texts.append(f"\x1b[{colour}m{text}\x1b[0m" if colour else text)
        lines.append("  ".join(texts).rstrip())
    return lines


def _cells(row: "Row") -> list[dict[str, str]]:
    """A line for each peer; what is the run's stands in the first."""
    step = "" if row.step is None else f"{row.step:,}" + (f"/{row.steps:,}" if row.steps else "")
    own = {
        "run": row.run,
        "method": row.method or "",
        "data": row.data or "",
        "state": row.state,
        "step": step,
        "seen": "" if row.age is None else f"{span(row.age)} ago",
        "took": "" if row.duration is None else span(row.duration),
    }
    lines = []
    for number, (name, scores) in enumerate(list(row.peers.items()) or [("", {})]):
        said = own if number == 0 else dict.fromkeys(own, "")
        percents = {"kNN 20": _percent(scores.get("knn")), "linear": _percent(scores.get("linear"))}
        cells = {**said, "peers": name, **percents}
        lines.append({head: printable(text) for head, text in cells.items()})
    return lines


def span(seconds: float) -> str:
    """A time in its largest unit: 40 s, 12 min, 3.5 h, 2 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            shown = seconds / size
            return f"{shown:.1f} {unit}" if unit == "h" and shown < 10 else f"{shown:.0f} {unit}"
    return f"{seconds:.0f} s"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
