"""What arrives on the socket: HTTP that is too long, too slow, or none; and the listening socket itself."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from stdio_broker.errors import BrokerError, ConfigError
from stdio_broker.http import Settings, bind
from stdio_broker.http.server import _explain
from tests.support.edge import Edge, serving
from tests.support.mcp_client import raw_http
from tests.support.processes import wait_until

HEAD = (
    b"POST /mcp HTTP/1.1\r\nHost: $HOST\r\nContent-Type: application/json\r\n"
    b"Accept: application/json, text/event-stream\r\n"
)
GET = b"GET /healthz HTTP/1.1\r\nHost: $HOST\r\n"


async def raw(edge: Edge, *pieces: bytes, timeout: float = 5.0) -> bytes:
    """Send pieces and return everything that comes until the server closes the connection."""
    return await raw_http(edge.url, *pieces, timeout=timeout)


def statuses(answers: bytes) -> list[int]:
    """Return the status of every answer."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answers)]


async def still_serves(edge: Edge) -> bool:
    """Tell whether the server answers others."""
    return statuses(await raw(edge, GET + b"Connection: close\r\n\r\n")) == [200]


@contextlib.asynccontextmanager
async def connection(edge: Edge) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to the server."""
    url = httpx.URL(edge.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


# Too long.


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([GET + b"".join(b"x-%d: y\r\n" % n for n in range(5000)) + b"\r\n"], id="many fields"),
        pytest.param([GET + b"x: " + b"y" * 50_000 + b"\r\n\r\n"], id="a long field"),
        pytest.param([GET + b"x" * 50_000 + b": y\r\n\r\n"], id="a long name"),
        pytest.param([b"GET /" + b"x" * 50_000 + b" HTTP/1.1\r\nHost: $HOST\r\n\r\n"], id="a long path"),
        pytest.param([GET + b"x: "] + [b"y" * 50_000] * 40, id="a field without end"),
        pytest.param([b"GET /"] + [b"y" * 50_000] * 40, id="a path without end"),
        pytest.param([GET] + [b"x: y\r\n" * 1000] * 100, id="a head without end"),
    ],
)
async def test_a_head_over_the_limit_is_a_bad_request_and_the_end_of_the_connection(
    pieces: list[bytes],
) -> None:
    """Ours: `max_header_bytes`; without it one client fills our memory."""
    async with serving() as edge:
        answer = await raw(edge, *pieces)
        # The server may hang up while we still send; what it has said is lost then.
        assert statuses(answer) in ([400], [])
        assert await still_serves(edge)


async def test_trailers_without_end_are_the_end_of_the_connection() -> None:
    """Ours: what follows a chunked body is a head too."""
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n"
    async with serving() as edge:
        answer = await raw(edge, chunked, *[b"x: y\r\n" * 1000] * 100)
        assert statuses(answer) in ([400], [])
        assert await still_serves(edge)


async def test_a_body_that_says_that_it_is_too_long_is_not_waited_for() -> None:
    """protocol.md, 1: 413; nothing of the body is needed to say so."""
    async with serving(http=Settings(max_body_bytes=1000)) as edge:
        head = HEAD + b"Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
        async with connection(edge) as (reader, writer), asyncio.timeout(5):
            writer.write(head.replace(b"$HOST", b"127.0.0.1"))
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")


async def test_a_chunked_body_is_too_long_as_soon_as_it_is() -> None:
    """protocol.md, 1: 413, also where the length is not known before."""
    async with serving(http=Settings(max_body_bytes=1000)) as edge:
        head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        async with connection(edge) as (reader, writer), asyncio.timeout(5):
            writer.write(head.replace(b"$HOST", b"127.0.0.1") + b"1f4\r\n" + b"x" * 500 + b"\r\n")
            writer.write(b"1f5\r\n" + b"x" * 501 + b"\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")


async def test_a_chunked_body_is_a_body() -> None:
    """RFC 9112, 7.1: every recipient MUST understand chunked."""
    async with serving() as edge:
        body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        answer = await raw(
            edge, HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n", chunks[:50], chunks[50:]
        )
        assert statuses(answer) == [400]
        assert b"Mcp-Session-Id" in answer


async def test_a_client_that_waits_for_100_continue_is_told_to_go_on() -> None:
    """RFC 9110, 10.1.1; curl does it for bodies of 1 MiB and more."""
    async with serving() as edge, connection(edge) as (reader, writer), asyncio.timeout(5):
        head = HEAD + b"Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
        writer.write(head.replace(b"$HOST", b"127.0.0.1"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 100 ")
        writer.write(b"{}")
        assert statuses(await reader.read()) == [400]


# Too slow.


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"POST /mc", id="half a line"),
        pytest.param(HEAD, id="half a head"),
        pytest.param(HEAD + b"Content-Length: 10\r\n\r\n", id="no body"),
        pytest.param(HEAD + b"Content-Length: 10\r\n\r\n{", id="half a body"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", id="half of the chunks"),
    ],
)
async def test_a_client_that_pauses_within_a_request_is_timed_out(start: bytes) -> None:
    """Ours: 408 after `receive_timeout`, and the connection is closed."""
    async with serving(http=Settings(receive_timeout=0.2)) as edge:
        assert statuses(await raw(edge, start)) == [408]
        assert await still_serves(edge)


async def test_a_slow_client_that_never_pauses_for_long_is_waited_for() -> None:
    """Ours: `receive_timeout` bounds each pause, not the whole upload."""
    settings = Settings(receive_timeout=0.3)
    async with serving(http=settings) as edge, connection(edge) as (reader, writer):
        async with asyncio.timeout(5):
            writer.write(
                HEAD.replace(b"$HOST", b"127.0.0.1") + b"Content-Length: 8\r\nConnection: close\r\n\r\n"
            )
            for byte in b"nonsense":
                await asyncio.sleep(0.08)
                writer.write(bytes([byte]))
            assert statuses(await reader.read()) == [400]


async def test_a_connection_may_be_silent_between_requests() -> None:
    """Ours: `receive_timeout` is about requests; clients and proxies keep connections."""
    settings = Settings(receive_timeout=0.1)
    async with serving(http=settings) as edge, connection(edge) as (reader, writer):
        async with asyncio.timeout(5):
            for _ in range(2):
                writer.write(GET.replace(b"$HOST", b"127.0.0.1") + b"\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
                assert (await reader.readuntil(b"ok\n")).endswith(b"ok\n")
                await asyncio.sleep(0.3)


async def test_a_call_may_take_longer_than_a_request_may_pause() -> None:
    """Ours: `receive_timeout` ends with the request's last byte."""
    async with serving(http=Settings(receive_timeout=0.1)) as edge, edge.client() as client:
        await client.open()
        assert await client.ask("wait", seconds=0.4) == "waited"


async def test_a_client_that_does_not_read_is_disconnected() -> None:
    """Ours: `write_timeout`; what it has not read may not hold a connection for ever."""
    async with serving(http=Settings(write_timeout=0.2)) as edge, edge.client() as client:
        await client.open()
        head = f"GET /mcp HTTP/1.1\r\nHost: $HOST\r\nMcp-Session-Id: {client.session_id}\r\n".encode()
        before = open_sockets()
        async with connection(edge) as (_, writer):
            writer.transport.pause_reading()  # type: ignore[attr-defined] # a transport that reads
            # Otherwise the kernel takes tens of megabytes for it.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            writer.write(head.replace(b"$HOST", b"127.0.0.1") + b"Accept: text/event-stream\r\n\r\n")
            await wait_until(lambda: open_sockets() == before + 2)
            # More than all the buffers on the way take.
            for _ in range(20):
                await client.ask(
                    "say", count=20, bytes=50_000, method="notifications/resources/updated", after=True
                )
            await wait_until(lambda: open_sockets() == before + 1, timeout=5)


def open_sockets() -> int:
    """Return how many sockets this process has open."""
    count = 0
    for entry in list(Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError):
            count += os.path.realpath(entry).rpartition("/")[2].startswith("socket:")
    return count


# No HTTP, or not what one expects.


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"nonsense\r\n\r\n", b"\r\n\r\nGET"]
)
async def test_what_is_no_http_is_a_bad_request(garbage: bytes) -> None:
    """RFC 9112, 2.2: such as a client that speaks TLS to us."""
    async with serving(http=Settings(receive_timeout=0.5)) as edge:
        assert statuses(await raw(edge, garbage)) in ([400], [408])
        assert await still_serves(edge)


@pytest.mark.parametrize(
    "length", [b"-1", b"1x", b"99999999999999999999999", b"1\r\nContent-Length: 2", b"5, 5"]
)
async def test_a_length_that_is_no_length_is_a_bad_request(length: bytes) -> None:
    """RFC 9112, 6.3: an invalid Content-Length is unrecoverable, else requests can be smuggled."""
    async with serving() as edge:
        assert statuses(await raw(edge, HEAD + b"Content-Length: " + length + b"\r\n\r\n{}")) == [400]


async def test_a_length_beside_chunks_is_a_bad_request() -> None:
    """RFC 9112, 6.1: a message with both is handled as an error, else requests can be smuggled."""
    both = b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    async with serving() as edge:
        assert statuses(await raw(edge, HEAD + both)) == [400]


async def test_two_requests_in_one_packet_are_answered_in_order() -> None:
    """RFC 9112, 9.3.2: pipelining."""
    first = GET + b"\r\n"
    second = b"GET /nothing HTTP/1.1\r\nHost: $HOST\r\nConnection: close\r\n\r\n"
    async with serving() as edge:
        assert statuses(await raw(edge, first + second.replace(b"$HOST", b"127.0.0.1"))) == [200, 404]


async def test_a_client_that_offers_http_2_is_answered_in_http_1() -> None:
    """RFC 9110, 7.8: an upgrade may be ignored; Java's HttpClient offers one with its first requests."""
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    async with serving() as edge, connection(edge) as (reader, writer):
        async with asyncio.timeout(5):
            for _ in range(2):
                head = HEAD + upgrade + b"Content-Length: %d\r\n\r\n" % len(body)
                writer.write(head.replace(b"$HOST", b"127.0.0.1"))
                writer.write(body)
                answer = await reader.readuntil(b"\r\n\r\n")
                assert statuses(answer) == [400]
                length = int(answer.lower().partition(b"content-length: ")[2].split()[0])
                error = json.loads(await reader.readexactly(length))
                assert (error["id"], error["error"]["code"]) == (1, -32600)


async def test_a_head_request_gets_no_body() -> None:
    """RFC 9110, 9.3.2."""
    async with serving() as edge:
        answer = await raw(edge, b"HEAD /mcp HTTP/1.1\r\nHost: $HOST\r\nConnection: close\r\n\r\n")
        assert statuses(answer) == [405]
        assert answer.endswith(b"\r\n\r\n")


async def test_a_request_without_a_host_is_misdirected() -> None:
    """RFC 9112, 3.2: 400 or, as here, 421; never served."""
    async with serving() as edge:
        answer = await raw(edge, b"GET /mcp HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert statuses(answer) in ([400], [421])


async def test_no_answer_names_the_software_or_leaks_a_path() -> None:
    """Ours: nothing that helps an attacker, and no bytes that nobody needs."""
    async with serving() as edge:
        answer = await raw(edge, GET + b"Connection: close\r\n\r\n")
        assert b"server:" not in answer.lower()


# Listening.


def test_a_free_port_is_found() -> None:
    """design.md, 5: `--port 0`."""
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        assert listener.getsockname()[1] > 0
        assert not listener.getblocking()


def test_a_port_in_use_is_named_with_a_way_out() -> None:
    """Style guide, "Errors": messages say what was found, and what to do."""
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(BrokerError, match=f"{port}.*--port"):
            bind("127.0.0.1", port)


def test_a_port_that_has_just_been_closed_can_be_taken() -> None:
    """Ours: a restart must not wait for TIME_WAIT."""
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as client:
            accepted = _accept(listener)
            accepted.close()  # the side that closes first gets TIME_WAIT
            assert client.recv(1) == b""
    bind("127.0.0.1", address[1]).close()


def _accept(listener: socket.socket) -> socket.socket:
    listener.settimeout(5)
    return listener.accept()[0]


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "999.1.1.1"])
def test_a_host_that_is_not_ours_is_a_mistake_in_the_configuration(host: str) -> None:
    """Style guide, "Errors": it is the operator's to mend (exit code 2)."""
    with pytest.raises(ConfigError, match="--host"):
        bind(host, 0)


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.EACCES, BrokerError, "above 1023"),
        (errno.EADDRNOTAVAIL, ConfigError, "--host"),
        (errno.EMFILE, BrokerError, "open files"),
    ],
)
def test_what_the_system_refuses_is_told_in_words(number: int, kind: type[BrokerError], told: str) -> None:
    """Style guide, "Errors": messages say what was found, and what to do."""
    problem = _explain(OSError(number, os.strerror(number)), "127.0.0.1", 80)
    assert type(problem) is kind
    assert told in str(problem)
