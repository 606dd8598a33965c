"""When may a child that failed be started again? Intensity, back-off, breaker. Pure.

    CLOSED ──── more than `max_restarts` failures within `window` ────▶ OPEN
    OPEN ────── the back-off is over, and somebody wants to start ────▶ HALF_OPEN: one trial
    HALF_OPEN ─ the trial fails ──────────────────────────────────────▶ OPEN, for longer
    OPEN, HALF_OPEN ─ a child is well ────────────────────────────────▶ CLOSED

The time is passed in, and so is chance. Sources: Erlang/OTP, `supervisor`, "Maximum Restart
Intensity"; M. Brooker, "Exponential Backoff and Jitter" ("full jitter": many who failed together
must not come back together); M. Nygard, "Release It!", "Circuit Breaker".
"""

import enum
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NewType

from ..errors import ChildError
from .status import ExitStatus

__all__ = ["Attempt", "Breaker", "BreakerState", "BreakerStatistics", "RestartPolicy", "RestartsExhausted"]

#: A start that was let through. Its number tells which opening of the breaker it came after.
Attempt = NewType("Attempt", int)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How often, and how fast, a child that fails is started again.

    Args:
        max_restarts: Failures within `window` that are borne; one more is too many. 0 bears none.
        window: Seconds that a failure counts.
        first_backoff: Longest wait after the first failure, in seconds; it doubles with each one
            that follows. The wait itself is anything from 0 up to it.
        max_backoff: Where the doubling ends, in seconds.
        stable_after: Seconds after which a living child is well, and earlier failures are forgotten.

    Raises:
        ValueError: A value is out of range; the message names the field, and what it expects.
    """

    max_restarts: int = 3
    window: float = 60.0
    first_backoff: float = 0.1
    max_backoff: float = 30.0
    stable_after: float = 30.0

    def __post_init__(self) -> None:
        """Check every field; the first mistake is named."""
        if self.max_restarts < 0:
            raise ValueError(f"max_restarts: expected 0 or more, found {self.max_restarts!r}")
        for name in ("window", "stable_after"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name}: expected seconds, more than 0, found {seconds!r}")
        for name in ("first_backoff", "max_backoff"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ValueError(f"{name}: expected seconds, 0 or more, found {seconds!r}")
        if self.max_backoff < self.first_backoff:
            raise ValueError(
                f"max_backoff: expected at least first_backoff ({self.first_backoff!r}), "
                f"found {self.max_backoff!r}"
            )


class BreakerState(enum.Enum):
    """What a breaker does with a start."""

    CLOSED = "closed"  #: lets every one through
    OPEN = "open"  #: lets none through, until the back-off is over
    HALF_OPEN = "half-open"  #: has let one through, as a trial, and waits for its outcome


@dataclass(frozen=True, slots=True)
class BreakerStatistics:
    """A snapshot.

    Attributes:
        state: What it does with a start.
        failures: Failures within the window, counted up to one more than the policy bears.
        retry_after: Seconds until the next trial is let through; 0 if one may come now, or is
            under way, and while the breaker is closed.
        last_reason: Why the last start failed; None if none has since a child was well. For
            operators: it may name the command.
    """

    state: BreakerState
    failures: int
    retry_after: float
    last_reason: str | None


class RestartsExhausted(ChildError):
    """A child that shall always run fails too often to go on. The cause is the last `SpawnError`, if any.

    Attributes:
        exit_status: How it ended the last time; None if it could not even be started.
    """

    def __init__(self, message: str, *, exit_status: ExitStatus | None) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Breaker:
    """Decide whether a start makes sense, from how the earlier ones went.

    Ask with `try_start`, and tell the outcome by `succeeded`, `failed` or `abandoned`: a trial
    whose outcome is not told keeps everybody else out. A child that was well may have failed
    later, too; `abandoned` after one of the others changes nothing. It keeps the times of at most
    `max_restarts` + 1 failures.

    Args:
        policy: How much is borne.
        uniform: Returns a random number between two, as `random.uniform` does.
    """

    __slots__ = (
        "_backoff",
        "_failures",
        "_openings",
        "_policy",
        "_reason",
        "_retry_at",
        "_state",
        "_uniform",
    )

    def __init__(self, policy: RestartPolicy, *, uniform: Callable[[float, float], float]) -> None:
        self._policy = policy
        self._uniform = uniform
        self._state = BreakerState.CLOSED
        self._failures: deque[float] = deque(maxlen=policy.max_restarts + 1)
        # The bound itself is kept, not an exponent: that would overflow some day.
        self._backoff = policy.first_backoff
        self._retry_at = -math.inf
        self._openings = 0
        self._reason: str | None = None

    @property
    def state(self) -> BreakerState:
        """What it does with a start. It stays open after its back-off until somebody asks."""
        return self._state

    def admits(self, now: float) -> bool:
        """Whether `try_start` would let a start through."""
        if self._state is BreakerState.OPEN:
            return now >= self._retry_at
        return self._state is BreakerState.CLOSED

    def try_start(self, now: float) -> Attempt | None:
        """Let a start through, or not: None."""
        if not self.admits(now):
            return None
        if self._state is BreakerState.OPEN:
            self._state = BreakerState.HALF_OPEN
        return Attempt(self._openings)

    def succeeded(self) -> bool:
        """Note that a child is well, and forget the failures; return whether that closed the breaker.

        Any child: one that was slow to start, and was overtaken by the failures of others, tells
        as much as a trial.
        """
        was_closed = self._state is BreakerState.CLOSED
        self._state = BreakerState.CLOSED
        self._failures.clear()
        self._backoff = self._policy.first_backoff
        self._retry_at = -math.inf
        self._reason = None
        return not was_closed

    def failed(self, attempt: Attempt | None, now: float, reason: str) -> bool:
        """Note that a start has failed; return whether that opened a closed breaker.

        What was started before the breaker opened last is part of the same storm: it changes nothing.
        """
        if attempt != self._openings:
            return False
        self._failures.append(now)
        self._reason = reason
        self._retry_at = now + self._uniform(0.0, self._backoff)
        self._backoff = min(self._policy.max_backoff, 2 * self._backoff)
        was_closed = self._state is BreakerState.CLOSED
        if was_closed and self.failures(now) <= self._policy.max_restarts:
            return False
        self._state = BreakerState.OPEN
        self._openings += 1
        return was_closed

    def abandoned(self, attempt: Attempt) -> None:
        """Note that a start came to nothing, but not by the child's fault: the next one may try."""
        if self._state is BreakerState.HALF_OPEN and attempt == self._openings:
            self._state = BreakerState.OPEN

    def backoff(self, now: float) -> float:
        """Seconds to wait before the next start. A closed breaker does not insist on it."""
        return max(0.0, self._retry_at - now)

    def statistics(self, now: float) -> BreakerStatistics:
        """Return a snapshot."""
        return BreakerStatistics(
            state=self._state,
            failures=self.failures(now),
            retry_after=self.backoff(now) if self._state is BreakerState.OPEN else 0.0,
            last_reason=self._reason,
        )

    def failures(self, now: float) -> int:
        """Failures within the window, counted up to one more than the policy bears."""
        return sum(now - failure <= self._policy.window for failure in self._failures)
