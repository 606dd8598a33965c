"""How many sessions, and for how long."""

from dataclasses import dataclass

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Bounds of the sessions of one node.

    Attributes:
        max_sessions: Sessions at once, those counted whose child is being started or stopped. Each
            has a child of its own, so this bounds processes too.
        max_starting: Children that are being started at once. A start costs far more than a
            running child (interpreters, package managers); the others queue.
        start_timeout: Seconds from the start of a child to its answer to `initialize`. A package
            manager may download the server first.
        queue_timeout: Seconds that an `initialize` waits for its turn to start a child.
        idle_timeout: Seconds without a request after which a session is ended. An open GET stream
            does not keep it alive: its client may have vanished without a word.
        retry_after: Seconds that a refused client is told to wait.
    """

    max_sessions: int = 256
    max_starting: int = 8
    start_timeout: float = 60.0
    queue_timeout: float = 30.0
    idle_timeout: float = 1800.0
    retry_after: float = 5.0
