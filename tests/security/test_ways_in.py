"""Ways past the gate: requests that no library would send, and proofs that are almost one.

The usual ways are in `http.test_gate`. Source: RFC 6750, section 2; RFC 9110, section 11; RFC 9112; identity
reference, R4, R7, T12, T18, and the attack record of section 7.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stdio_broker.auth import Settings as AuthSettings
from stdio_broker.http import Settings as HttpSettings
from tests.support.nodes import key_authenticator, key_store, node_configuration, server, serving_node

BODY = json.dumps(
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
).encode()
POST = b"POST /alpha/mcp HTTP/1.1"
PLAIN = (
    b"content-type: application/json",
    b"accept: application/json, text/event-stream",
    b"content-length: %d" % len(BODY),
)


@dataclass(frozen=True, slots=True)
class Door:
    """A node in front of which somebody stands.

    Attributes:
        port: Where it listens; alpha is everybody's with a key, beta Bernd's.
        anna: A key.
    """

    port: int
    anna: bytes

    async def say(self, line: bytes, *fields: bytes, body: bytes = b"", host: bytes = b"127.0.0.1") -> bytes:
        """Send a request as it stands, without the end of the connection; return the whole answer."""
        named = (b"host: " + host,) if host else ()
        head = b"\r\n".join([line, *named, *fields, b"connection: close", b"", b""])
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(head + body)
            async with asyncio.timeout(20):
                return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def standing_at(directory: Path) -> AsyncIterator[Door]:
    """Serve two servers until the block is left."""
    settings = AuthSettings(mode="keys", failure_burst=10_000)
    configuration = node_configuration(
        server("alpha"), server("beta", principals=frozenset({"bernd"})), http=HttpSettings(legacy_sse=True)
    )
    async with key_store(directory) as store:
        anna = (await store.create("anna")).text.encode()
        async with (
            key_authenticator(directory, settings) as authenticator,
            serving_node(configuration, authenticator=authenticator) as node,
        ):
            yield Door(int(node.url.rpartition(":")[2]), anna)


def status_of(answer: bytes) -> int:
    """Return the status of an answer."""
    return int(answer.split(b" ", 2)[1])


#: What is sent instead of `Authorization: Bearer KEY`; KEY stands for a key that is good.
ALMOST = {
    "no proof": [],
    "another scheme": [b"authorization: Basic KEY"],
    "no scheme": [b"authorization: KEY"],
    "a scheme that only begins so": [b"authorization: Bearerx KEY"],
    "a tab for a space": [b"authorization: Bearer\tKEY"],
    "no space": [b"authorization: BearerKEY"],
    "quotes": [b'authorization: Bearer "KEY"'],
    "a parameter": [b"authorization: Bearer token=KEY"],
    "something behind it": [b"authorization: Bearer KEY x"],
    "a comma behind it": [b"authorization: Bearer KEY,"],
    "padding": [b"authorization: Bearer KEY="],
    "twice": [b"authorization: Bearer KEY", b"authorization: Bearer KEY"],
    "a good one and a bad one": [b"authorization: Bearer KEY", b"authorization: Bearer x"],
    "a bad one and a good one": [b"authorization: Bearer x", b"authorization: Bearer KEY"],
    "a folded line": [b"authorization: Bearer", b" KEY"],
    "no break space": [b"authorization: Bearer\xa0KEY"],
    "a name that is not the field's": [b"authorization : Bearer KEY"],
    "an underscore": [b"authorization_: Bearer KEY"],
    "of a proxy": [b"proxy-authorization: Bearer KEY"],
    "forwarded": [b"x-forwarded-authorization: Bearer KEY", b"x-forwarded-user: anna"],
    "a cookie": [b"cookie: access_token=KEY; authorization=Bearer%20KEY"],
    "a huge one": [b"authorization: Bearer " + b"A" * 8193],
}


@pytest.mark.parametrize("fields", ALMOST.values(), ids=ALMOST.keys())
async def test_what_is_almost_a_proof_is_none(tmp_path: Path, fields: list[bytes]) -> None:
    """RFC 6750, 2.1: one field, one token; RFC 9112, 5.1 and 5.2: no space in a name, no folded lines."""
    async with standing_at(tmp_path) as door:
        sent = [field.replace(b"KEY", door.anna) for field in fields]
        answer = await door.say(POST, *PLAIN, *sent, body=BODY)
        assert status_of(answer) in {400, 401}, answer
        assert b"mcp-session-id" not in answer


@pytest.mark.parametrize("name", [b"access_token", b"key", b"token", b"authorization"])
async def test_a_key_in_the_query_is_none(tmp_path: Path, name: bytes) -> None:
    """Identity reference, R7: what stands in a URL stands in logs. Here it proves nothing."""
    async with standing_at(tmp_path) as door:
        for way in (b"POST /alpha/mcp", b"GET /alpha/sse", b"POST /alpha/messages"):
            line = way + b"?" + name + b"=" + door.anna + b" HTTP/1.1"
            assert status_of(await door.say(line, *PLAIN, body=BODY)) == 401


#: Targets that might lead to a server beside its gate, and what Anna hears there: never more than at home.
TARGETS = [
    b"//alpha/mcp",
    b"/alpha//mcp",
    b"/alpha/mcp/",
    b"/alpha/mcp/.",
    b"/alpha/mcp/../mcp",
    b"/beta/../alpha/mcp",
    b"/alpha/mcp%2f",
    b"/alpha%2fmcp",
    b"/%61lpha/mcp",
    b"/alpha/mcp%00",
    b"/alpha/mcp;x=1",
    b"/ALPHA/mcp",
    b"/alpha/MCP",
    b"/alpha/mcp#",
    b"/alpha\\mcp",
    b"/alpha/%ff",
    b"/.well-known/../alpha/mcp",
    b"http://127.0.0.1/alpha/mcp",
    b"http://evil.example/alpha/mcp",
    b"*",
]


@pytest.mark.parametrize("target", TARGETS)
async def test_however_a_path_is_written_nobody_comes_in_without_a_key(tmp_path: Path, target: bytes) -> None:
    """Ours: a path is compared as it was decoded, once, and what is at none of them asks for a key, too."""
    async with standing_at(tmp_path) as door:
        for verb in (b"POST", b"GET", b"DELETE", b"OPTIONS"):
            answer = await door.say(verb + b" " + target + b" HTTP/1.1", *PLAIN, body=BODY)
            assert status_of(answer) in {400, 401}, (verb, answer)


@pytest.mark.parametrize("target", [re.sub(b"alpha|%61lpha", b"beta", target) for target in TARGETS])
async def test_however_a_path_is_written_a_key_opens_no_server_that_is_not_for_it(
    tmp_path: Path, target: bytes
) -> None:
    """Ours: the server that a path leads to is the one whose gate is asked; and no error is logged."""
    async with standing_at(tmp_path) as door:
        proof = b"authorization: Bearer " + door.anna
        for verb in (b"POST", b"GET", b"DELETE", b"OPTIONS"):
            answer = await door.say(verb + b" " + target + b" HTTP/1.1", *PLAIN, proof, body=BODY)
            assert status_of(answer) in {400, 403, 404}, (verb, answer)
            assert b"/beta/mcp" not in answer, answer


@pytest.mark.parametrize("verb", [b"HEAD", b"PUT", b"PATCH", b"TRACE", b"OPTIONS", b"PROPFIND"])
async def test_an_unusual_verb_is_refused_before_it_is_looked_at(tmp_path: Path, verb: bytes) -> None:
    """Ours: to strangers all verbs look alike."""
    async with standing_at(tmp_path) as door:
        for path in (b"/alpha/mcp", b"/alpha/sse", b"/alpha/messages", b"/nothing"):
            answer = await door.say(verb + b" " + path + b" HTTP/1.1")
            assert status_of(answer) in {400, 401}, answer


async def test_a_request_without_a_host_or_with_two_is_refused(tmp_path: Path) -> None:
    """RFC 9112, 3.2; T18: which name was asked for must not be open to interpretation."""
    async with standing_at(tmp_path) as door:
        proof = b"authorization: Bearer " + door.anna
        assert (
            status_of(await door.say(b"POST /alpha/mcp HTTP/1.0", *PLAIN, proof, body=BODY, host=b"")) == 421
        )
        two = await door.say(POST, b"host: evil.example", *PLAIN, proof, body=BODY)
        assert status_of(two) in {400, 421}


async def test_a_key_in_the_trailers_comes_too_late(tmp_path: Path) -> None:
    """RFC 9110, 6.5.1: a field that decides about a request must not be taken from its trailers."""
    async with standing_at(tmp_path) as door:
        chunked = b"%x\r\n%s\r\n0\r\nauthorization: Bearer %s\r\n\r\n" % (len(BODY), BODY, door.anna)
        answer = await door.say(POST, *PLAIN[:2], b"transfer-encoding: chunked", body=chunked)
        assert status_of(answer) == 401


async def test_a_body_of_two_lengths_is_refused(tmp_path: Path) -> None:
    """RFC 9112, 6.3: a proxy that believes the other one would let a second request through, unseen."""
    async with standing_at(tmp_path) as door:
        proof = b"authorization: Bearer " + door.anna
        hidden = b"0\r\n\r\nGET /alpha/sse HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        length = b"content-length: %d" % len(hidden)
        answer = await door.say(POST, *PLAIN[:2], proof, length, b"transfer-encoding: chunked", body=hidden)
        assert status_of(answer) == 400
        assert answer.count(b"HTTP/1.1") == 1


# What a stranger learns.


async def test_a_page_of_a_foreign_name_learns_of_no_server(tmp_path: Path) -> None:
    """T18: /readyz is asked by balancers under any name; which servers are broken is not for everybody."""
    configuration = node_configuration(server("alpha"))
    async with serving_node(configuration) as node:
        door = Door(int(node.url.rpartition(":")[2]), b"")
        node.node.end_all()
        ours, foreign = [
            await door.say(b"GET /readyz HTTP/1.1", host=host) for host in (b"localhost", b"evil.example")
        ]
        assert status_of(ours) == status_of(foreign) == 503
        assert b"alpha" in ours
        assert foreign.endswith(b"\r\n\r\nnot ready\n")


async def test_answers_to_bad_keys_are_all_of_one_kind(tmp_path: Path) -> None:
    """R4: expired, revoked, never made, mistyped and cut off: to the byte the same, whatever is behind it."""
    async with key_store(tmp_path) as store:
        revoked = await store.create("anna")
        await store.revoke_id(revoked.id)
        expired = await store.create("anna", expires_at=time.time() - 1)
    async with standing_at(tmp_path) as door:
        keys = [revoked.text.encode(), expired.text.encode(), door.anna[:-1], door.anna.lower(), b"x"]
        answers = {
            await door.say(b"POST " + path + b" HTTP/1.1", b"authorization: Bearer " + key)
            for key in keys
            for path in (b"/alpha/mcp", b"/beta/mcp", b"/nothing/mcp", b"/alpha/messages?session_id=x")
        }
        assert len(answers) == 1, answers


async def test_what_a_stranger_sends_does_not_fill_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ours: a refusal is logged before anybody has shown a key."""
    caplog.set_level(logging.INFO, logger="stdio_broker.http")
    async with standing_at(tmp_path) as door:
        long = b"x" * 15_000
        for fields, host in (((), long), ((b"origin: https://" + long,), b"127.0.0.1")):
            assert status_of(await door.say(POST, *fields, host=host)) in {421, 403}
        assert status_of(await door.say(b"POST /" + long + b" HTTP/1.1", host=long)) == 421
    assert caplog.messages == ["request.refused"] * 3
    assert all(len(str(vars(record))) < 2_000 for record in caplog.records)
