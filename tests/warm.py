"""`ssl-kd` commands as processes of their own that need not import torch again: forked from one that has.

For tests of what happens between processes and files: signals, kills, locks, limits. What a launcher does,
and how fast a command answers, needs the real command.
"""

import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

_CONTEXT: ForkServerContext = multiprocessing.get_context("forkserver")
_PRELOADED = (
    "pytest torch._dynamo sklearn.linear_model sklearn.datasets rich.console ssl_kd.training ssl_kd.train "
    "ssl_kd.testing.worker tests.warm"
)
_CONTEXT.set_forkserver_preload(_PRELOADED.split())


class Command:
    """As subprocess.Popen, of `ssl-kd WORDS`.

    limit: bytes that its files may not grow beyond, what a full disk does to a write. module: what is run, as
    by `python -P -m`. env: its variables, in place of those of this process.
    """

    def __init__(
        self,
        *words: str,
        cwd: Path | str = ".",
        limit: int | None = None,
        module: str = "ssl_kd",
        env: Mapping[str, str] | None = None,
    ):
        self._said = Path(tempfile.mkdtemp())
        variables = dict(os.environ if env is None else env)
        arguments = (module, words, Path(cwd).absolute(), self._said, variables, limit)
        self._process = _CONTEXT.Process(target=_main, args=arguments)
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

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


class _Popen(Command):
    """Of `python -P -m MODULE WORDS`; what it says is in `stdout` once it was waited for, or printed."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        stdout: IO[str] | None = None,
        stderr: Any = None,
    ):
        assert [*command[1:3]] == ["-P", "-m"]
        super().__init__(*command[4:], module=command[3], env=env)
        self._out = sys.stdout if stdout is None else stdout

    def wait(self, timeout: float = 600) -> int:
        code = super().wait(timeout)
        self._out.write(self.stdout + self.stderr)
        return code


def _run(command: Sequence[str], env: Mapping[str, str], **options: Any) -> Command:
    child = Command(*command[4:], module=command[3], env=env)
    child.wait(600)
    return child


# In place of `subprocess` in a module of ours that starts processes of ours.
_PROCESSES = SimpleNamespace(Popen=_Popen, run=_run, STDOUT=subprocess.STDOUT)


@contextmanager
def processes() -> Iterator[None]:
    """While inside, processes of ours that modules of ours start are forked."""
    from ssl_kd import launch, study, testing

    with pytest.MonkeyPatch.context() as patch:
        for module in (launch, study, testing):
            patch.setattr(module, "subprocess", _PROCESSES)
        yield


def _main(
    module: str,
    words: tuple[str, ...],
    folder: Path,
    said: Path,
    variables: dict[str, str],
    limit: int | None,
) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        with open(said / name, "w") as file:
            os.dup2(file.fileno(), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    sys.argv, sys.dont_write_bytecode = [module, *words], True
    if module == "ssl_kd":
        from ssl_kd.cli import main

        sys.argv[0] = "ssl-kd"
        sys.exit(main(list(words)))
    ahead = [entry for entry in variables.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(entry)]
    sys.path[:] = [*dict.fromkeys([*ahead, *filter(os.path.isabs, sys.path)])]
    warnings.filterwarnings("ignore", "'ssl_kd.* found in sys.modules")
    runpy.run_module(module, run_name="__main__", alter_sys=True)
