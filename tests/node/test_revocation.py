"""A key that was revoked, or has expired: all that its principal has ends at once, and nobody else's.

Source: issue 5, "Done when" 5; identity reference, R14.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from stdio_broker.auth.store import KeyStore
from stdio_broker.sessions import Principal
from stdio_broker.sessions.credentials import Credential, CredentialSource
from stdio_broker.supervisor import Config
from tests.support.edge import Edge
from tests.support.eras import (
    CELLS,
    ISSUER,
    LEGACY_TO_LEGACY,
    LEGACY_TO_MODERN,
    MODERN_TO_LEGACY,
    MODERN_TO_MODERN,
    AnyClient,
    Cell,
    legacy_client,
    modern_client,
    open_session,
    serving_principals,
)
from tests.support.mcp_client import EventStream, McpClient, text_of
from tests.support.modern_client import ModernClient
from tests.support.nodes import (
    STREAMING,
    ServingNode,
    key_authenticator,
    key_store,
    node_configuration,
    report,
    running_call,
    server,
    serving_node,
)
from tests.support.processes import is_alive, wait_until

NOT_VALID = 'Bearer realm="stdio-broker", error="invalid_token"'
TOOLS_CHANGED = "notifications/tools/list_changed"
# Issue 5 wants a child gone within 1 s; that is measured and told. A loaded machine needs more.
MOST_SECONDS = 10.0
HTTP = dataclasses.replace(STREAMING, legacy_sse=True)

every_cell = pytest.mark.parametrize("cell", CELLS, ids=str)


@dataclass(frozen=True, slots=True)
class Guarded:
    """A node with one server, and its keys.

    Attributes:
        node: The node.
        keys: All keys, as another process changes them.
        anna: A key.
        bernd: A key of somebody else.
    """

    node: ServingNode
    keys: KeyStore
    anna: str
    bernd: str

    def client(self, cell: Cell, bearer: str) -> AnyClient:
        """Return a client of the era of a cell, without a session."""
        if cell.client == "modern":
            return self.node.modern("alpha", bearer)
        return self.node.legacy("alpha", bearer)

    async def revoke_anna(self) -> None:
        """Revoke Anna's key, as the command line does."""
        assert await self.keys.revoke_principal("anna")


@contextlib.asynccontextmanager
async def guarded(
    directory: Path,
    config: Config,
    *,
    expires_at: float | None = None,
    credentials: CredentialSource | None = None,
) -> AsyncIterator[Guarded]:
    """Serve one server to Anna, whose key may expire, and to Bernd, until the block is left."""
    async with key_store(directory) as keys:
        anna = await keys.create("anna", expires_at=expires_at)
        bernd = await keys.create("bernd")
        configuration = node_configuration(server("alpha", config, credentials=credentials), http=HTTP)
        async with (
            key_authenticator(directory) as authenticator,
            serving_node(configuration, authenticator=authenticator) as node,
        ):
            yield Guarded(node, keys, anna.text, bernd.text)


@dataclass(frozen=True, slots=True)
class Busy:
    """A client with a child, a call that waits in it, and a stream of what it says.

    Attributes:
        client: The client.
        pid: Its child.
        call: Its running call.
        stream: What its child says of its own accord.
    """

    client: AnyClient
    pid: int
    call: EventStream
    stream: EventStream


@contextlib.asynccontextmanager
async def busy(edge: Guarded, cell: Cell, bearer: str) -> AsyncIterator[Busy]:
    """Connect a client that is in the middle of everything."""
    async with contextlib.AsyncExitStack() as stack:
        client = edge.client(cell, bearer)
        await stack.enter_async_context(client)
        if isinstance(client, ModernClient):
            stream = await stack.enter_async_context(client.listen(toolsListChanged=True))
            await stream.message()  # the acknowledgement
        else:
            await open_session(client)
            stream = await stack.enter_async_context(client.listen())
        pid = int(await client.ask("pid"))
        call = await stack.enter_async_context(running_call(client))
        yield Busy(client, pid, call, stream)


async def seconds_until_gone(pid: int) -> float:
    """Wait for the end of a process; return how long that took."""
    began = time.monotonic()
    await wait_until(lambda: not is_alive(pid), MOST_SECONDS, what="end of the child")
    return time.monotonic() - began


async def expect_end(busy: Busy) -> None:
    """Fail unless the call of a client has failed with a reason, and its streams are over."""
    answer = (await busy.call.rest())[-1]
    assert answer["error"]["data"]["reason"] in {"session ended", "server stopped"}, answer
    assert "key was revoked or has expired" in answer["error"]["message"]
    # A modern listener is told that this is the end, on purpose.
    ended = [message.get("result") for message in await busy.stream.rest()]
    assert len(ended) == (1 if isinstance(busy.client, ModernClient) else 0)


async def expect_refusals(busy: Busy) -> None:
    """Fail unless nothing that a client does helps it."""
    client = busy.client
    answers = [await client.post(client.tool("echo", text="hello"))]
    if isinstance(client, McpClient):
        answers += [await client.send("GET", {"accept": "text/event-stream"}), await client.delete()]
        answers += [await client.post(client.initialize_request(), {"mcp-session-id": None})]
    assert [answer.status_code for answer in answers] == [401] * len(answers)
    assert {answer.headers["www-authenticate"] for answer in answers} == {NOT_VALID}


async def expect_undisturbed(busy: Busy) -> None:
    """Fail unless a client goes on as if nothing had happened."""
    client = busy.client
    assert int(await client.ask("pid")) == busy.pid
    assert await client.ask("release") == "1"
    assert text_of((await busy.call.rest())[-1]) == "released"
    await client.ask("change", method=TOOLS_CHANGED)
    assert (await busy.stream.message())["method"] == TOOLS_CHANGED


@every_cell
async def test_all_that_a_principal_has_ends_with_its_key(tmp_path: Path, cell: Cell) -> None:
    """Issue 5: running call ended, child gone within 1 s, next request 401; and nobody else notices.

    Ours: killed, not asked - the child heeds neither the end of its input nor SIGTERM.
    """
    config = cell.config(eof_grace=MOST_SECONDS, stop_grace=MOST_SECONDS)
    async with (
        guarded(tmp_path, config) as edge,
        busy(edge, cell, edge.anna) as anna,
        busy(edge, cell, edge.bernd) as bernd,
    ):
        assert anna.pid != bernd.pid
        await anna.client.ask("turn_stubborn")
        await edge.revoke_anna()
        report(f"{cell}: child gone {await seconds_until_gone(anna.pid):.3f} s after its key was revoked")
        await expect_end(anna)
        await expect_refusals(anna)
        await expect_undisturbed(bernd)
        await wait_until(lambda: edge.node.children == 1, what="only Bernd's child")


@pytest.mark.parametrize("cell", [LEGACY_TO_LEGACY, MODERN_TO_MODERN], ids=str)
async def test_all_that_a_principal_has_ends_when_its_key_expires(tmp_path: Path, cell: Cell) -> None:
    """Issue 5: keys have an expiry. Ours: it is no check at the door only, but an end."""
    expires_at = time.time() + 2
    async with (
        guarded(tmp_path, cell.config(), expires_at=expires_at) as edge,
        busy(edge, cell, edge.anna) as anna,
        busy(edge, cell, edge.bernd) as bernd,
    ):
        await seconds_until_gone(anna.pid)
        report(f"{cell}: child gone {time.time() - expires_at:.3f} s after its key expired")
        await expect_end(anna)
        await expect_refusals(anna)
        await expect_undisturbed(bernd)


@pytest.mark.parametrize("cell", [LEGACY_TO_LEGACY, MODERN_TO_LEGACY, MODERN_TO_MODERN], ids=str)
async def test_a_child_that_still_starts_goes_with_its_principal(tmp_path: Path, cell: Cell) -> None:
    """Ours: whoever was let in before the end gets nothing after it."""
    config = cell.config(f"start-when={tmp_path / 'go'}")
    async with guarded(tmp_path, config) as edge, edge.client(cell, edge.anna) as anna:
        request = (
            anna.initialize_request() if isinstance(anna, McpClient) else anna.tool("echo", text="hello")
        )
        # One child is the trial's.
        async with asyncio.TaskGroup() as tasks:
            opening = tasks.create_task(anna.post(request))
            await wait_until(lambda: edge.node.children == 2, what="start of a child")
            await edge.revoke_anna()
            await wait_until(lambda: edge.node.children == 1, what="end of the child")
            (tmp_path / "go").touch()
        answer = opening.result()
        assert "result" not in answer.text
        assert "mcp-session-id" not in answer.headers
        await wait_until(lambda: edge.node.children == 0, what="end of the trial")


class SlowCredentials:
    """A source that answers when the test says so."""

    per_principal = True

    def __init__(self) -> None:
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def resolve(self, principal: Principal) -> Credential:
        self.asked.set()
        await self.may_answer.wait()
        return Credential(f"of {principal.subject}")


@pytest.mark.parametrize("cell", [LEGACY_TO_LEGACY, MODERN_TO_MODERN], ids=str)
async def test_a_credential_that_comes_after_the_end_starts_nothing(tmp_path: Path, cell: Cell) -> None:
    """Ours: a command that tells credentials may take seconds, and a key may be revoked meanwhile."""
    slow = SlowCredentials()
    async with (
        guarded(tmp_path, cell.config(), credentials=slow) as edge,
        edge.client(cell, edge.anna) as anna,
    ):
        request = (
            anna.initialize_request() if isinstance(anna, McpClient) else anna.tool("echo", text="hello")
        )
        async with asyncio.TaskGroup() as tasks:
            opening = tasks.create_task(anna.post(request))
            await slow.asked.wait()
            await edge.keys.revoke_principal("anna")
            await wait_until_refused(anna)
            slow.may_answer.set()
        answer = opening.result()
        assert "result" not in answer.text
        assert "mcp-session-id" not in answer.headers
        await wait_until(lambda: edge.node.children == 0, what="no child, or its end")


def edge_client(cell: Cell, edge: Edge) -> AnyClient:
    """Return a client of Anna's of the era of a cell, without a session."""
    return modern_client(edge, "anna") if cell.client == "modern" else legacy_client(edge, "anna")


@every_cell
async def test_a_call_that_waits_to_be_sent_is_not_sent_to_another_child(cell: Cell) -> None:
    """Ours: a call that no child has read is sent to the next one; but not for somebody who has none."""
    async with (
        serving_principals(cell.config(), recovery="replay") as edge,
        edge_client(cell, edge) as anna,
        asyncio.TaskGroup() as tasks,
    ):
        if isinstance(anna, McpClient):
            await open_session(anna)
        await anna.ask("stop_reading", seconds=60)
        calls = [tasks.create_task(anna.post(anna.tool("echo", text="x" * 2_000_000))) for _ in range(4)]
        await wait_until(lambda: edge.sessions.quotas.statistics().calls == 4, what="calls in flight")
        edge.sessions.revoke(Principal(ISSUER, "anna"), "the test says so")
        answers = [await call for call in calls]
        assert ["result" in answer.text for answer in answers] == [False] * 4
        assert edge.sessions.leases.principals() == set()


@pytest.mark.parametrize("cell", [LEGACY_TO_LEGACY, LEGACY_TO_MODERN, MODERN_TO_MODERN], ids=str)
async def test_a_request_whose_body_comes_after_the_end_is_refused(tmp_path: Path, cell: Cell) -> None:
    """Ours: a key is asked for before the body is read, but a body may take its time."""
    async with guarded(tmp_path, cell.config()) as edge, edge.client(cell, edge.anna) as anna:
        if isinstance(anna, ModernClient):
            message = anna.tool("echo", text="hello")
            fields = anna.headers(message)
        else:
            message = anna.initialize_request()
            fields = anna.headers()
        body = json.dumps(message).encode()
        reader, writer = await asyncio.open_connection(httpx.URL(anna.url).host, httpx.URL(anna.url).port)
        try:
            writer.write(_head(anna.url, fields, edge.anna, len(body)) + body[:10])
            await writer.drain()
            # It was let in: another request, sent later on another connection, was answered.
            assert (await anna.post(b"{")).status_code == 400
            await edge.revoke_anna()
            await wait_until_refused(anna)
            writer.write(body[10:])
            async with asyncio.timeout(20):
                answer = await reader.read()
        finally:
            writer.close()
        assert answer.startswith(b"HTTP/1.1 401 "), answer
        assert b"result" not in answer
        await wait_until(lambda: not edge.node.children, what="only the trial")


def _head(url: str, fields: httpx.Headers, key: str, length: int) -> bytes:
    given = {**fields, "authorization": f"Bearer {key}", "content-length": str(length), "connection": "close"}
    lines = [f"POST {httpx.URL(url).path} HTTP/1.1", f"host: {httpx.URL(url).netloc.decode()}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in given.items()), "", ""]).encode()


async def wait_until_refused(client: AnyClient) -> None:
    """Wait until the node knows that the key of a client is good no more."""
    async with asyncio.timeout(MOST_SECONDS):
        while (await client.post(b"{")).status_code != 401:  # noqa: ASYNC110 - it looks at a database
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("initialized", [True, False])
async def test_a_stream_of_2024_11_05_ends_with_the_key(tmp_path: Path, *, initialized: bool) -> None:
    """Ours: the stream is all that such a client has, with a session behind it or without one."""
    async with (
        guarded(tmp_path, LEGACY_TO_LEGACY.config()) as edge,
        edge.client(LEGACY_TO_LEGACY, edge.anna) as anna,
    ):
        assert isinstance(anna, McpClient)
        anna.url = edge.node.url + "/alpha/sse"
        async with anna.listen() as stream:
            path = await stream.next()
            assert path is not None
            if initialized:
                anna.url = edge.node.url + path.decode()
                assert (await anna.post(anna.initialize_request())).status_code == 202
                assert (await stream.message())["result"]["serverInfo"]["name"] == "mcp-child"
            await edge.revoke_anna()
            assert await stream.rest() == []
        await wait_until(lambda: not edge.node.children, what="end of the child")


async def test_a_principal_with_another_key_begins_anew_at_once(tmp_path: Path) -> None:
    """Ours: what was opened by whichever key has ended; the other key is as good as before."""
    async with guarded(tmp_path, LEGACY_TO_LEGACY.config()) as edge:
        other = (await edge.keys.create("anna")).text
        async with (
            busy(edge, LEGACY_TO_LEGACY, edge.anna) as first,
            edge.node.legacy("alpha", other) as second,
        ):
            await wait_until_admitted(second)
            await edge.keys.revoke_key(edge.anna)
            await seconds_until_gone(first.pid)
            await expect_end(first)
            await open_session(second)
            assert int(await second.ask("pid")) != first.pid


async def wait_until_admitted(client: AnyClient) -> None:
    """Wait until the node knows the key of a client."""
    async with asyncio.timeout(MOST_SECONDS):
        while (await client.post(b"{")).status_code == 401:  # noqa: ASYNC110 - it looks at a database
            await asyncio.sleep(0.01)
