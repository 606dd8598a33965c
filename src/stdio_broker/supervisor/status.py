"""How a child ended. Pure values."""

import enum
import signal as signals
from dataclasses import dataclass

__all__ = ["ExitStatus", "Phase"]


class Phase(enum.Enum):
    """The step of the stop ladder at which the child ended."""

    SELF = "self"  #: by itself: nobody had asked it to
    EOF = "eof"  #: after its stdin was closed
    TERM = "term"  #: after SIGTERM
    KILL = "kill"  #: after SIGKILL
    UNKILLABLE = "unkillable"  #: it has not ended, though SIGKILL was sent (state D)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """The whole truth about an end.

    Attributes:
        code: Exit code 0…255; None if a signal ended the child, or the status is unknown
            because somebody else collected it (SIGCHLD ignored).
        signal: Number of the signal that ended the child, or None.
        core: Whether it dumped core; never known behind a shim.
        phase: Why it ended.
        pipes_held: A process that left the group held stdout or stderr open past `drain_grace`.
        survivors: Members of the process group, or of what else held its descendants together, were
            still alive when we gave up.
        stdin_dropped: Bytes that were accepted for stdin and never written.
        stdout_discarded: Bytes of stdout that nobody read in time.
        stderr_dropped: Lines of stderr that the callback was too slow for.
    """

    code: int | None
    signal: int | None
    core: bool = False
    phase: Phase = Phase.SELF
    pipes_held: bool = False
    survivors: bool = False
    stdin_dropped: int = 0
    stdout_discarded: int = 0
    stderr_dropped: int = 0

    @property
    def ok(self) -> bool:
        """Whether the child exited with code 0, or obeyed a stop that we asked for."""
        return self.code == 0 or self.phase in {Phase.EOF, Phase.TERM}

    def __str__(self) -> str:
        """Say it in words, for logs."""
        if self.phase is Phase.UNKILLABLE:
            return "has not ended, although SIGKILL was sent"
        if self.signal is not None:
            return f"ended by {_signal_name(self.signal)}{' (core dumped)' if self.core else ''}"
        if self.code is None:
            return "ended with an unknown status"
        return f"exited with code {self.code}"


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
