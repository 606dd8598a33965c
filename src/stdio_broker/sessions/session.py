"""One session: a client of one principal, and what it talks to. What is told of sessions."""

import asyncio
from dataclasses import dataclass

from ..bridge import Bridge, Exchange, LegacySession
from ..errors import BridgeBroken
from ..protocol.handshake import Agreement
from ..supervisor import Child
from ..supervisor.restart import BreakerStatistics
from .principal import Principal

__all__ = ["Opened", "Session", "SessionBridge", "SessionStatistics", "log_name"]

#: What the messages of a session go through: a child of its own era, or a translation.
SessionBridge = Bridge | LegacySession


class Session:
    """What a client opened with `initialize`, up to MCP 2025-11-25.

    Attributes:
        id: Its id, a secret of the client.
        principal: Whose it is; nobody else's requests reach it.
        bridge: What its messages go through.
        child: Its own child; None if it has a share in one that a lease has.
        agreement: What was agreed in `initialize`; None until then.
        last_used: When a client last sent something (event loop time, seconds).
        idle_timer: Looks next whether the session is idle.
        ended: Why it ended, or None while it lives.
    """

    __slots__ = ("agreement", "bridge", "child", "ended", "id", "idle_timer", "last_used", "principal")

    def __init__(
        self,
        session_id: str,
        principal: Principal,
        child: Child | None,
        bridge: SessionBridge,
        now: float,
    ) -> None:
        self.id = session_id
        self.principal = principal
        self.child = child
        self.bridge = bridge
        self.agreement: Agreement | None = None
        self.last_used = now
        self.idle_timer: asyncio.TimerHandle | None = None
        self.ended: str | None = None

    async def wait_child(self) -> None:
        """Wait until nothing of its child is left, if it has one of its own."""
        if self.child is not None:
            await self.child.wait()

    def end(self, reason: str) -> None:
        """Fail what is open and end its streams, once. The child is stopped by whoever started it."""
        self.ended = reason
        if self.idle_timer is not None:
            self.idle_timer.cancel()
        self.bridge.fail(BridgeBroken(f"the session has ended: {reason}", reason="session ended"))


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
        places: Places taken by children, of sessions and of leases, those included that are being started
            or stopped.
        max_sessions: Places there are; and how many sessions, those included that have no child.
        draining: Whether the node is shutting down.
        breaker: Whether the server can be started, as far as is known.
        crashes: Sessions so far whose server ended by itself after its answer to `initialize`.
    """

    sessions: int
    places: int
    max_sessions: int
    draining: bool
    breaker: BreakerStatistics
    crashes: int


def log_name(session_id: str) -> str:
    """Return enough of an id to tell sessions apart in a log, too little to use it."""
    return session_id.split("-")[1][:8]
