"""The first request to a child, by which it shows which era it speaks; what it shows is noted.

Whoever asks in the wrong era has spoilt the process: it speaks only the era of its first request. So
the other era is tried with a fresh one, and that is for the caller to start.

Source: MCP 2026-07-28, basic/transports/stdio, "Backward Compatibility"; protocol matrix, section 2.1.
"""

import asyncio
import logging

import msgspec

from .. import __version__
from ..bridge import LegacyChild, ModernChild
from ..errors import BridgeBroken, ChildGone, LocalProtocolError, RemoteProtocolError, StartTimeout
from ..protocol.jsonrpc import INTERNAL_ERROR, UNSUPPORTED_PROTOCOL_VERSION, string_member
from ..protocol.modern import Discovery
from .facts import ServerFacts, refuses_for_being_modern

__all__ = ["OtherEra", "SharedChildOfEra", "check_foreign", "shake_hands"]

logger = logging.getLogger(__name__)

CLIENT_NAME = "stdio-broker"

SharedChildOfEra = ModernChild | LegacyChild


class OtherEra(RemoteProtocolError):
    """The server does not speak the era that was tried; the facts know now."""

    def __init__(self, method: str) -> None:
        super().__init__(
            f"the server does not answer `{method}` as any revision of MCP that we speak asks",
            code=INTERNAL_ERROR,
        )


async def shake_hands(
    shared: SharedChildOfEra,
    facts: ServerFacts,
    *,
    began: float,
    start_timeout: float,
    foreign_interval: float,
) -> None:
    """Find out what a child is, as its first request.

    Args:
        shared: The child, of the era that is tried.
        facts: What is known of its server, and what is learnt.
        began: When its start began (event loop time, seconds).
        start_timeout: Seconds that it has from then on.
        foreign_interval: Seconds for which a server that speaks only what we do not is not asked again.

    Raises:
        OtherEra: It does not speak the era that was tried.
        LocalProtocolError: It is modern, but speaks no version of ours.
        RemoteProtocolError: It refused, or gave nonsense.
        StartTimeout: It did not answer in time.
        BridgeBroken: It ended.
    """
    try:
        if isinstance(shared, ModernChild):
            await _discover(shared, facts, began + facts.discover_timeout(start_timeout), foreign_interval)
        else:
            await _initialize(shared, facts, began, start_timeout)
    except ChildGone:
        raise BridgeBroken("the server process ended before it read its first request") from None


def check_foreign(facts: ServerFacts, now: float, requested: str | None) -> None:
    """Refuse a request to a server that was found to speak only what we do not, for a while.

    Args:
        facts: What is known of it.
        now: Event loop time, in seconds.
        requested: The version of the request, or None.

    Raises:
        LocalProtocolError: It does, and lately.
    """
    if facts.foreign_versions and now < facts.foreign_until:
        raise LocalProtocolError(
            f"the server speaks MCP {', '.join(facts.foreign_versions)}; this broker does not",
            code=UNSUPPORTED_PROTOCOL_VERSION,
            data=msgspec.json.encode({"supported": facts.foreign_versions, "requested": requested}),
        )


async def _discover(
    shared: ModernChild, facts: ServerFacts, deadline: float, foreign_interval: float
) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    known = facts.speaks_modern is True
    try:
        async with asyncio.timeout_at(deadline):
            outcome = await shared.discover(CLIENT_NAME, __version__)
    except (TimeoutError, BridgeBroken, ChildGone) as exc:
        # A server may well end when the first that it hears is no `initialize`.
        if not known:
            logger.info("server.is_silent", extra={"problem": type(exc).__name__})
            facts.note_silence()
            raise OtherEra("server/discover") from None
        # It did speak it. That was a mishap, or another server is there by now: the next one will show.
        # Not doubted before: others start at the same time, and must not take a mishap for an answer.
        facts.speaks_modern = None
        if isinstance(exc, TimeoutError):
            raise StartTimeout(deadline - began, "server/discover") from None
        raise
    if outcome is None:
        logger.info("server.is_legacy")
        facts.note_refusal()
        raise OtherEra("server/discover")
    if not isinstance(outcome, Discovery):
        facts.speaks_modern = None
        facts.foreign_versions = outcome or ("unknown",)
        facts.foreign_until = loop.time() + foreign_interval
        check_foreign(facts, loop.time(), None)
    facts.note_modern()


async def _initialize(shared: LegacyChild, facts: ServerFacts, began: float, start_timeout: float) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(began + start_timeout):
            error = await shared.initialize(CLIENT_NAME, __version__)
    except TimeoutError:
        raise StartTimeout(start_timeout) from None
    if error is None:
        facts.speaks_legacy = True
        facts.handshake_seconds = loop.time() - began
        return
    if refuses_for_being_modern(error):
        facts.speaks_legacy = False
        raise OtherEra("initialize")
    text = string_member(error, "message") or "an error without a message"
    raise RemoteProtocolError(f"the server refused `initialize`: {text}", code=INTERNAL_ERROR)
