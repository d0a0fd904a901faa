"""What a user did wrong, said in one sentence."""

import os
import sys
import time
from collections.abc import Callable

from ssl_kd.system.text import print_line


class InputError(ValueError):
    """Bad input: the commands print its one sentence and exit with code 2."""


def nearest(name: str, known: list[str]) -> str:
    """The end of a refusal: `did you mean "x"?`, or the list of what exists when nothing is near."""
    import difflib

    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if match:
        return f'did you mean "{match[0]}"?'
    return "there are: " + ", ".join(sorted(known)) if known else "there are none"


def guarded(work: Callable[[list[str]], int], words: list[str]) -> int:
    """Runs `work(words)`; bad input becomes one sentence on stderr and exit code 2."""
    from ssl_kd.signals import own_process
    from ssl_kd.system.safe_path import away_from_current_folder

    own_process(words)
    try:
        with away_from_current_folder():
            code = work(words)
        return code if (full := _flush()) is None else _refuse(full)
    except InputError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from ssl_kd.machine import lacks_memory
        from ssl_kd.system.writing import unwritten

        if lost := unwritten(error):
            _flush()
            return _refuse(f"{lost}; once it can be, the same command continues")
        if advice := lacks_memory(error):
            return _refuse(advice)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # Most likely another process is ending: what it says is the cause, and this one is ended with it.
            time.sleep(6)
        raise


def _flush() -> str | None:
    """Hands out what was printed; a sentence where it has no place to go. Who reads it may have gone."""
    try:
        sys.stdout.flush()
    except OSError as error:
        if (own := sys.__stdout__) is not None and sys.stdout is own:
            # Or Python would try again at its end, and fail.
            os.dup2(os.open(os.devnull, os.O_WRONLY), own.fileno())
        if isinstance(error, BrokenPipeError) or _said():
            return None
        return f"standard output could not be written ({error.strerror})"
    return None


def _said() -> bool:
    """Whether a screen has already said that what is printed is lost."""
    console = sys.modules.get("ssl_kd.console")
    return console is not None and console.Screen.lost


def _refuse(sentence: str) -> int:
    follower = os.environ.get("RANK", "0") != "0"
    if follower:
        time.sleep(3)  # where the first process met the same, it says so, and this one is ended
    print_line(f"ssl-kd: {sentence.strip()}", sys.stderr)  # names in it may be anybody's
    if follower:
        os._exit(2)  # an orderly end would first wait for the others, who wait for this one
    return 2
