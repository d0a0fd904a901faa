"""A case of the field trial: where it comes from, its input, and the one right outcome.

A refusal is one sentence with a way out and exit code 2, after which everything lies as it did before. Each
file beside this one is a table of the cases of one kind.
"""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ssl_kd.cli import main


@dataclass(frozen=True)
class Case:
    """source: the kind of report, as in "16-bit images come out black".

    prepare: makes the input in the current folder, which is empty but for `home`, the user's home.
    words: of the command. says: a regular expression of the refusal on standard error;
    None where it is to succeed. holds: looks at what a success printed and left in the current folder.
    """

    name: str
    source: str
    words: list[str]
    says: str | None = None
    prepare: Callable[[], None] = lambda: None
    holds: Callable[[str], None] = lambda printed: None


def snapshot(folder: Path | str = ".") -> dict[str, str]:
    """Kind, mode, size and hash of all that lies in a folder. Pipes and devices are not opened."""
    kept = {}
    for path in sorted(Path(folder).rglob("*")):
        found = path.lstat()
        if path.is_symlink():
            kept[str(path)] = f"link {os.readlink(path)}"
        elif path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            kept[str(path)] = f"file {found.st_mode:o} {found.st_size} {digest}"
        else:
            kept[str(path)] = f"other {found.st_mode:o}"
    return kept


def check(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs the case in the current folder, within this process."""
    case.prepare()
    before = snapshot()
    capsys.readouterr()
    code = main(case.words)
    printed = capsys.readouterr()
    if case.says is None:
        assert code == 0, printed.err
        case.holds(printed.out)
    else:
        check_refusal(code, printed.err, case.says)
        assert snapshot() == before


def check_refusal(code: int, error: str, says: str) -> None:
    """One sentence on standard error, exit code 2."""
    assert code == 2, error
    assert error.startswith("ssl-kd: ") and error.count("\n") == 1 and error.endswith("\n"), error
    assert "Traceback" not in error and re.search(says, error), error
