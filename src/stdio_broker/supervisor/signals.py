"""What children would inherit of our signals, and must not. Source: execve(2), sigaction(2).

A handler is reset by exec, but an ignored signal (nohup, for one) stays ignored, and a blocked one
blocked: SIGTERM could not stop a child.
"""

import contextlib
import signal
from collections.abc import Iterator

__all__ = ["drop_inherited_ignores", "nothing_blocked"]

#: Python ignores these two itself, and Popen restores them in children.
_RESTORED = {signal.SIGPIPE, signal.SIGXFSZ}
_FIXED = {signal.SIGKILL, signal.SIGSTOP}


def drop_inherited_ignores() -> None:
    """Go on ignoring what we ignore, in a way that children do not inherit. Only in the main thread."""
    for number in signal.valid_signals() - _RESTORED - _FIXED:
        if signal.getsignal(number) is signal.SIG_IGN:
            # SIGCHLD back to its default: ignored, it would eat every exit status.
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else _ignore)


@contextlib.contextmanager
def nothing_blocked() -> Iterator[None]:
    """Block no signal in this thread, within the block: a process inherits the mask of its thread.

    One that blocks SIGTERM makes children that SIGTERM cannot stop. Only for as long as it takes,
    because a program that blocks a signal everywhere, to fetch it with sigwait, must not find it
    delivered here.
    """
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _ignore(number: int, frame: object) -> None:
    """Do nothing, as the system did."""
