"""What is served where, and the two paths for whoever watches the process."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from stdio_broker.http import Settings
from stdio_broker.sessions import Settings as SessionSettings
from tests.support.edge import serving, serving_without_sockets
from tests.support.mcp_client import McpClient, raw_http


async def get(client: McpClient, path: str) -> tuple[int, str]:
    """Return status and text of a path."""
    client.url = client.url.rpartition("/")[0] + path
    answer = await client.send("GET")
    return answer.status_code, answer.text


@pytest.mark.parametrize(
    "path", ["/", "/mcp/", "/MCP", "/mcp/x", "//mcp", "/sse", "/.well-known/x", "/%2e/x"]
)
async def test_a_path_where_nothing_is_served_says_where_the_endpoint_is(path: str) -> None:
    """protocol.md, 9: 404; ours: with the path that the client looks for."""
    async with serving_without_sockets() as (_, client):
        status, text = await get(client, path)
        assert status == 404
        assert '"/mcp"' in text or " /mcp" in text


@pytest.mark.parametrize("path", [b"*", b"", b"x"])
async def test_what_is_no_path_at_all_is_refused_too(path: bytes) -> None:
    """RFC 9112, 3.2.4: `OPTIONS *` is a request of no path."""
    async with serving() as edge:
        answer = await raw_http(
            edge.url, b"OPTIONS " + path + b" HTTP/1.1\r\nHost: $HOST\r\nConnection: close\r\n\r\n"
        )
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404"))


async def test_the_path_of_the_endpoint_can_be_another_one_and_have_a_query() -> None:
    """design.md, 5: `/mcp` or `/{server}/mcp`."""
    async with serving_without_sockets(http=Settings(path="/git/mcp")) as (_, client):
        client.url += "?key=value"
        await client.open()
        assert await client.ask("echo", text="hello") == "hello"


async def test_healthz_says_that_the_process_answers() -> None:
    """design.md, 5: `/healthz` is about the process only."""
    async with serving_without_sockets(settings=SessionSettings(max_sessions=1)) as (edge, client):
        await client.open()
        edge.sessions.end_all("the test says so")
        assert await get(client, "/healthz") == (200, "ok\n")


async def test_readyz_is_503_with_the_reason_when_no_place_is_left() -> None:
    """design.md, 5: `/readyz` tells whether children can start, 503 with reasons."""
    settings = SessionSettings(max_sessions=1)
    async with serving(settings=settings) as edge, edge.client() as client, edge.client() as watcher:
        assert await get(watcher, "/readyz") == (200, "ready\n")
        await client.open()
        status, text = await get(watcher, "/readyz")
        assert status == 503
        assert "1 session" in text


async def test_readyz_is_503_while_the_server_keeps_failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: a dead server must change health. When a trial may come, somebody has to send it."""
    async with serving_without_sockets() as (edge, client):
        statistics = edge.sessions.statistics()
        failing = (503, "not ready\nchild: the server keeps failing\n")
        for keeps_failing, answer in ((True, failing), (False, (200, "ready\n"))):
            shown = dataclasses.replace(statistics, keeps_failing=keeps_failing)
            monkeypatch.setattr(edge.sessions, "statistics", lambda shown=shown: shown)
            assert await get(client, "/readyz") == answer


async def test_readyz_is_503_while_draining() -> None:
    """Ours: a load balancer shall send new clients elsewhere before the port closes."""
    async with serving_without_sockets() as (edge, client):
        async with asyncio.timeout(5):
            await edge.sessions.drain(5)
        status, text = await get(client, "/readyz")
        assert (status, text) == (503, "not ready\nchild: shutting down\n")
        assert await get(client, "/healthz") == (200, "ok\n")
