"""What a user did wrong, said in one sentence."""

import os
import sys
from collections.abc import Callable


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
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # the user's own functions, by `_target_`
    try:
        return work(words)
    except InputError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"ssl-kd: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
