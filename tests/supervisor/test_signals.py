"""What we ignore is not ignored by children once the program has said so."""

import os
import signal
from collections.abc import Iterator

import pytest

from stdio_broker.supervisor import drop_inherited_ignores

CHANGED = (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Restore the handlers that the tests change."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler and handler is not None:
            signal.signal(number, handler)


def test_an_ignored_signal_is_still_ignored_but_by_a_handler() -> None:
    """A handler is reset by exec; an ignored signal stays ignored. Source: execve(2)."""
    for number in CHANGED:
        signal.signal(number, signal.SIG_IGN)
    drop_inherited_ignores()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        assert callable(signal.getsignal(number))
        os.kill(os.getpid(), number)


def test_an_ignored_sigchld_goes_back_to_its_default() -> None:
    """It would eat every exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    drop_inherited_ignores()
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


def test_what_is_not_ignored_stays_as_it_is() -> None:
    def handler(number: int, frame: object) -> None:
        """Stand for a handler of the program's."""

    signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGCHLD, handler)
    pipe = signal.getsignal(signal.SIGPIPE)
    drop_inherited_ignores()
    assert signal.getsignal(signal.SIGUSR1) is handler
    assert signal.getsignal(signal.SIGCHLD) is handler
    assert signal.getsignal(signal.SIGPIPE) is pipe
