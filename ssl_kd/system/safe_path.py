"""Where modules are imported from: never from the folder that the user stands in, which may be anybody's.

Libraries look for some thirty modules that are often not there; a file of such a name beside somebody's
images would be executed. What the user's own options name is loaded by its file's path: `ssl_kd.own`.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_HOME = os.path.dirname(PACKAGE)  # the folder that makes ssl_kd importable
_SCRIPTS = (PACKAGE, os.path.join(_HOME, "eval"))  # `python FILE` puts the folder of such a file first
_SAFE, _PATHS = "PYTHONSAFEPATH", "PYTHONPATH"


def leave_current_folder() -> None:
    """Takes the current folder, and that of a script of ours, off the path of this process and its children.

    An entry of PYTHONPATH that is empty or relative means the current folder or lies in it, and goes, too;
    one that is absolute is the user's own word.
    """
    said = os.environ.get(_PATHS, "").split(os.pathsep)
    theirs = {os.path.realpath(entry) for entry in (_HOME, *said) if os.path.isabs(entry)}
    gone = {os.path.realpath(entry) for entry in _scripts()}
    with suppress(FileNotFoundError):  # the current folder was deleted: then nothing is found in it either
        gone |= {os.path.realpath(entry) for entry in (".", *said) if not os.path.isabs(entry)}
    gone -= theirs
    sys.path[:] = [e for e in sys.path if os.path.isabs(e) and os.path.realpath(e) not in gone]
    if _HOME not in sys.path:
        sys.path.append(_HOME)
    os.environ[_SAFE] = "1"  # for every Python that is started from here, by libraries, too
    if _PATHS in os.environ:
        os.environ[_PATHS] = os.pathsep.join(entry for entry in said if os.path.isabs(entry))


@contextmanager
def away_from_current_folder() -> Iterator[None]:
    """`leave_current_folder` for a while: a program that calls a command gets its own path back."""
    path, variables = list(sys.path), {name: os.environ.get(name) for name in (_SAFE, _PATHS)}
    leave_current_folder()
    try:
        yield
    finally:
        sys.path[:] = path
        for name, value in variables.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def python(module: str, words: list[str]) -> list[str]:
    """The command that runs a module of ours in a process of its own, without the current folder."""
    return [sys.executable, "-P", "-m", module, *words]


def environment(**more: str) -> dict[str, str]:
    """The variables of such a process: ours, and where ssl_kd is found, which may be no installed folder."""
    said = [entry for entry in os.environ.get(_PATHS, "").split(os.pathsep) if os.path.isabs(entry)]
    home = [_HOME] if os.path.basename(_HOME) not in ("site-packages", "dist-packages") else []
    paths = os.pathsep.join([*said, *(entry for entry in home if entry not in said)])
    return {**os.environ, _SAFE: "1", **({_PATHS: paths} if paths else {}), **more}


def _scripts() -> list[str]:
    """The folder of the script that this process runs, where it is one of ours."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    folder = os.path.dirname(os.path.abspath(file)) if file else ""
    return [folder] if folder in _SCRIPTS else []
