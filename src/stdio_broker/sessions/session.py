"""One session: a client of one principal, and what it talks to. What is told of sessions."""

import asyncio
from dataclasses import dataclass

from ..bridge import Bridge, Budget, Exchange, LegacySession, Link
from ..errors import BridgeBroken
from ..protocol.handshake import Agreement
from ..supervisor.restart import Breaker, BreakerStatistics
from .principal import Principal
from .quotas import Share

__all__ = ["Opened", "Session", "SessionBridge", "SessionStatistics", "log_name"]

#: What the messages of a session go through: a child of its own era, or a translation.
SessionBridge = Bridge | LegacySession


class Session:
    """What a client opened with `initialize`, up to MCP 2025-11-25.

    Attributes:
        id: Its id, a secret of the client.
        principal: Whose it is; nobody else's requests reach it.
        bridge: What its messages go through.
        agreement: What was agreed in `initialize`; None until then.
        began: When it was opened (event loop time, seconds).
        last_used: When a client last sent something (event loop time, seconds).
        idle_timer: Looks next whether the session is idle.
        ended: Why it ended, or None while it lives.
        generation: From what its child was started; None before the first one.
        outdated: Whether its child is to be replaced as soon as that disturbs nobody.
        waking: The link that is being made ready for it, or None if none is.
        keepers: The tasks that see its children through, but for those that have been replaced.
        breaker: When a child that keeps crashing is left alone; None as long as none has crashed.
        share: What its principal has of the node.
        budget: Bytes that messages of its principal may hold.
    """

    __slots__ = (
        "agreement",
        "began",
        "breaker",
        "bridge",
        "budget",
        "ended",
        "generation",
        "id",
        "idle_timer",
        "keepers",
        "last_used",
        "outdated",
        "principal",
        "share",
        "waking",
    )

    def __init__(
        self,
        session_id: str,
        principal: Principal,
        bridge: SessionBridge,
        now: float,
        *,
        share: Share,
        budget: Budget,
    ) -> None:
        self.id = session_id
        self.principal = principal
        self.bridge = bridge
        self.share = share
        self.budget = budget
        self.agreement: Agreement | None = None
        self.began = self.last_used = now
        self.idle_timer: asyncio.TimerHandle | None = None
        self.ended: str | None = None
        self.generation: str | None = None
        self.outdated = False
        self.waking: asyncio.Future[Link] | None = None
        self.keepers: dict[Link, asyncio.Task[None]] = {}
        self.breaker: Breaker | None = None

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return log_name(self.id)

    @property
    def link(self) -> Link | None:
        """The child of its own that it uses now; None while it sleeps, or has a share in another."""
        return self.bridge.link if isinstance(self.bridge, Bridge) else None

    @property
    def busy(self) -> bool:
        """Whether a client waits for an answer, or a child is made ready for one."""
        return self.bridge.busy or self.waking is not None

    async def wait_children(self) -> None:
        """Wait until nothing of its own children is left, but for those that finish what they were asked."""
        if self.keepers:
            await asyncio.wait(self.keepers.values())

    def end(self, reason: str) -> None:
        """Fail what is open and end its streams, once. Its children are stopped by whoever started them."""
        self.ended = reason
        if self.idle_timer is not None:
            self.idle_timer.cancel()
        text = f"the session has ended: {reason}"
        self.bridge.fail(BridgeBroken(text, reason="session ended", retryable=False))


@dataclass(frozen=True, slots=True)
class Opened:
    """What came of an `initialize`.

    Attributes:
        session: The new session; None if the server refused.
        bridge: Its bridge, to release the exchange.
        exchange: The server's answer is on it, behind what the server said before.
    """

    session: Session | None
    bridge: SessionBridge
    exchange: Exchange


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """A snapshot.

    Attributes:
        sessions: Sessions that clients can use.
        asleep: Those of them that have no child now, and share none.
        places: Places taken by children, of sessions and of leases, those included that are being started
            or stopped.
        max_places: Places there are.
        max_sessions: Sessions there may be.
        node_full: Which limit of the whole node is reached, in words; None if none is.
        draining: Whether the node is shutting down.
        problem: Why the server did not start when it was tried; None if it did, or has since.
        breaker: Whether the server can be started, as far as is known, by whoever has least luck.
        keeps_failing: Whether it keeps failing, not for one principal only.
        crashes: Sessions so far whose server ended by itself after its answer to `initialize`.
    """

    sessions: int
    asleep: int
    places: int
    max_places: int
    max_sessions: int
    node_full: str | None
    draining: bool
    problem: str | None
    breaker: BreakerStatistics
    keeps_failing: bool
    crashes: int


def log_name(session_id: str) -> str:
    """Return enough of an id to tell sessions apart in a log, too little to use it."""
    return session_id.split("-")[1][:8]
