"""What a browser wants to hear before it lets a page use the endpoint."""

from __future__ import annotations

import pytest

from stdio_broker.http import Settings
from tests.support.edge import serving, serving_without_sockets
from tests.support.mcp_client import COMMENT

ORIGIN = "https://app.example.com"
SETTINGS = Settings(allowed_origins=frozenset({ORIGIN}))


def words(value: str) -> set[str]:
    """Return the words of a list in a header field."""
    return {word.strip().lower() for word in value.split(",")}


@pytest.mark.parametrize("verb", ["POST", "GET", "DELETE"])
async def test_a_preflight_of_an_allowed_page_is_told_what_it_may_send(verb: str) -> None:
    """WHATWG Fetch, "CORS-preflight fetch": all that an MCP client in a browser sends."""
    async with serving_without_sockets(http=SETTINGS) as (edge, client):
        answer = await client.send(
            "OPTIONS",
            {
                "origin": ORIGIN,
                "access-control-request-method": verb,
                "access-control-request-headers": "content-type,mcp-protocol-version,mcp-session-id",
                "accept": "*/*",
                "content-type": None,
            },
        )
        assert (answer.status_code, answer.content) == (204, b"")
        assert "content-length" not in answer.headers
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert verb.lower() in words(answer.headers["access-control-allow-methods"])
        assert {
            "content-type",
            "mcp-session-id",
            "mcp-protocol-version",
            "last-event-id",
            "authorization",
            "mcp-method",
            "mcp-name",
        } <= words(answer.headers["access-control-allow-headers"])
        assert "origin" in words(answer.headers["vary"])
        assert edge.supervisor.statistics().started == 0


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("mcp-param-region", {"mcp-param-region"}),
        ("Mcp-Param-Region, mcp-param-x.y", {"mcp-param-region", "mcp-param-x.y"}),
        ("mcp-param-a,mcp-param-a", {"mcp-param-a"}),
        ("mcp-param-, mcp-param, x-mcp-param-a, mcp-paramount, mcp-param-a b, mcp-param-(a), *", set()),
        ("cookie, x-evil", set()),
        ("", set()),
    ],
)
async def test_the_headers_of_a_tool_s_arguments_are_allowed_by_name(asked: str, allowed: set[str]) -> None:
    """2026-07-28, streamable-http: `Mcp-Param-{name}`; never `*`, which credentials would void."""
    async with serving_without_sockets(http=SETTINGS) as (_, client):
        headers = {"origin": ORIGIN, "access-control-request-method": "POST"}
        plain = await client.send("OPTIONS", headers)
        answer = await client.send("OPTIONS", {**headers, "access-control-request-headers": asked})
        field = "access-control-allow-headers"
        assert words(answer.headers[field]) == words(plain.headers[field]) | allowed
        assert "*" not in words(answer.headers[field])
        assert "access-control-allow-credentials" not in answer.headers


async def test_a_preflight_of_any_other_page_is_forbidden() -> None:
    """2025-11-25, transports: an invalid Origin MUST be 403; without these fields the browser gives up."""
    async with serving_without_sockets(http=SETTINGS) as (_, client):
        answer = await client.send(
            "OPTIONS", {"origin": "https://evil.example.com", "access-control-request-method": "POST"}
        )
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


async def test_an_allowed_page_may_read_every_answer_and_its_session_id() -> None:
    """WHATWG Fetch, "CORS check": JSON, streams and refusals alike."""
    async with serving(http=SETTINGS) as edge, edge.client() as client:
        headers = {"origin": ORIGIN}
        opened = await client.post(client.initialize_request(), headers)
        client.session_id = opened.headers["mcp-session-id"]
        answers = [
            opened,
            await client.post(client.tool("say", count=1), headers),
            await client.post(b"nonsense", headers),
            await client.send("PUT", headers),
        ]
        async with client.listen(headers) as stream:
            assert await stream.next() == COMMENT
            fields = [answer.headers for answer in answers] + [stream.headers]
        for field in fields:
            assert field["access-control-allow-origin"] == ORIGIN
            assert {"mcp-session-id", "retry-after"} <= words(field["access-control-expose-headers"])
            assert "origin" in words(field["vary"])
            assert "access-control-allow-credentials" not in field


async def test_a_client_that_is_no_browser_sees_nothing_of_this() -> None:
    """Ours: no bytes that nobody needs."""
    async with serving_without_sockets(http=SETTINGS) as (_, client):
        answer = await client.initialize()
        assert not [name for name in answer.headers if name.startswith("access-control")]
