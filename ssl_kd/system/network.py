"""Whether this process may go online. What reads a run may not: the run's config, which may be anybody's,
would say where to. Whoever starts something says so with `online=true` on the command line.

What of ours fetches something asks first (`ask`), and names the address. `fenced` is for what libraries do of
their own accord.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ssl_kd.errors import InputError

WORDS = "online=true on the command line (online=True of ssl_kd.load) allows it"
_SAID: ContextVar[bool | None] = ContextVar("online", default=None)  # None: nobody said anything
_HERE = ("localhost", "127.0.0.1", "::1", "")


class Offline(InputError):
    """What is needed would have to be fetched, and may not be. address: from where."""

    def __init__(self, sentence: str, address: str) -> None:
        super().__init__(sentence)
        self.address = address


def ask(what: str, address: str) -> None:
    """Before `what` is fetched from an address. Raises Offline where this process may not."""
    if not allowed():
        raise Offline(
            f"{what} would be fetched from {address}, and what a run says is not fetched by itself; {WORDS}",
            address,
        )


def allowed() -> bool:
    """Whether something may be fetched; where nobody said anything, it may."""
    return _SAID.get() is not False


@contextmanager
def online(allow: bool | None) -> Iterator[None]:
    """Inside, something may be fetched or not; None leaves it as it is."""
    token = _SAID.set(_SAID.get() if allow is None else allow)
    try:
        yield
    finally:
        _SAID.reset(token)


@contextmanager
def reading_a_run(allow: bool = False) -> Iterator[None]:
    """Inside, nothing is fetched unless this or the command line allows it."""
    with online(allow or _SAID.get() is True):
        yield


def taken(words: Sequence[str]) -> tuple[list[str], bool | None]:
    """The words without `online=`, and what that says. Raises InputError."""
    rest = [word for word in words if not word.startswith("online=")]
    said = [word.removeprefix("online=") for word in words if word.startswith("online=")]
    if any(value.lower() not in ("true", "false") for value in said):
        raise InputError("online must be true or false")
    return rest, said[-1].lower() == "true" if said else None


@contextmanager
def fenced() -> Iterator[None]:
    """Inside, no name is looked up and nothing outside this machine is connected to, in any thread."""
    look_up, by_name, connect = socket.getaddrinfo, socket.gethostbyname, socket.socket.connect

    def known(host: Any) -> bool:
        text = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        return text is None or text in _HERE

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(host: Any, *rest: Any, **options: Any) -> Any:
            if not known(host):
                raise OSError(f"{host} is not asked: {WORDS}")
            return function(host, *rest, **options)

        return call

    def connected(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not known(address[0]):
            raise OSError(f"{address[0]} is not asked: {WORDS}")
        return connect(self, address)

    socket.getaddrinfo, socket.gethostbyname = guarded(look_up), guarded(by_name)
    socket.socket.connect = connected  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        socket.getaddrinfo, socket.gethostbyname = look_up, by_name
        socket.socket.connect = connect  # type: ignore[method-assign]
