"""Entry point: `accelerate launch ssl_kd/train.py key=value ...`, or `ssl-kd train`, which is the same."""

import os
import sys
from collections.abc import Sequence

if not __package__:  # run as a script: its folder must not shadow other modules
    _folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.path.dirname(_folder), *(entry for entry in sys.path if entry not in ("", _folder))]


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what `argv` describes; returns the exit code, which `ssl-kd train --help` explains."""
    from ssl_kd.errors import guarded
    from ssl_kd.system.safe_path import leave_current_folder
    from ssl_kd.system.text import guard_streams

    if argv is None:
        leave_current_folder()
        guard_streams()
    return guarded(_main, list(sys.argv[1:] if argv is None else argv))


def _main(words: list[str]) -> int:
    from ssl_kd.config import compose
    from ssl_kd.launch import launched, spawn
    from ssl_kd.own.words import starting

    with starting(words) as rest:
        config = compose(rest)
        if config.processes and config.processes > 1 and not launched():
            return spawn(words, config.processes, config.device)
        from ssl_kd.training import train

        return train(config)


if __name__ == "__main__":
    sys.exit(main())
