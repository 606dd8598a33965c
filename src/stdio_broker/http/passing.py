"""A client's message on its way to the session's server, and what it means if that is gone."""

import asyncio
import contextlib

from ..bridge import Exchange
from ..errors import BridgeBroken, ChildGone, SessionNotFound
from ..protocol.jsonrpc import Notification, Request, Response
from ..sessions import Session, SessionManager

__all__ = ["call", "tell"]

#: Seconds between the end of a child's stdin and its exit, after which it counts as alive.
EXIT_TIMEOUT = 0.5


async def call(sessions: SessionManager, session: Session, message: Request) -> Exchange:
    """Pass a request on.

    Raises:
        SessionNotFound: Its server cannot be talked to any more, and the session is ended with it.
        LimitReached: Too many calls of this session are in flight.
        BridgeBroken: Its server has ended; the next one may be better.
        BrokerError: Its server had to be started anew, and was not; see `SessionManager.open`.
    """
    try:
        return await session.bridge.call(message)
    except (ChildGone, BridgeBroken):
        if sessions.is_durable(session):
            raise
        raise await _lost(sessions, session) from None


async def tell(sessions: SessionManager, session: Session, message: Notification | Response) -> None:
    """Pass on what wants no answer.

    Raises:
        SessionNotFound: As above.
    """
    try:
        if isinstance(message, Notification):
            await session.bridge.notify(message)
        else:
            await session.bridge.reply(message)
    except ChildGone:
        raise await _lost(sessions, session) from None


async def _lost(sessions: SessionManager, session: Session) -> SessionNotFound:
    """End a session whose child cannot be talked to any more: it has ended, or does not read."""
    link = session.link
    if link is not None:
        # How it has ended its reader learns, and tells those who wait for it; that takes a moment.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXIT_TIMEOUT):
                await link.child.exited.wait()
                return SessionNotFound()
    sessions.end(session, "the server does not read any more")
    return SessionNotFound()
