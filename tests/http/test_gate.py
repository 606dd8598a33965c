"""Who is let in, and what everybody else hears: real keys in front of a whole node.

Source: RFC 6750, section 3; MCP 2025-11-25, basic/authorization; identity reference, R4 and R14.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import httpx
import pytest

from stdio_broker.auth import Settings as AuthSettings
from stdio_broker.auth.store import KeyStore
from stdio_broker.http import Settings as HttpSettings
from tests.support.eras import answer_of, open_session
from tests.support.mcp_client import COMMENT, JSON_HEADERS, McpClient, message_in
from tests.support.nodes import (
    ServingNode,
    key_authenticator,
    key_store,
    node_configuration,
    server,
    serving_node,
)
from tests.support.processes import wait_until

NOTHING_PRESENTED = 'Bearer realm="stdio-broker"'
NOT_VALID = 'Bearer realm="stdio-broker", error="invalid_token"'
SESSION = "0badcafe-000102030405060708090a0b0c0d0e0f-00112233445566778899"
PAGE = {"origin": "http://127.0.0.1", "access-control-request-method": "POST"}
STREAM = {"accept": "text/event-stream"}
INITIALIZE = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
)

#: Verb, path below the server's, header fields, body.
Way: TypeAlias = tuple[str, str, dict[str, str], str]

#: Every way in.
WAYS: dict[str, Way] = {
    "POST": ("POST", "mcp", JSON_HEADERS, INITIALIZE),
    "POST of rubbish": ("POST", "mcp", {}, "{"),
    "POST in a session": ("POST", "mcp", {**JSON_HEADERS, "mcp-session-id": SESSION}, INITIALIZE),
    "GET": ("GET", "mcp", {**STREAM, "mcp-session-id": SESSION}, ""),
    "GET to resume": ("GET", "mcp", {**STREAM, "mcp-session-id": SESSION, "last-event-id": "1-1"}, ""),
    "DELETE": ("DELETE", "mcp", {"mcp-session-id": SESSION}, ""),
    "SSE stream": ("GET", "sse", STREAM, ""),
    "SSE message": ("POST", "messages?session_id=unknown", JSON_HEADERS, INITIALIZE),
    "SSE message of rubbish": ("POST", "messages", {}, "{"),
}

#: What comes no further than the guards, or would not if it were let in.
OTHERS: dict[str, Way] = {
    "preflight": ("OPTIONS", "mcp", PAGE, ""),
    "PUT": ("PUT", "mcp", {}, ""),
    "foreign host": ("POST", "mcp", {**JSON_HEADERS, "host": "evil.example"}, INITIALIZE),
    "foreign page": ("POST", "mcp", {**JSON_HEADERS, "origin": "https://evil.example"}, INITIALIZE),
}


@dataclass(frozen=True, slots=True)
class Guarded:
    """A node with three servers, all of them with the transport of 2024-11-05, too.

    Attributes:
        node: alpha is everybody's, beta Bernd's, gamma nobody's.
        keys: All keys, as another process changes them.
        anna: A key that is good for every server whose principals Anna is among.
        bernd: The same of Bernd's.
        narrow: A key of Bernd's for alpha only.
        http: Connections of somebody who presents what a test says.
    """

    node: ServingNode
    keys: KeyStore
    anna: str
    bernd: str
    narrow: str
    http: httpx.AsyncClient

    async def ask(self, way: str | Way, authorization: str | None, *, name: str = "alpha") -> httpx.Response:
        """Come in on a way, or on one of `WAYS` or `OTHERS`."""
        verb, path, fields, body = {**WAYS, **OTHERS}[way] if isinstance(way, str) else way
        proof = {} if authorization is None else {"authorization": authorization}
        async with asyncio.timeout(20):
            return await self.http.request(
                verb, f"{self.node.url}/{name}/{path}", headers={**fields, **proof}, content=body
            )


@contextlib.asynccontextmanager
async def guarded(directory: Path, settings: AuthSettings | None = None) -> AsyncIterator[Guarded]:
    """Serve three servers to the bearers of keys until the block is left."""
    settings = settings or AuthSettings(mode="keys", failure_burst=1000)
    configuration = node_configuration(
        server("alpha"),
        server("beta", principals=frozenset({"bernd"})),
        server("gamma", principals=frozenset()),
        http=HttpSettings(legacy_sse=True),
    )
    async with key_store(directory) as store:
        anna = await store.create("anna")
        bernd = await store.create("bernd")
        narrow = await store.create("bernd", servers=frozenset({"alpha"}))
        async with (
            key_authenticator(directory, settings) as authenticator,
            serving_node(configuration, authenticator=authenticator) as node,
            httpx.AsyncClient(trust_env=False, verify=False) as http,  # noqa: S501 - there is no TLS
        ):
            http.headers.clear()
            yield Guarded(node, store, anna.text, bernd.text, narrow.text, http)


# Who is nobody.


async def test_without_a_key_every_way_in_is_challenged(tmp_path: Path) -> None:
    """RFC 6750, section 3.1: without a proof the challenge has no error code. Ours: before all else."""
    async with guarded(tmp_path) as edge:
        for way in WAYS:
            answers = [await edge.ask(way, authorization) for authorization in (None, "", "Basic YTpi")]
            assert [answer.status_code for answer in answers] == [401] * 3, way
            assert {answer.headers["www-authenticate"] for answer in answers} == {NOTHING_PRESENTED}
            assert len({answer.text for answer in answers}) == 1
        await wait_until(lambda: not edge.node.children, what="only trials of the servers")


async def test_with_a_bad_key_every_way_in_is_challenged_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    """RFC 6750, section 3.1: invalid_token. Ours: one answer, to the byte, for all that is wrong."""
    async with guarded(tmp_path) as edge:
        expired = await edge.keys.create("anna", expires_at=time.time() - 1)
        revoked = await edge.keys.create("anna")
        await edge.keys.revoke_id(revoked.id)
        bad = ("x", edge.anna[:-1], edge.anna + "x", f"{edge.anna}, x", expired.text, revoked.text)
        for way in WAYS:
            answers = [await edge.ask(way, f"Bearer {key}") for key in bad]
            assert len({repr(answer_of(answer)) for answer in answers}) == 1, way
            assert (answers[0].status_code, answers[0].headers["www-authenticate"]) == (401, NOT_VALID)
            assert "anna" not in answers[0].text
            assert message_in(answers[0])["id"] is None


async def test_the_answer_to_nobody_does_not_tell_which_servers_there_are(tmp_path: Path) -> None:
    """Ours: a stranger learns nothing, not even from a preflight, a wrong verb or a wrong name of ours."""
    async with guarded(tmp_path) as edge:
        for way in (*WAYS, "preflight", "PUT", "foreign host", "foreign page"):
            for authorization in (None, "Bearer x"):
                there = answer_of(await edge.ask(way, authorization))
                not_there = answer_of(await edge.ask(way, authorization, name="delta"))
                assert there == not_there, way


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER   {}"])
async def test_a_good_key_opens_whatever_the_scheme_is_written_like(tmp_path: Path, form: str) -> None:
    """RFC 9110, section 11.1: the scheme is case-insensitive."""
    async with guarded(tmp_path) as edge:
        answer = await edge.ask("POST", form.format(edge.anna))
        assert answer.status_code == 200
        assert "www-authenticate" not in answer.headers


async def test_a_preflight_needs_no_key(tmp_path: Path) -> None:
    """WHATWG Fetch: a browser sends no Authorization with a preflight, so who wants one breaks pages."""
    async with guarded(tmp_path) as edge:
        for path in ("mcp", "sse", "messages"):
            answer = await edge.ask(("OPTIONS", path, PAGE, ""), None)
            assert answer.status_code == 204
            assert "authorization" in answer.headers["access-control-allow-headers"]
        # The answer to what follows must be readable: it says why the page is not let in.
        answer = await edge.ask(("POST", "mcp", {**JSON_HEADERS, "origin": PAGE["origin"]}, INITIALIZE), None)
        assert answer.status_code == 401
        assert "www-authenticate" in answer.headers["access-control-expose-headers"]


async def test_a_foreign_page_is_refused_with_a_good_key(tmp_path: Path) -> None:
    """MCP 2025-11-25, basic/transports, "Security Warning": a key does not replace the Origin guard."""
    async with guarded(tmp_path) as edge:
        fields = {**JSON_HEADERS, "origin": "https://evil.example"}
        answer = await edge.ask(("POST", "mcp", fields, INITIALIZE), f"Bearer {edge.anna}")
        assert answer.status_code == 403
        await wait_until(lambda: not edge.node.children, what="only trials of the servers")


# Who may not.


@pytest.mark.parametrize("who", ["anna", "narrow"])
async def test_a_server_that_a_key_may_not_use_looks_like_one_that_is_not_there(
    tmp_path: Path, who: str
) -> None:
    """Identity reference, R14: who may not use everything does not learn what there is.

    Anna is not among the principals of beta; the narrow key of Bernd's, who is, is for alpha only.
    """
    async with guarded(tmp_path) as edge:
        for way in (*WAYS, "preflight", "PUT"):
            # Names of one length, which is all that may differ.
            foreign, missing = [
                await edge.ask(way, f"Bearer {getattr(edge, who)}", name=name) for name in ("beta", "zeta")
            ]
            assert foreign.status_code == (204 if way == "preflight" else 403), way
            assert repr(answer_of(foreign)).replace("beta", "zeta") == repr(answer_of(missing)), way
            assert "gamma" not in missing.text
        await wait_until(lambda: not edge.node.children, what="only trials of the servers")


async def test_a_wrong_path_of_ones_own_server_names_the_endpoints_that_one_may_use(tmp_path: Path) -> None:
    """Ours: 404 helps whoever has mistyped something, and tells nobody more than that."""
    async with guarded(tmp_path) as edge:
        wrong = ("GET", "mpc", STREAM, "")
        answer = await edge.ask(wrong, f"Bearer {edge.anna}")
        assert answer.status_code == 404
        assert answer.text.count("/mcp") == answer.text.count("/alpha/mcp") == 1
        assert (await edge.ask(wrong, f"Bearer {edge.anna}", name="beta")).status_code == 403
        assert (await edge.ask(wrong, f"Bearer {edge.bernd}", name="beta")).status_code == 404


async def test_whoever_is_among_the_principals_is_let_in(tmp_path: Path) -> None:
    """Ours: and nobody is among none."""
    async with guarded(tmp_path) as edge:
        expected = {
            (edge.anna, "alpha"): 200,
            (edge.anna, "beta"): 403,
            (edge.bernd, "alpha"): 200,
            (edge.bernd, "beta"): 200,
            (edge.narrow, "alpha"): 200,
            (edge.narrow, "beta"): 403,
            (edge.bernd, "gamma"): 403,
        }
        found = {
            (key, name): (await edge.ask("POST", f"Bearer {key}", name=name)).status_code
            for key, name in expected
        }
        assert found == expected


# Whose is it?


async def test_a_session_of_another_principal_is_an_unknown_one_on_every_verb(tmp_path: Path) -> None:
    """Design decision 7; and after all tries it works for its owner."""
    async with guarded(tmp_path) as edge, edge.node.legacy("alpha", edge.anna) as anna:
        await open_session(anna)
        assert anna.session_id is not None
        body = json.dumps(anna.tool("echo", text="hello"))
        for verb, fields, content in (
            ("POST", JSON_HEADERS, body),
            ("GET", STREAM, ""),
            ("DELETE", {}, ""),
        ):
            foreign, unknown = [
                await edge.ask(
                    (
                        verb,
                        "mcp",
                        {**fields, "mcp-session-id": session, "mcp-protocol-version": "2025-11-25"},
                        content,
                    ),
                    f"Bearer {edge.bernd}",
                )
                for session in (anna.session_id, SESSION)
            ]
            assert answer_of(foreign) == answer_of(unknown)
            assert foreign.status_code == 404
        assert await anna.ask("echo", text="still here") == "still here"


async def test_a_session_needs_the_key_with_every_request(tmp_path: Path) -> None:
    """MCP 2025-11-25, basic/authorization: a session proves nothing."""
    async with guarded(tmp_path) as edge, edge.node.legacy("alpha", edge.anna) as anna:
        await open_session(anna)
        async with McpClient(anna.url) as thief:
            thief.session_id, thief.version = anna.session_id, anna.version
            assert (await thief.post(thief.tool("echo", text="hello"))).status_code == 401
            assert (await thief.send("GET", STREAM)).status_code == 401
            assert (await thief.delete()).status_code == 401
        assert await anna.ask("echo", text="still here") == "still here"


async def test_another_key_of_the_same_principal_is_as_good(tmp_path: Path) -> None:
    """Design, 1: a session is the principal's, not the key's."""
    async with (
        guarded(tmp_path) as edge,
        edge.node.legacy("alpha", edge.bernd) as first,
        edge.node.legacy("alpha", edge.narrow) as second,
    ):
        await open_session(first)
        second.session_id, second.version = first.session_id, first.version
        assert await second.ask("pid") == await first.ask("pid")


async def test_a_stream_of_2024_11_05_is_its_principals_own(tmp_path: Path) -> None:
    """MCP 2024-11-05, basic/transports; ours: every message is checked against who opened the stream."""
    async with (
        guarded(tmp_path) as edge,
        edge.http.stream(
            "GET",
            f"{edge.node.url}/alpha/sse",
            headers={**STREAM, "authorization": f"Bearer {edge.anna}"},
        ) as response,
    ):
        lines = response.aiter_lines()
        assert await anext(lines) == "event: endpoint"
        path = (await anext(lines)).removeprefix("data: ").removeprefix("/alpha/")
        unknown = path.replace("session_id=", "session_id=x")
        answers = {
            authorization: [
                answer_of(await edge.ask(("POST", to, JSON_HEADERS, INITIALIZE), authorization))
                for to in (path, unknown)
            ]
            for authorization in (None, "Bearer x", f"Bearer {edge.bernd}")
        }
        assert [pair[0] == pair[1] for pair in answers.values()] == [True] * 3
        assert [pair[0][0] for pair in answers.values()] == [401, 401, 404]
        accepted = await edge.ask(("POST", path, JSON_HEADERS, INITIALIZE), f"Bearer {edge.anna}")
        assert accepted.status_code == 202
        async for line in lines:
            if line.startswith("data:"):
                assert '"mcp-child"' in line
                break
            assert line in {"", "event: message", COMMENT.decode()}


# How often.


async def test_bad_keys_are_limited_and_good_ones_never(tmp_path: Path) -> None:
    """Issue 5: rate-limited failures; ours: without refusing who is right, or who asks how to be."""
    settings = AuthSettings(mode="keys", failure_burst=3, failures_per_minute=0.01)
    async with guarded(tmp_path, settings) as edge:
        answers = [await edge.ask("POST", "Bearer x") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [401] * 3 + [429] * 2
        assert int(answers[-1].headers["retry-after"]) > 1
        assert "www-authenticate" not in answers[-1].headers
        # On every way, and for every server: it is the address that is limited.
        for name in ("beta", "delta"):
            assert (await edge.ask("GET", "Bearer x", name=name)).status_code == 429
        assert (await edge.ask("POST", f"Bearer {edge.anna}")).status_code == 200
        for _ in range(5):
            assert (await edge.ask("POST", None)).status_code == 401
