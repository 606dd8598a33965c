"""Ignored signals that we inherited (nohup, for one), made harmless for children.

A handler is reset by exec, but an ignored signal stays ignored: SIGTERM could not stop a child.
What a thread *blocks* is inherited too; the spawner sees to that. Source: execve(2), sigaction(2).
"""

import signal

__all__ = ["drop_inherited_ignores"]

#: Python ignores these two itself, and Popen restores them in children.
_RESTORED = {signal.SIGPIPE, signal.SIGXFSZ}
_FIXED = {signal.SIGKILL, signal.SIGSTOP}


def drop_inherited_ignores() -> None:
    """Go on ignoring what we ignore, in a way that children do not inherit. Only in the main thread."""
    for number in signal.valid_signals() - _RESTORED - _FIXED:
        if signal.getsignal(number) is signal.SIG_IGN:
            # SIGCHLD back to its default: ignored, it would eat every exit status.
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else _ignore)


def _ignore(number: int, frame: object) -> None:
    """Do nothing, as the system did."""
