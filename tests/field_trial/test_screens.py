"""Names that steer terminals: nothing that is printed, and no page, passes them on."""

import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from rich.table import Table

import ssl_kd
from ssl_kd.cli import main
from ssl_kd.console import Meter, console, stacked
from ssl_kd.system.text import guard_streams, print_line, printable, printable_values

ESC, BEL, OSC, C1 = "\x1b[31m", "\x07", "\x1b]0;owned\x07", "\x9b31m"
BIDI, LINE, RAW, DEL = "\u202egnp.exe", "two\nlines", "caf\udce9", "\x7f"
ODD = [
    ESC,
    BEL,
    OSC,
    C1,
    BIDI,
    LINE,
    RAW,
    DEL,
    "\x85",
    "\u2028",
    "\u2066",
    "\x00",
    "\r",
    "\t",
    "\ud800",
    "\ufeff",
]


def clean(text: str) -> None:
    """Nothing but line ends is unprintable, and all of it can be written."""
    odd = {c for c in text if not c.isprintable()} - {"\n"}
    assert not odd, odd
    text.encode()


@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_what_is_not_to_be_seen_becomes_its_escape(odd):
    shown = printable(f"a{odd}b")
    assert shown.isprintable() and shown.startswith("a") and shown.endswith("b") and "\\" in shown


@pytest.mark.parametrize("name", ["cat", "Größe 3", "猫", "кошка", "😀", "a\\b", "[red]x[/red]", ":cat:"])
def test_letters_of_every_script_stay(name):
    assert printable(name) == name


def test_nested_values_keep_their_shape():
    assert printable_values({ESC: [1, None, (BEL, 2.5)]}) == {"\\x1b[31m": [1, None, ["\\x07", 2.5]]}


def test_tables_and_lines_show_names_as_they_are(capsys):
    name = f"[red]{ESC}{LINE}{RAW}:cat:"
    table = Table(title=name, caption=name)
    table.add_column(name)
    table.add_row(name)
    table.add_row(stacked(name, "below"))
    console().print(table)
    console().print(name, soft_wrap=True)
    printed = capsys.readouterr().out
    clean(printed)
    assert printed.count("[red]\\x1b[31mtwo\\nlines\\udce9"[:20]) == 6 and "😺" not in printed
    assert printed.endswith("[red]\\x1b[31mtwo\\nlinescaf\\udce9:cat:\n")


def test_a_meter_shows_names_as_they_are(capsys):
    meter = Meter(2, 0)
    meter.report(2, {f"{ESC}[red]a": 1.0}, 5.0)
    meter.say(OSC)
    printed = capsys.readouterr().out
    clean(printed)
    assert "\\x1b[31m[red]a 1.000" in printed and "\\x1b]0;owned\\x07" in printed


def test_a_bar_on_a_terminal_shows_names_as_they_are(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with redirect_stdout(screen):
        meter = Meter(2, 0)
        meter.report(1, {f"{OSC}[red]a": 1.0}, 5.0)
        meter.close()
    assert "\\x1b]0;owned\\x07[red]a 1.000" in screen.getvalue() and BEL not in screen.getvalue()


def test_a_traceback_is_printable(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr("warnings.showwarning", None)
    guard_streams()
    sys.excepthook(ValueError, ValueError(f"{ESC}{RAW}"), None)
    printed = capsys.readouterr().err
    clean(printed)
    assert printed == "ValueError: \\x1b[31mcaf\\udce9\n"


def test_nothing_is_printed_but_through_one_place():
    """A call of print() elsewhere would pass names on as they are."""
    allowed = {
        "system/text.py": 2,
        "commands/runs_table.py": 1,
    }  # the latter: cells that are printable, colours
    for path in sorted(Path(ssl_kd.__file__).parent.rglob("*.py")):
        prints = len(re.findall(r"(?<![\w.])print\(|std(?:out|err)\.write\(", path.read_text()))
        assert prints == allowed.get(path.relative_to(Path(ssl_kd.__file__).parent).as_posix(), 0), path


def test_a_refusal_shows_the_name_as_it_is(capsys):
    assert main(["runs", f"folder=x{ESC}{LINE}"]) == 2
    said = capsys.readouterr().err
    clean(said)
    assert said.count("\n") == 1 and "x\\x1b[31mtwo\\nlines" in said


def test_print_line_keeps_to_one_line(capsys):
    print_line(Path(LINE))
    assert capsys.readouterr().out == "two\\nlines\n"
