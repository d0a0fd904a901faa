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
            return work(words)
    except InputError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from ssl_kd.machine import lacks_memory

        if advice := lacks_memory(error):
            return _refuse(advice)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # Most likely another process is ending: what it says is the cause, and this one is ended with it.
            time.sleep(6)
        raise


def _refuse(sentence: str) -> int:
    follower = os.environ.get("RANK", "0") != "0"
    if follower:
        time.sleep(3)  # where the first process met the same, it says so, and this one is ended
    print_line(f"ssl-kd: {sentence.strip()}", sys.stderr)  # names in it may be anybody's
    if follower:
        os._exit(2)  # an orderly end would first wait for the others, who wait for this one
    return 2
