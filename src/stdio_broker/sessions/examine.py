"""Start a server to find out all that can be told of it: eras, name, tools, time to start, memory.

One process for each era, because a process speaks only the era of its first request. `initialize` comes
first, as most servers know it; a server that takes it may say nothing at all to `server/discover`.
"""

import asyncio
from dataclasses import dataclass
from typing import Literal, cast

from ..errors import RemoteProtocolError
from ..protocol.handshake import Agreement
from ..protocol.jsonrpc import INTERNAL_ERROR, Members, object_members, string_member
from ..protocol.modern import array_elements
from ..supervisor import Child, Supervisor
from ..supervisor.resident import resident_bytes
from ..telemetry import redact
from .facts import ServerFacts
from .server import Launch
from .trial import Conversation, LegacyConversation, ModernConversation, ProbeFailed, trial

__all__ = ["MAX_PAGES", "Examination", "examine"]

#: Pages of `tools/list` that are read.
MAX_PAGES = 32

_TOOLS = "tools/list"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What was found out of a server.

    Attributes:
        eras: What it speaks: "legacy" (up to 2025-11-25), "modern" (from 2026-07-28).
        version: The version of MCP that was agreed on, in the first of them.
        name: What it calls itself, or None.
        server_version: The version that it says it is, or None.
        tools: The names of its tools, in its order.
        has_more_tools: Whether it has more than were read.
        start_seconds: From its start to its answer to the first request.
        memory_bytes: Resident memory of all its processes, once it has listed its tools; None where that
            cannot be known.
    """

    eras: tuple[Literal["legacy", "modern"], ...]
    version: str
    name: str | None
    server_version: str | None
    tools: tuple[str, ...]
    has_more_tools: bool
    start_seconds: float
    memory_bytes: int | None


async def examine(
    launch: Launch,
    supervisor: Supervisor,
    *,
    client_name: str,
    client_version: str,
    timeout: float,  # noqa: ASYNC109 - part of what is being measured, and named in the error
) -> Examination:
    """Find out what there is to know of a server; nothing of it is left then.

    Args:
        launch: How to start it.
        supervisor: Starts it.
        client_name: Who we say we are.
        client_version: The version we say we are.
        timeout: Seconds from the start to the answer, and once more for its tools.

    Raises:
        SpawnError: The command cannot be started.
        ProbeFailed: It ended, answered with an error or nonsense, or not in time; or it says that it has
            tools, and does not list them.
    """
    look = _Look()
    client = client_name, client_version
    agreement = await trial(
        launch, supervisor, lambda child: LegacyConversation(child, *client), timeout=timeout, look=look.at
    )
    if agreement is not None:
        facts = ServerFacts(handshake_seconds=look.start_seconds)
        patience = facts.discover_timeout(timeout)
        modern = await _speaks_modern(launch, supervisor, client, patience)
        return look.report(launch, agreement, ("legacy", "modern") if modern else ("legacy",))
    look = _Look()
    agreement = await trial(
        launch, supervisor, lambda child: ModernConversation(child, *client), timeout=timeout, look=look.at
    )
    # What is no agreement is a problem here.
    return look.report(launch, cast("Agreement", agreement), ("modern",))


async def _speaks_modern(
    launch: Launch, supervisor: Supervisor, client: tuple[str, str], patience: float
) -> bool:
    try:
        await trial(launch, supervisor, lambda child: ModernConversation(child, *client), timeout=patience)
    except ProbeFailed:
        return False
    return True


class _Look:
    """A look at a child that has answered. Made before its start.

    Attributes:
        start_seconds: Time from then to the answer.
    """

    def __init__(self) -> None:
        self.start_seconds = 0.0
        self._began = self._now()
        self._tools: list[str] = []
        self._has_more = False
        self._memory_bytes: int | None = None

    async def at(self, child: Child, conversation: Conversation) -> None:
        """Look at it."""
        self.start_seconds = self._now() - self._began
        # What it has not said it can do may not be asked (MCP 2025-11-25, basic/lifecycle, "Operation").
        if "tools" in conversation.capabilities:
            await self._read_tools(conversation)
        self._memory_bytes = None if child.pid is None else resident_bytes(child.pid)

    def report(
        self, launch: Launch, agreement: Agreement, eras: tuple[Literal["legacy", "modern"], ...]
    ) -> Examination:
        """Return what was seen, without the secrets that the server was given."""

        def clean(text: str) -> str:
            return redact(text, launch.secrets)

        return Examination(
            eras=eras,
            version=agreement.revision.version,
            name=None if agreement.name is None else clean(agreement.name),
            server_version=None if agreement.server_version is None else clean(agreement.server_version),
            tools=tuple(map(clean, self._tools)),
            has_more_tools=self._has_more,
            start_seconds=self.start_seconds,
            memory_bytes=self._memory_bytes,
        )

    async def _read_tools(self, conversation: Conversation) -> None:
        params: Members = {}
        for _ in range(MAX_PAGES):
            page = await conversation.ask(_TOOLS, params)
            self._tools += _names(page)
            cursor = page.get("nextCursor")
            if cursor is None or bytes(cursor) == b"null":
                return
            params = {"cursor": cursor}
        self._has_more = True

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _names(page: Members) -> list[str]:
    tools = array_elements(page.get("tools"))
    names = None if tools is None else [string_member(object_members(tool), "name") for tool in tools]
    if names is None or None in names:
        raise RemoteProtocolError(
            f"its answer to `{_TOOLS}` is no list of tools with names, of 1024 a page at most",
            code=INTERNAL_ERROR,
        )
    return [name for name in names if name is not None]
