"""What one node has to give, and how much of it one principal may have, across all servers.

A session and a child are taken before they are there, and given back when nothing is left of them; a
call is counted while it is in flight; a turn is held while a child starts. Who is refused learns which
limit it was and whose: one's own (another principal is not affected), or the node's.

Limits of one server are `admission`'s. Knows no server, session or child, only how many there are.
"""

import asyncio
import contextlib
import enum
import math
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..bridge import Budget, Budgets
from ..errors import LimitReached, TooManyRequests
from .fair_turns import FairTurns
from .principal import Principal
from .start_rates import StartRates

__all__ = ["QuotaSettings", "QuotaStatistics", "Quotas", "Refusal", "Share"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaSettings:
    """Bounds of one node, and of one principal on it.

    Attributes:
        max_sessions: Sessions of the node at once. One without a child costs some 10 KB.
        max_children: Children of the node at once, those counted that are being started or stopped. Some
            50 MB each, so that many fill a machine of 32 GB.
        max_starting: Children of the node that are being started at once. A start costs far more than a
            running child (interpreters, package managers); the others queue.
        queue_timeout: Seconds that a start waits for its turn. Clients give up after 30 to 60.
        max_sessions_per_principal: Sessions of one principal at once. A person has a few clients, and a
            client that crashes leaves its session behind until that is idle for too long.
        max_children_per_principal: Children of one principal at once: as many as its sessions may need.
        max_calls_per_principal: Calls of one principal in flight at once, of all its sessions. As many as
            one child takes; whoever has that many does not wait for answers.
        max_starting_per_principal: Children of one principal that are being started at once. Less than
            `max_starting`, so that one whose starts hang does not keep the others out.
        max_waiting_per_principal: Starts of one principal that wait for their turn. Where a start takes
            five seconds, no more than that would have their turn in time.
        starts_per_minute: Children that one principal may start a minute, in the long run. An agent that
            opens a session for each call, every second, is at this limit.
        start_burst: Children that one principal may start at once, after a while without a start: what a
            client with many servers configured does when it comes up.
        retry_after: Seconds that a refused client is told to wait, where nobody knows it better.

    Raises:
        ValueError: A value is out of range; the message names it, and what it expects.
    """

    max_sessions: int = 4096
    max_children: int = 512
    max_starting: int = 8
    queue_timeout: float = 30.0
    max_sessions_per_principal: int = 64
    max_children_per_principal: int = 64
    max_calls_per_principal: int = 256
    max_starting_per_principal: int = 6
    max_waiting_per_principal: int = 32
    starts_per_minute: float = 60.0
    start_burst: int = 30
    retry_after: float = 5.0

    def __post_init__(self) -> None:
        """Check every field; the first mistake is named."""
        for name in ("queue_timeout", "retry_after"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name}: expected seconds, more than 0, found {seconds!r}")
        if not (math.isfinite(self.starts_per_minute) and self.starts_per_minute > 0):
            raise ValueError(f"starts_per_minute: expected more than 0, found {self.starts_per_minute!r}")
        for name in self.__slots__:
            if (name.startswith("max_") or name == "start_burst") and getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, found {getattr(self, name)!r}")


class Refusal(enum.StrEnum):
    """Why something was refused: the names in statistics and metrics."""

    NODE_SESSIONS = "node_sessions"
    NODE_CHILDREN = "node_children"
    NODE_STARTS = "node_starts"  #: no turn to start came in time
    NODE_BYTES = "node_bytes"
    PRINCIPAL_SESSIONS = "principal_sessions"
    PRINCIPAL_CHILDREN = "principal_children"
    PRINCIPAL_CALLS = "principal_calls"
    PRINCIPAL_STARTS = "principal_starts"  #: too many wait for a turn
    PRINCIPAL_START_RATE = "principal_start_rate"
    PRINCIPAL_BYTES = "principal_bytes"


@dataclass(frozen=True, slots=True)
class QuotaStatistics:
    """A snapshot.

    Attributes:
        sessions: Sessions taken.
        children: Children taken.
        calls: Calls in flight.
        starting: Turns taken.
        waiting: How many wait for a turn.
        principals: Of how many principals something is kept.
        buffered_bytes: Bytes of messages that are held.
        refused: How often something was refused so far, for each reason.
    """

    sessions: int
    children: int
    calls: int
    starting: int
    waiting: int
    principals: int
    buffered_bytes: int
    refused: Mapping[Refusal, int]


class Share:
    """What one principal has. It is good for as long as that is anything.

    Attributes:
        principal: Whose it is.
        sessions: How many sessions it has.
        children: How many children.
        calls: How many calls it has in flight.
    """

    __slots__ = ("calls", "children", "principal", "sessions")

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.sessions = 0
        self.children = 0
        self.calls = 0


class Quotas:
    """The bounds of one node. Whoever takes something gives it back, once.

    Nothing is kept of a principal that has nothing, but how many children it has started lately, until
    that does not matter any more.

    Args:
        settings: Bounds.
        now: Returns the time, in seconds; it never goes back.
        budgets: Bounds the messages that are held; None if nothing does.
    """

    def __init__(
        self, settings: QuotaSettings, *, now: Callable[[], float], budgets: Budgets | None = None
    ) -> None:
        self._settings = settings
        self._budgets = Budgets() if budgets is None else budgets  # an empty one is false
        self._sessions = 0
        self._children = 0
        self._shares: dict[Principal, Share] = {}
        self._rates = StartRates(per_minute=settings.starts_per_minute, burst=settings.start_burst, now=now)
        self._turns = FairTurns(
            max_turns=settings.max_starting,
            max_turns_each=settings.max_starting_per_principal,
            max_waiting_each=settings.max_waiting_per_principal,
        )
        self._refused = dict.fromkeys(Refusal, 0)

    def take_session(self, principal: Principal) -> Share:
        """Count a session; return the share that it is a part of.

        Raises:
            LimitReached: The principal, or the node, has as many as it may have.
        """
        settings, share = self._settings, self._share(principal)
        if share.sessions >= settings.max_sessions_per_principal:
            raise self._all_in_use(Refusal.PRINCIPAL_SESSIONS, f"{share.sessions} sessions of yours")
        if self._sessions >= settings.max_sessions:
            self._drop_if_empty(share)
            raise self._all_in_use(Refusal.NODE_SESSIONS, f"{self._sessions} sessions of this node")
        self._sessions += 1
        share.sessions += 1
        return share

    def give_session(self, principal: Principal) -> None:
        """Count a session no longer."""
        share = self._shares[principal]
        share.sessions -= 1
        self._sessions -= 1
        self._drop_if_empty(share)

    def take_child(self, principal: Principal) -> None:
        """Count a child, before it is started.

        Raises:
            LimitReached: The principal, or the node, has as many as it may have.
        """
        settings, share = self._settings, self._share(principal)
        if share.children >= settings.max_children_per_principal:
            found = f"{share.children} server processes of yours"
            raise self._all_in_use(Refusal.PRINCIPAL_CHILDREN, found)
        if self._children >= settings.max_children:
            self._drop_if_empty(share)
            found = f"{self._children} server processes of this node"
            raise self._all_in_use(Refusal.NODE_CHILDREN, found)
        self._children += 1
        share.children += 1

    def give_child(self, principal: Principal) -> None:
        """Count a child no longer: nothing of it is left."""
        share = self._shares[principal]
        share.children -= 1
        self._children -= 1
        self._drop_if_empty(share)

    def enter_call(self, principal: Principal) -> Share:
        """Count a call in flight; return the share that it is a part of.

        Raises:
            TooManyRequests: The principal has as many as it may have.
        """
        share = self._share(principal)
        self.enter(share)
        return share

    def leave_call(self, principal: Principal) -> None:
        """Count a call no longer."""
        self.leave(self._shares[principal])

    def enter(self, share: Share) -> None:
        """Count a call in flight of somebody who has something here already. The hot path.

        Raises:
            TooManyRequests: The principal has as many as it may have.
        """
        if share.calls >= self._settings.max_calls_per_principal:
            text = f"{share.calls} calls of yours are in flight already"
            raise self._too_many(Refusal.PRINCIPAL_CALLS, text, self._settings.retry_after)
        share.calls += 1

    def leave(self, share: Share) -> None:
        """Count a call no longer."""
        share.calls -= 1
        if not share.calls:
            self._drop_if_empty(share)

    @contextlib.asynccontextmanager
    async def turn(self, principal: Principal) -> AsyncIterator[None]:
        """Start a child in this block, in its turn.

        Who waits is served round robin over the principals, and in order within one. How many wait in
        all is bounded by `max_children` if the child was taken before.

        Raises:
            TooManyRequests: The principal starts too many too fast, or as many of it wait as may.
            LimitReached: No turn came in time.
        """
        self._take_token(principal)
        try:
            await self._wait_turn(principal)
        except BaseException:
            self._rates.give_back(principal)  # nothing was started
            raise
        try:
            yield
        finally:
            self._turns.release(principal)

    def budget(self, principal: Principal) -> Budget:
        """Return the bytes of messages that may be held for a principal, on all servers together."""
        return self._budgets.of(principal)

    def full(self) -> str | None:
        """Return which limit of the node is reached, in words; None if none is."""
        if self._sessions >= self._settings.max_sessions:
            return f"all {self._sessions} sessions of this node are in use"
        if self._children >= self._settings.max_children:
            return f"all {self._children} server processes of this node are in use"
        if self._budgets.whole.full:
            return f"messages hold all {self._budgets.whole.max_bytes} bytes that this node has for them"
        return None

    def statistics(self) -> QuotaStatistics:
        """Return a snapshot."""
        bytes_ = self._budgets.whole
        refused = {Refusal.NODE_BYTES: bytes_.refused, Refusal.PRINCIPAL_BYTES: bytes_.refused_by_parts}
        return QuotaStatistics(
            sessions=self._sessions,
            children=self._children,
            calls=sum(share.calls for share in self._shares.values()),
            starting=self._turns.taken,
            waiting=self._turns.waiting,
            principals=len({*self._shares, *self._turns.principals, *self._rates.principals}),
            buffered_bytes=bytes_.used,
            refused=MappingProxyType({**self._refused, **refused}),
        )

    def _take_token(self, principal: Principal) -> None:
        wait = self._rates.take(principal)
        if wait:
            settings = self._settings
            raise self._too_many(
                Refusal.PRINCIPAL_START_RATE,
                f"you may start {settings.starts_per_minute:g} server processes a minute, and "
                f"{settings.start_burst} at once; the next one in {wait:.1f} s",
                wait,
            )

    async def _wait_turn(self, principal: Principal) -> None:
        settings = self._settings
        try:
            async with asyncio.timeout(settings.queue_timeout):
                await self._turns.acquire(principal)
        except TimeoutError:
            self._refused[Refusal.NODE_STARTS] += 1
            raise LimitReached(
                f"no turn to start a server process came within {settings.queue_timeout:g} s; "
                f"{settings.max_starting} may start at once on this node",
                retry_after=settings.retry_after,
            ) from None
        except asyncio.QueueFull:
            text = (
                f"{settings.max_waiting_per_principal} server processes of yours wait to be started already"
            )
            raise self._too_many(Refusal.PRINCIPAL_STARTS, text, settings.retry_after) from None

    def _share(self, principal: Principal) -> Share:
        share = self._shares.get(principal)
        if share is None:
            share = self._shares[principal] = Share(principal)
        return share

    def _drop_if_empty(self, share: Share) -> None:
        if not (share.sessions or share.children or share.calls):
            del self._shares[share.principal]

    def _all_in_use(self, reason: Refusal, what: str) -> LimitReached:
        self._refused[reason] += 1
        return LimitReached(f"all {what} are in use", retry_after=self._settings.retry_after)

    def _too_many(self, reason: Refusal, text: str, retry_after: float) -> TooManyRequests:
        self._refused[reason] += 1
        return TooManyRequests(text, retry_after=retry_after)
