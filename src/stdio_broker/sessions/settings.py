"""How many sessions, and for how long."""

import math
from dataclasses import dataclass, field

from ..supervisor.restart import RestartPolicy

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Bounds of the sessions of one node.

    Attributes:
        max_sessions: Sessions at once; and children at once, of sessions and for requests without
            one, those counted that are being started or stopped.
        max_starting: Children that are being started at once. A start costs far more than a
            running child (interpreters, package managers); the others queue.
        start_timeout: Seconds from the start of a child to its answer to its first request. A package
            manager may download the server first.
        queue_timeout: Seconds that a request waits for its turn to start a child.
        idle_timeout: Seconds without a request after which a session is ended. An open GET stream
            does not keep it alive: its client may have vanished without a word. The same for a child
            that serves requests without a session and owes nobody anything.
        retry_after: Seconds that a refused client is told to wait, and for which a server is not asked
            again that speaks only what we do not.
        breaker: When a server that keeps failing is left alone, and for how long. A start is well at
            once when the server answers (see `admission`). `stable_after` counts for the streams of
            changes of a child that crashed: if too many end earlier in a row, they are not handed on.

    Raises:
        ValueError: A value is out of range; the message names it, and what it expects.
    """

    max_sessions: int = 256
    max_starting: int = 8
    start_timeout: float = 60.0
    queue_timeout: float = 30.0
    idle_timeout: float = 1800.0
    retry_after: float = 5.0
    breaker: RestartPolicy = field(default_factory=RestartPolicy)

    def __post_init__(self) -> None:
        """Check every field; the first mistake is named."""
        for name in ("start_timeout", "queue_timeout", "idle_timeout", "retry_after"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name}: expected seconds, more than 0, found {seconds!r}")
        for name in ("max_sessions", "max_starting"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, found {getattr(self, name)!r}")
