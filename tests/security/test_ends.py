"""Whoever loses access loses it at that moment, whatever is under way: nothing begins, or goes on, after it.

What is under way in the usual places is in `node.test_revocation`; here is what comes between two steps.
Source: issue 5, "Done when" 5; identity reference, R4 and T27.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from stdio_broker.auth import Access, NoAuthentication, OnRevoked
from stdio_broker.errors import Unauthenticated
from stdio_broker.sessions import Principal
from tests.support.edge import Edge, serving
from tests.support.eras import (
    ISSUER,
    LEGACY_TO_LEGACY,
    LEGACY_TO_MODERN,
    MODERN_TO_LEGACY,
    MODERN_TO_MODERN,
    AnyClient,
    Cell,
    legacy_client,
    modern_client,
)
from tests.support.mcp_client import McpClient
from tests.support.nodes import STREAMING
from tests.support.processes import wait_until

ANNA = Principal(ISSUER, "anna")
TOOLS_CHANGED = "notifications/tools/list_changed"


class Revocable(NoAuthentication):
    """Believes whoever names a principal, until that one is revoked: for good, as with a key.

    Attributes:
        after: Called with how often somebody was let in so far, each time.
    """

    def __init__(self) -> None:
        self.after: Callable[[int], None] = lambda _times: None
        self._times = 0
        self._revoked: set[Principal] = set()
        self._callbacks: list[OnRevoked] = []

    def recognise(self, authorization: bytes | None) -> Access | None:
        """Return the access of the principal that the field names, unless it is revoked."""
        assert authorization is not None
        principal = Principal(ISSUER, authorization.removeprefix(b"Bearer ").decode())
        if principal in self._revoked:
            return None
        self._times += 1
        self.after(self._times)
        return Access(principal=principal)

    async def authenticate(self, authorization: bytes | None, peer: str) -> Access:
        """Return the access of the principal that the field names."""
        assert authorization is not None, peer
        access = self.recognise(authorization)
        if access is None:
            raise Unauthenticated(presented=True)
        return access

    def on_revoked(self, callback: OnRevoked) -> None:
        """Have a callback told each principal that is revoked."""
        self._callbacks.append(callback)

    def revoke(self, principal: Principal) -> None:
        """Revoke a principal, as the end of its key would."""
        self._revoked.add(principal)
        for callback in self._callbacks:
            callback(principal)

    def revoke_right_after(self, times: int) -> None:
        """Revoke Anna in the loop's next step after somebody is let in for the nth time from now."""
        loop, target = asyncio.get_running_loop(), self._times + times

        def look(now: int) -> None:
            if now == target:
                loop.call_soon(self.revoke, ANNA)

        self.after = look


@asynccontextmanager
async def revocable(cell: Cell, *modes: str, **options: float) -> AsyncIterator[tuple[Edge, Revocable]]:
    """Serve a child of a cell to whoever names a principal and is not revoked."""
    who = Revocable()
    http = dataclasses.replace(STREAMING, legacy_sse=True)
    config = cell.config(*modes, **options)
    async with serving(config, http=http, recovery="replay", authenticator=who) as edge:
        who.on_revoked(lambda principal: edge.sessions.revoke(principal, "the test says so"))
        yield edge, who


def client_of(cell: Cell, edge: Edge, subject: str = "anna") -> AnyClient:
    """Return a client of the era of a cell, without a session."""
    return modern_client(edge, subject) if cell.client == "modern" else legacy_client(edge, subject)


async def expect_nothing_left(edge: Edge) -> None:
    """Fail unless Anna has neither a child nor a session, now and by whatever was begun."""
    await wait_until(lambda: not edge.children, what="no child, or its end")
    assert edge.sessions.principals() == set()
    assert edge.sessions.statistics().sessions == 0


# Between two steps of the loop.


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "cell", [LEGACY_TO_LEGACY, LEGACY_TO_MODERN, MODERN_TO_LEGACY, MODERN_TO_MODERN], ids=str
)
async def test_whoever_is_revoked_right_after_being_let_in_gets_nothing(cell: Cell, times: int) -> None:
    """Ours: to be let in and to have something to be ended are one step, so nobody falls between them."""
    async with revocable(cell) as (edge, who), client_of(cell, edge) as anna:
        request = anna.initialize_request() if isinstance(anna, McpClient) else anna.tool("pid")
        who.revoke_right_after(times)
        answer = await anna.post(request)
        assert '"result"' not in answer.text
        assert "mcp-session-id" not in answer.headers
        await expect_nothing_left(edge)


@pytest.mark.parametrize("cell", [LEGACY_TO_LEGACY, LEGACY_TO_MODERN], ids=str)
async def test_a_stream_of_2024_11_05_does_not_outlive_a_key_that_ends_with_its_initialize(
    cell: Cell,
) -> None:
    """Ours: the stream would have stayed open, and told everything that the server says, for ever."""
    async with revocable(cell) as (edge, who), legacy_client(edge, "anna") as anna:
        root = edge.url.removesuffix("/mcp")
        anna.url = f"{root}/sse"
        async with anna.listen() as stream:
            path = await stream.next()
            assert path is not None
            anna.url = root + path.decode()
            # Twice for the POST, before its body and after it.
            who.revoke_right_after(2)
            assert (await anna.post(anna.initialize_request())).status_code == 202
            assert await stream.rest() == []
        await expect_nothing_left(edge)


# While we wait for a child.


async def test_a_call_whose_tools_are_being_read_is_not_sent_to_another_child() -> None:
    """Ours: a call waits for the list of tools, which says what its header fields must say; maybe long."""
    async with (
        revocable(MODERN_TO_MODERN) as (edge, who),
        modern_client(edge, "anna") as anna,
        anna.listen(toolsListChanged=True) as stream,
        asyncio.TaskGroup() as tasks,
    ):
        await stream.message()  # the acknowledgement
        pid = int(await anna.ask("pid"))
        await anna.ask("change", method=TOOLS_CHANGED)
        calls = edge.sessions.quotas.statistics().calls
        os.kill(pid, signal.SIGSTOP)
        calling = tasks.create_task(anna.post(anna.tool("echo", text="hello")))
        await wait_until(lambda: edge.sessions.quotas.statistics().calls > calls, what="the call")
        who.revoke(ANNA)
        assert '"result"' not in (await calling).text
        await expect_nothing_left(edge)


@pytest.mark.parametrize("cell", [MODERN_TO_LEGACY, MODERN_TO_MODERN], ids=str)
async def test_a_stream_of_changes_is_not_handed_over_to_another_child(cell: Cell) -> None:
    """Ours: a child that closed its output takes a while to end, and then its listeners get another one."""
    config = {"eof_grace": 0.3, "stop_grace": 0.3}
    async with (
        revocable(cell, "ignore-eof", "ignore-sigterm", **config) as (edge, who),
        modern_client(edge, "anna") as anna,
        anna.listen(toolsListChanged=True) as stream,
    ):
        await stream.message()  # the acknowledgement
        await anna.post(anna.tool("close_stdout"))  # answered when the reader has seen the end
        assert edge.children == 1
        who.revoke(ANNA)
        async with asyncio.timeout(20):
            await stream.rest()
        await expect_nothing_left(edge)


@pytest.mark.parametrize("cell", [LEGACY_TO_MODERN, MODERN_TO_LEGACY], ids=str)
async def test_a_child_of_the_other_era_is_not_tried_for_somebody_revoked(cell: Cell) -> None:
    """Ours: what a new server speaks is found out by trying, and the first trial takes a while to end."""
    config = {"eof_grace": 0.5, "stop_grace": 0.5}
    async with (
        revocable(cell, "ignore-eof", "ignore-sigterm", **config) as (edge, who),
        client_of(cell, edge) as anna,
        asyncio.TaskGroup() as tasks,
    ):
        request = anna.initialize_request() if isinstance(anna, McpClient) else anna.tool("pid")
        calling = tasks.create_task(anna.post(request))
        facts = edge.sessions.facts
        await wait_until(
            lambda: facts.speaks_legacy is False or facts.speaks_modern is False, what="end of the trial"
        )
        who.revoke(ANNA)
        assert '"result"' not in (await calling).text
        await expect_nothing_left(edge)
