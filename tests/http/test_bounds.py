"""What a client or a child can make the broker keep: nothing without end.

Where it is bytes that pile up, they are counted in the memory of a broker of its own process, with a flood
that is several times what may stay; where it is things, they are counted in this process, with small bounds.
Source: issue 4, "Done when" 6; style guide, "Data": every queue, buffer, table and wait has a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from stdio_broker.bridge import Owner
from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.http import Settings as HttpSettings
from stdio_broker.sessions import Settings as SessionSettings
from tests.support.broker_process import BrokerProcess, running_broker
from tests.support.edge import CHILD, Edge, serving
from tests.support.eras import (
    CELLS,
    LEGACY_TO_LEGACY,
    LEGACY_TO_MODERN,
    MODERN_TO_LEGACY,
    MODERN_TO_MODERN,
    AnyClient,
    Cell,
    modern_client,
    open_session,
    request_of,
    serving_principals,
    shared_child,
    with_token,
)
from tests.support.mcp_client import COMMENT, McpClient, Message, message_in, text_of
from tests.support.modern_client import EVERYTHING, ModernClient
from tests.support.processes import wait_until

MIB = 1024 * 1024
PIECE_BYTES = MIB
# In pieces: what is sent at somebody who does not read, and the most of it that may stay, with all that a
# process and its allocator need besides.
FLOOD, STAYS = 80, 32

TOOLS_CHANGED = "notifications/tools/list_changed"
# What a call that has a token sends, from the child that runs it.
STEP = '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":$ID,"progress":1}}'
# Of a broker whose log nobody reads, and that shall not wait for calls that nobody answers.
QUIET = ("--log-level", "warning", "--drain-grace", "0.5")
# So that an answer that is still to come becomes a stream at once.
QUICK = HttpSettings(keep_alive_interval=0.05)

every_cell = pytest.mark.parametrize("cell", CELLS, ids=str)
modern_clients = pytest.mark.parametrize("cell", [MODERN_TO_LEGACY, MODERN_TO_MODERN], ids=str)
in_kernel_terms = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what memory is in use")


# Bytes.


@pytest.fixture(scope="module")
async def brokers() -> AsyncIterator[dict[str, BrokerProcess]]:
    """Run a broker of its own process for each era of child."""
    async with (
        running_broker(*CHILD, "era=legacy", options=QUIET) as legacy,
        running_broker(*CHILD, "era=modern", options=QUIET) as modern,
    ):
        yield {"legacy": legacy, "modern": modern}


@contextlib.asynccontextmanager
async def warm(
    cell: Cell, brokers: dict[str, BrokerProcess]
) -> AsyncIterator[tuple[BrokerProcess, AnyClient]]:
    """Connect a client to the broker of a cell; both have seen some traffic."""
    broker = brokers[cell.child]
    client: AnyClient = ModernClient(broker.url, capabilities=EVERYTHING)
    if cell.client == "legacy":
        await client.__aexit__(None, None, None)
        client = await open_session(McpClient(broker.url))
    async with client:
        assert len(await client.ask("blob", bytes=4 * MIB)) == 4 * MIB
        await client.ask("measure", text="x" * 4 * MIB)
        yield broker, client
        if isinstance(client, McpClient):
            await client.delete()


def used_bytes(broker: BrokerProcess) -> int:
    """Return the memory that a broker has in use."""
    lines = Path(f"/proc/{broker.pid}/status").read_text(encoding="ascii").splitlines()
    (size,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(size) * 1024


def check_growth(broker: BrokerProcess, before: int, *, pieces: int = STAYS) -> None:
    """Fail if a broker has more memory in use than before, by more than may stay."""
    grown = used_bytes(broker) - before
    assert grown <= pieces * PIECE_BYTES, f"{grown / MIB:.0f} MiB more than before"


@contextlib.asynccontextmanager
async def deaf(
    client: AnyClient, message: Message | None, *, until: bytes = b"\r\n\r\n"
) -> AsyncIterator[None]:
    """Send a request, and read of its answer no more than up to some bytes. None is a GET."""
    verb, body = ("GET", b"") if message is None else ("POST", json.dumps(message).encode())
    if isinstance(client, ModernClient):
        fields = client.headers(message)
    else:
        fields = client.headers({"accept": "text/event-stream"} if message is None else None)
    url = httpx.URL(client.url)
    head = [f"{verb} {url.path} HTTP/1.1", f"host: {url.netloc.decode()}", f"content-length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in fields.multi_items()]
    with socket.socket() as connection:
        # What the kernel keeps is bounded, too, and soon full.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)  # noqa: FBT003 - the name of the argument is not one
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            await loop.sock_connect(connection, (url.host, url.port))
            await loop.sock_sendall(connection, "\r\n".join([*head, "", ""]).encode() + body)
            seen = b""
            while until not in seen:
                piece = await loop.sock_recv(connection, 256)
                assert piece, seen
                seen += piece
        yield


async def still_answers(client: AnyClient) -> None:
    """Fail unless a call still works."""
    assert await client.ask("echo", text="alive") == "alive"


async def get_through(client: AnyClient) -> None:
    """Wait until a call works, behind a flood.

    From legacy to legacy a flood goes to the stream of the call that is open, and may be too much for it.
    """
    async with asyncio.timeout(20):
        while "error" in await client.call("echo", text="through"):
            pass


@in_kernel_terms
@pytest.mark.parametrize("cell", [LEGACY_TO_LEGACY, MODERN_TO_LEGACY, MODERN_TO_MODERN], ids=str)
async def test_running_calls_keep_little_of_their_arguments(
    cell: Cell, brokers: dict[str, BrokerProcess]
) -> None:
    """Ours: a long argument must not stay in memory until the answer. First of all, while memory is as small.

    From legacy to modern it must: there the broker repeats the call with the answers to its questions.
    """
    async with warm(cell, brokers) as (broker, client), contextlib.AsyncExitStack() as stack:
        before = used_bytes(broker)
        padding = "x" * (FLOOD * PIECE_BYTES // 16)
        for _ in range(16):
            message = with_token(client.tool("raw", lines=[STEP], padding=padding), "mine")
            stream = await stack.enter_async_context(client.stream(message))
            # So the child has all of it.
            assert (await stream.message())["params"]["progressToken"] == "mine"
        await still_answers(client)
        check_growth(broker, before)


@in_kernel_terms
@every_cell
async def test_a_call_that_nobody_reads_keeps_little(cell: Cell, brokers: dict[str, BrokerProcess]) -> None:
    """Issue 4: a client that opens streams and never reads."""
    async with warm(cell, brokers) as (broker, client):
        if isinstance(client, ModernClient):
            client.log_level = "debug"
        message = client.tool("say", count=FLOOD, bytes=PIECE_BYTES)
        if isinstance(client, ModernClient):
            client.log_level = None
        before = used_bytes(broker)
        async with deaf(client, message):
            # The child is through with it, for it does one thing after the other.
            await get_through(client)
            check_growth(broker, before)
        await still_answers(client)


@in_kernel_terms
@modern_clients
async def test_listeners_that_never_read_keep_little(cell: Cell, brokers: dict[str, BrokerProcess]) -> None:
    """Issue 4, the same; protocol.md, 4.4: a bounded queue per stream, overflow ends the stream."""
    listeners = 3
    async with warm(cell, brokers) as (broker, client), contextlib.AsyncExitStack() as stack:
        assert isinstance(client, ModernClient)
        for _ in range(listeners):
            request = client.listen_request(toolsListChanged=True)
            await stack.enter_async_context(deaf(client, request, until=b"/acknowledged"))
        before = used_bytes(broker)
        padding = "x" * PIECE_BYTES
        for _ in range(2 * FLOOD // listeners):
            await client.ask("change", method=TOOLS_CHANGED, params={"padding": padding})
        check_growth(broker, before, pieces=2 * STAYS)
        await still_answers(client)


@in_kernel_terms
@pytest.mark.parametrize("cell", [LEGACY_TO_LEGACY, LEGACY_TO_MODERN], ids=str)
async def test_a_get_stream_that_nobody_reads_keeps_little(
    cell: Cell, brokers: dict[str, BrokerProcess]
) -> None:
    """Issue 4, the same."""
    async with warm(cell, brokers) as (broker, client):
        assert isinstance(client, McpClient)
        async with asyncio.timeout(10):
            while cell == LEGACY_TO_MODERN and not json.loads(await client.ask("subscriptions"))["listens"]:
                pass
        async with deaf(client, None):
            before = used_bytes(broker)
            padding = "x" * PIECE_BYTES
            for _ in range(FLOOD):
                await client.ask("change", method=TOOLS_CHANGED, params={"padding": padding})
            check_growth(broker, before)
        await still_answers(client)


@in_kernel_terms
@every_cell
async def test_a_child_that_floods_nobody_fills_nothing(
    cell: Cell, brokers: dict[str, BrokerProcess]
) -> None:
    """Issue 4: a child that floods notifications: of every kind that could be kept for somebody."""
    methods = ["message", "progress", "cancelled", "tools/list_changed", "resources/updated", "x/unknown"]
    async with warm(cell, brokers) as (broker, client):
        before = used_bytes(broker)
        for method in methods:
            arguments = {"count": FLOOD // 4, "bytes": PIECE_BYTES, "method": f"notifications/{method}"}
            assert await client.ask("say", after=True, **arguments) == "said"
            await get_through(client)
        await still_answers(client)
        check_growth(broker, before)


@in_kernel_terms
@pytest.mark.parametrize("cell", [LEGACY_TO_LEGACY, MODERN_TO_LEGACY], ids=str)
async def test_a_child_that_asks_and_does_not_read_fills_nothing(cell: Cell, tmp_path: Path) -> None:
    """Ours: pings are answered, and questions refused, as far as the child takes the answers."""
    asked, reads = tmp_path / "asked", tmp_path / "reads"
    program = (sys.executable, "-I", "-S", "-c", INQUISITIVE, str(asked), str(reads), str(FLOOD // 2))
    async with running_broker(*program, options=QUIET) as broker:
        client: AnyClient = ModernClient(broker.url, capabilities=EVERYTHING)
        if cell.client == "legacy":
            await client.__aexit__(None, None, None)
            client = await open_session(McpClient(broker.url))
        async with client:
            assert "result" in await client.call("rest")
            before = used_bytes(broker)
            assert "result" in await client.call("ask")
            await wait_until(asked.exists, 20)
            check_growth(broker, before)
            reads.touch()
            assert "result" in await client.call("rest")


# Answers everything; when the tool `ask` is called, it asks so much and reads nothing until a file is there.
INQUISITIVE = """
import json, os, sys, time
asked, reads, pieces = sys.argv[1:]
for line in sys.stdin:
    call = json.loads(line)
    if "method" not in call or "id" not in call:
        continue
    result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "tools": [], "content": [],
              "serverInfo": {"name": "inquisitive", "version": "1"}}
    print(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result}), flush=True)
    if call.get("params", {}).get("name") == "ask":
        for number in range(int(pieces) * 128):
            for method in ("ping", "elicitation/create"):
                name = f"{method}-{number}-" + "x" * 4096
                sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": name, "method": method}) + "\\n")
        sys.stdout.flush()
        open(asked, "w").close()
        while not os.path.exists(reads):
            time.sleep(0.01)
"""


@in_kernel_terms
async def test_parked_calls_keep_little_of_their_arguments() -> None:
    """Issue 4: a client that parks calls for ever; protocol.md, 4.3: bounded per principal."""
    # A broker of its own: where a server has asked once, calls take turns.
    async with (
        running_broker(*CHILD, options=QUIET) as broker,
        warm(MODERN_TO_LEGACY, {"legacy": broker}) as (
            _,
            client,
        ),
    ):
        before = used_bytes(broker)
        for _ in range(32):
            answer = await client.exchange(client.tool("ask", padding="x" * (FLOOD * PIECE_BYTES // 32)))
            assert answer["result"]["resultType"] == "input_required", str(answer)[:300]
        refused = await client.exchange(client.tool("ask"))
        assert refused["error"]["data"]["reason"] == "too many parked calls"
        await still_answers(client)
        check_growth(broker, before)


@in_kernel_terms
@modern_clients
async def test_states_that_are_no_states_keep_nothing(cell: Cell, brokers: dict[str, BrokerProcess]) -> None:
    """Issue 4: a huge requestState."""
    async with warm(cell, brokers) as (broker, client):
        before = used_bytes(broker)
        for _ in range(6):
            message = client.tool("ask")
            message["params"]["requestState"] = "A" * (16 * MIB)
            answer = await client.post(message)
            assert (answer.status_code, message_in(answer)["error"]["code"]) == (400, -32602)
        await still_answers(client)
        check_growth(broker, before, pieces=64)


# Things.


@modern_clients
async def test_listeners_are_bounded_and_leave_room_for_calls(cell: Cell) -> None:
    """Ours: `max_listeners`; the one too many gets 503 with Retry-After, and calls still work."""
    bounds = BridgeSettings(max_listeners=4)
    async with serving(cell.config(), bridge=bounds) as edge, cell.connected(edge) as client:
        assert isinstance(client, ModernClient)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                stream = await stack.enter_async_context(client.listen(toolsListChanged=True))
                await stream.message()
            refused = await client.post(client.listen_request(toolsListChanged=True))
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
            await still_answers(client)
        child = await shared_child(edge)
        await wait_until(lambda: not child.busy)
        async with client.listen(toolsListChanged=True) as stream:
            assert (await stream.message())["method"].endswith("/acknowledged")


@every_cell
async def test_calls_are_bounded(cell: Cell) -> None:
    """Ours: `max_calls`; the one too many gets 503 with Retry-After."""
    bounds = BridgeSettings(max_calls=4)
    async with serving(cell.config(), bridge=bounds, http=QUICK) as edge, cell.connected(edge) as client:
        await client.ask("pid")
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(4):
                stream = await stack.enter_async_context(client.stream(client.tool("wait")))
                if stream.headers["content-type"] == "application/json":
                    # A session's own stream of changes is a call of its modern child, too.
                    assert cell == LEGACY_TO_MODERN
                    (answer,) = await stream.rest()
                    assert answer["error"]["data"]["retryable"], answer
                    break
                assert await stream.next() == COMMENT
            else:
                refused = await client.post(client.tool("echo", text="one too many"))
                assert refused.status_code == 503, refused.text
                assert int(refused.headers["retry-after"]) >= 1


async def test_every_set_of_capabilities_is_a_child_and_children_are_bounded() -> None:
    """protocol.md, 4.1: one child per fingerprint; `max_sessions` bounds processes, whoever has them."""
    cell, places = MODERN_TO_LEGACY, 6
    nothing_or: list[Message | None] = [None, {}]
    elicitations: list[Message | None] = [None, {"form": {}}, {"url": {}}, {"form": {}, "url": {}}]
    samplings: list[Message | None] = [None, {}, {"tools": {}}, {"context": {}}, {"tools": {}, "context": {}}]
    settings = SessionSettings(max_sessions=places)
    async with serving(cell.config(), settings=settings) as edge, ModernClient(edge.url) as client:
        statuses = []
        for elicitation, sampling, roots in itertools.product(elicitations, samplings, nothing_or):
            declared = {"elicitation": elicitation, "sampling": sampling, "roots": roots}
            client.capabilities = {name: value for name, value in declared.items() if value is not None}
            statuses.append((await client.post(client.tool("pid"))).status_code)
        assert statuses == [200] * places + [503] * (40 - places)
        assert edge.children == places


@modern_clients
async def test_capabilities_that_nobody_knows_make_no_child_of_their_own(cell: Cell) -> None:
    """protocol.md, 4.1: the *normalised* capabilities; else a client could have any number of children."""
    async with serving(cell.config()) as edge, ModernClient(edge.url) as client:
        pids = set()
        for number in range(12):
            client.capabilities = {
                "elicitation": {"form": {"x": number}, f"mode{number}": {}},
                "experimental": {f"x{number}": {}},
                "extensions": {f"com.example/{number}": {}},
                f"unknown{number}": {},
            }
            pids.add(await client.ask("pid"))
        assert len(pids) == 1


@modern_clients
async def test_resources_of_one_listener_are_bounded(cell: Cell) -> None:
    """Ours: what a request can list has a bound, in words for its sender; a tenth of it is no problem."""
    async with serving(cell.config("resources")) as edge, cell.connected(edge) as client:
        assert isinstance(client, ModernClient)
        request = client.listen_request(resourceSubscriptions=[f"test:{number}" for number in range(20_000)])
        refused = await client.post(request)
        assert (refused.status_code, message_in(refused)["error"]["code"]) == (400, -32602)
        uris = [f"test:{number}" for number in range(100)]
        async with client.listen(resourceSubscriptions=uris) as stream:
            assert (await stream.message())["params"]["notifications"]["resourceSubscriptions"] == uris
            await still_answers(client)


async def test_resources_of_one_session_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: every table has a bound; the client is told in words."""
    cell = LEGACY_TO_MODERN
    # One of 1,024 would be right, too, but every subscription repeats all that were before it.
    monkeypatch.setattr("stdio_broker.bridge.watching.MAX_ELEMENTS", 8)
    async with serving(cell.config("resources")) as edge, cell.connected(edge) as client:
        for number in range(8):
            uri = f"test:{number}"
            for _ in range(2):  # the same one again is none
                answer = await client.exchange(request_of(client, "resources/subscribe", uri=uri))
                assert answer["result"] == {}
        refused = await client.exchange(request_of(client, "resources/subscribe", uri="test:8"))
        assert refused["error"]["code"] == -32603
        assert refused["error"]["data"]["reason"] == "too many subscriptions"
        gone = await client.exchange(request_of(client, "resources/unsubscribe", uri="test:0"))
        assert gone["result"] == {}
        accepted = await client.exchange(request_of(client, "resources/subscribe", uri="test:8"))
        assert accepted["result"] == {}


async def test_subscriptions_at_a_child_that_does_not_read_are_no_calls_in_flight() -> None:
    """Ours: what the broker asks of its own accord neither locks its client out nor piles up."""
    cell, bounds = MODERN_TO_LEGACY, BridgeSettings(max_calls=16)
    async with serving(cell.config("resources"), bridge=bounds) as edge, cell.connected(edge) as client:
        assert isinstance(client, ModernClient)
        child = await shared_child(edge)
        for round_ in range(5):
            assert await client.ask("stop_reading", seconds=0.2) == "not reading"
            uris = [f"test:{round_}-{number}" for number in range(100)]
            async with client.listen(resourceSubscriptions=uris) as stream:
                await stream.message()
                await still_answers(client)
        await wait_until(lambda: not child.busy and child.calls == 0)
        # What was subscribed to is not any more, and nothing of it was lost on the way.
        async with asyncio.timeout(10):
            while json.loads(await client.ask("subscriptions"))["watched"]:
                pass


@modern_clients
async def test_calls_whose_clients_hang_up_leave_nothing(cell: Cell) -> None:
    """protocol.md, 4.4: a disconnect is a cancel; a storm of them leaves neither calls nor exchanges."""
    async with serving(cell.config(), http=QUICK) as edge, cell.connected(edge) as client:
        child = await shared_child(edge)
        for _ in range(3):
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(10):
                    stream = await stack.enter_async_context(client.stream(client.tool("wait")))
                    assert await stream.next() == COMMENT
            await wait_until(lambda: child.calls == 0)
        assert await client.ask("release") == "0"


async def test_a_storm_of_retries_keeps_nothing() -> None:
    """Issue 4: a state that is brought back again and again resumes once, and is refused quickly after."""
    cell = MODERN_TO_LEGACY
    async with serving(cell.config()) as edge, cell.connected(edge) as client:
        assert isinstance(client, ModernClient)
        message = client.tool("ask")
        result = (await client.exchange(message))["result"]
        retry = client.retry(message, result, {key: {"action": "decline"} for key in result["inputRequests"]})
        statuses = []
        for _ in range(8):
            statuses += [
                answer.status_code
                for answer in await asyncio.gather(*(client.post(retry) for _ in range(25)))
            ]
        assert sorted(statuses) == [200] + [400] * 199
        child = await shared_child(edge)
        assert not child.busy


async def test_partial_answers_go_round_without_piling_up() -> None:
    """protocol.md, 4.3: missing keys: the same input_required again; each time with a state of its own."""
    cell, bounds = MODERN_TO_LEGACY, BridgeSettings(max_parked=1)
    async with serving(cell.config(), bridge=bounds) as edge, cell.connected(edge) as client:
        assert isinstance(client, ModernClient)
        message = client.tool("ask")
        first = result = (await client.exchange(message))["result"]
        for _ in range(100):
            result = (await client.exchange(client.retry(message, result, {})))["result"]
            assert result["inputRequests"] == first["inputRequests"]
        responses = {key: {"action": "decline"} for key in result["inputRequests"]}
        answer = await client.exchange(client.retry(message, result, responses))
        assert '"decline"' in text_of(answer)
        child = await shared_child(edge)
        assert not child.busy


@modern_clients
async def test_principals_that_only_bring_bad_states_are_not_remembered(cell: Cell) -> None:
    """Ours: nothing is kept for somebody who has no child."""
    async with serving_principals(cell.config()) as edge:
        await one_bad_state(edge, "warm-up")
        gc.collect()
        before = sum(isinstance(thing, Owner) for thing in gc.get_objects())
        for number in range(15):
            await one_bad_state(edge, f"user {number}")
        gc.collect()
        assert sum(isinstance(thing, Owner) for thing in gc.get_objects()) <= before + 1


async def one_bad_state(edge: Edge, subject: str) -> None:
    async with modern_client(edge, subject) as client:
        message = client.tool("ask")
        message["params"]["requestState"] = "made up"
        assert (await client.post(message)).status_code == 400


# Questions.


def many(count: int) -> Message:
    """Return so many questions by their keys."""
    params = {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}
    return {f"q{number}": {"method": "elicitation/create", "params": params} for number in range(count)}


async def test_questions_of_one_call_are_bounded_for_a_modern_client() -> None:
    """Ours: `max_questions`; more are refused to the child."""
    cell, bounds = MODERN_TO_LEGACY, BridgeSettings(max_questions=4)
    async with serving(cell.config(), bridge=bounds) as edge, cell.connected(edge) as client:
        assert isinstance(client, ModernClient)
        message = client.tool("ask", requests=many(200))
        result = (await client.exchange(message))["result"]
        assert len(result["inputRequests"]) == 4
        responses = {key: {"action": "decline"} for key in result["inputRequests"]}
        told = json.loads(text_of(await client.exchange(client.retry(message, result, responses))))
        answers = told["inputResponses"].values()
        assert [("error" in answer) for answer in answers].count(True) == 196


async def test_questions_of_one_call_are_bounded_for_a_legacy_client() -> None:
    """Ours: `max_questions`, over a modern child, which asks all at once: the call is ended in words."""
    cell, bounds = LEGACY_TO_MODERN, BridgeSettings(max_questions=4)
    async with serving(cell.config(), bridge=bounds) as edge, cell.connected(edge) as client:
        async with client.stream(client.tool("ask", requests=many(200))) as stream:
            messages = await asyncio.wait_for(stream.rest(), 10)
        assert [message.get("method") for message in messages] == [None]
        assert messages[0]["error"]["code"] == -32603
        await still_answers(client)
