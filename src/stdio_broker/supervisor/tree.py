"""One child with everything that belongs to it: its exit watch and its containment, joined.

Also what is done for children that nobody stops: at the end of the program all of them are killed.
"""

import atexit
import contextlib
import os
import signal
import weakref

from .containment import Containment
from .exit_watch import ExitWatch, Waited

__all__ = ["ProcessTree"]


class ProcessTree:
    """The process that was started, its group, and what left the group.

    Args:
        watch: Of the process.
        containment: Of its descendants.
    """

    __slots__ = ("__weakref__", "_containment", "_watch")

    def __init__(self, watch: ExitWatch, containment: Containment) -> None:
        self._watch = watch
        self._containment = containment
        _living.add(self)

    def terminate(self) -> None:
        """Send SIGTERM to the group, and SIGCONT: a stopped process cannot act on SIGTERM.

        Raises:
            PermissionError: It may not be signalled.
        """
        self._watch.signal_group(signal.SIGTERM)
        self._watch.signal_group(signal.SIGCONT)

    def kill(self) -> None:
        """Kill all of it, or begin to. While the process is not reaped, the group is its own.

        Raises:
            PermissionError: The group may not be signalled; what can be done otherwise is done.
        """
        try:
            if not self._containment.leader_sweeps:
                self._watch.signal_group(signal.SIGKILL)
        finally:
            self._containment.kill()

    def reap(self) -> Waited:
        """Collect the exit. Call once, after it; the number is a stranger's from then on."""
        return self._watch.reap()

    def alive(self, *, closely: bool) -> bool:
        """Return whether anything is left, as far as can be known. After `kill` and `reap`.

        Args:
            closely: Look whether those in the group are more than zombies; see `ExitWatch`.
        """
        return self._watch.group_alive(closely=closely) or self._containment.alive()

    def close(self) -> None:
        """Give it up: nothing is left, or nothing more can be done."""
        # First: the warden must not be told of a pidfd that is somebody else's by now.
        self._containment.close()
        self._watch.close()
        _living.discard(self)

    def release(self) -> tuple[int | None, Containment]:
        """Give the pidfd, if there is one, and the containment to the caller."""
        _living.discard(self)
        return self._watch.release(), self._containment


#: Trees that may still live, for the end of a program that stops none of them.
_living: weakref.WeakSet[ProcessTree] = weakref.WeakSet()


def _kill_at_exit() -> None:
    for tree in list(_living):
        with contextlib.suppress(OSError):
            tree.kill()


def _forget_after_fork() -> None:
    # They are the children of the process that we are a copy of.
    _living.clear()


atexit.register(_kill_at_exit)
os.register_at_fork(after_in_child=_forget_after_fork)
