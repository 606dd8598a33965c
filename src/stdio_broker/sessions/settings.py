"""How many sessions, and for how long; and what becomes of them when their child ends."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from ..supervisor.restart import RestartPolicy

__all__ = ["Recovery", "Settings"]

#: What becomes of a session whose child has ended: it gets another one, or ends too.
Recovery = Literal["replay", "end"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Bounds of the sessions of one server.

    Attributes:
        max_sessions: Sessions at once, those counted that have no child now.
        max_children: Children at once, of sessions and for requests without one, those counted that are
            being started or stopped; None is as many as sessions.
        start_timeout: Seconds from the start of a child to its answer to its first request. A package
            manager may download the server first.
        recovery: "replay": a session outlives its child. One that crashed, was idle, or has an old
            credential is replaced by a fresh one, to which is said again what the client has said to
            all of it: `initialize`, the log level, subscriptions. Calls in flight fail all the same.
            "end": the session ends with its child; for servers that keep in memory what clients rely on.
        idle_timeout: Seconds without a request after which a child is stopped that owes nobody anything;
            its session sleeps until the next request, or ends where there is no replay. An open GET
            stream does not keep it alive: its client may have vanished without a word.
        session_timeout: Seconds without a request after which a session ends that sleeps.
        drain_timeout: Seconds that the calls of a child which is being replaced have to finish.
        refresh_interval: Seconds between two looks at the credential of whoever has a child.
        retry_after: Seconds that a refused client is told to wait, and for which a server is not asked
            again that speaks only what we do not.
        breaker: When a server that keeps failing is left alone, and for how long. A start is well at
            once when the server answers (see `admission`). `stable_after` counts for children that are
            replaced after a crash: if too many end earlier in a row, that goes on no further.

    Raises:
        ValueError: A value is out of range; the message names it, and what it expects.
    """

    max_sessions: int = 256
    max_children: int | None = None
    start_timeout: float = 60.0
    recovery: Recovery = "replay"
    idle_timeout: float = 1800.0
    session_timeout: float = 86_400.0
    drain_timeout: float = 60.0
    refresh_interval: float = 30.0
    retry_after: float = 5.0
    breaker: RestartPolicy = field(default_factory=RestartPolicy)

    @property
    def places(self) -> int:
        """How many children there may be."""
        return self.max_sessions if self.max_children is None else self.max_children

    def __post_init__(self) -> None:
        """Check every field; the first mistake is named."""
        for name in (
            "start_timeout",
            "idle_timeout",
            "session_timeout",
            "drain_timeout",
            "refresh_interval",
            "retry_after",
        ):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name}: expected seconds, more than 0, found {seconds!r}")
        for name in ("max_sessions", "max_children"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name}: expected 1 or more, found {number!r}")
        if self.recovery not in get_args(Recovery):
            raise ValueError(f'recovery: expected "replay" or "end", found {self.recovery!r}')
