"""`ssl-kd` commands as processes of their own that need not import torch again: forked from one that has.

For tests of what happens between processes and files: signals, kills, locks, limits. What a launcher does,
and how fast a command answers, needs the real command.
"""

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from multiprocessing.context import ForkServerContext
from pathlib import Path

_CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
_PRELOADED = "pytest torch._dynamo sklearn.linear_model rich.console ssl_kd.training ssl_kd.train tests.warm"
_CONTEXT.set_forkserver_preload(_PRELOADED.split())


class Command:
    """As subprocess.Popen, of `ssl-kd WORDS`.

    limit: bytes that its files may not grow beyond, what a full disk does to a write.
    """

    def __init__(self, *words: str, cwd: Path | str = ".", limit: int | None = None):
        self._said = Path(tempfile.mkdtemp())
        arguments = (words, Path(cwd).absolute(), self._said, dict(os.environ), limit)
        self._process = _CONTEXT.Process(target=_main, args=arguments)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 120) -> int:
        self._process.join(timeout)
        assert self.returncode is not None, f"still running after {timeout} s"
        return self.returncode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Standard output, standard error; once it has ended."""
        self.wait(timeout)
        return self.stdout, self.stderr

    @property
    def stdout(self) -> str:
        return (self._said / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self._said / "stderr").read_text()


def run(*words: str, cwd: Path | str = ".", limit: int | None = None, timeout: float = 600) -> Command:
    """The command once it has ended."""
    command = Command(*words, cwd=cwd, limit=limit)
    command.wait(timeout)
    return command


def _main(
    words: tuple[str, ...], folder: Path, said: Path, environment: dict[str, str], limit: int | None
) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        with open(said / name, "w") as file:
            os.dup2(file.fileno(), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    sys.argv, sys.dont_write_bytecode = ["ssl-kd", *words], True
    from ssl_kd.cli import main

    sys.exit(main(list(words)))
