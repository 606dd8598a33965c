"""A child that ends in the middle of things: every kind of exchange in every cell, in four ways of ending.

Whoever waits is told, promptly and in a form that programs can read; streams end as the revision of their
client says; listeners learn that things may have changed; and the next request is served by a new child.
Source: issue 4, "Done when" 5; protocol.md, 2.2 and 9.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from stdio_broker.http import Settings as HttpSettings
from stdio_broker.sessions import ANONYMOUS
from stdio_broker.supervisor import Config
from tests.support.edge import CHILD, Edge, serving
from tests.support.eras import (
    CELLS,
    LEGACY_TO_LEGACY,
    LEGACY_TO_MODERN,
    MODERN_TO_LEGACY,
    MODERN_TO_MODERN,
    AnyClient,
    Cell,
    open_session,
    request_of,
    shared_child,
    with_token,
)
from tests.support.mcp_client import COMMENT, EventStream, McpClient, Message, message_in
from tests.support.modern_client import EVERYTHING, SUBSCRIPTION, ModernClient
from tests.support.processes import wait_until

# What "prompt" is here, in seconds, on a machine that does other things too. A child that closes stdout and
# lives on is waited for half a second.
PROMPT = 8.0

# So that an answer that is still to come becomes a stream at once.
QUICK = HttpSettings(keep_alive_interval=0.05)

TOOLS_CHANGED = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"
URI = "test:one"

# What a call that has a token sends, from the child that runs it.
STEP = '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":$ID,"progress":1}}'


@dataclass(frozen=True, slots=True)
class Way:
    """How a child ends.

    Attributes:
        name: For the test's id.
        tool: What makes it end so.
        arguments: Of that tool.
        code: What makes a Python program end so.
        data: What clients are told.
    """

    name: str
    tool: str
    arguments: Message
    code: str
    data: Message


ENDED = "server process ended"
SIGKILL = Way("SIGKILL", "die", {"signal": 9}, "os.kill(os.getpid(), 9)", {"reason": ENDED, "signal": 9})
EXIT_3 = Way("exit 3", "die", {"code": 3}, "os._exit(3)", {"reason": ENDED, "exitCode": 3})
WAYS = (
    SIGKILL,
    Way("exit 0", "die", {"code": 0}, "os._exit(0)", {"reason": ENDED, "exitCode": 0}),
    EXIT_3,
    Way(
        "closes stdout",
        "close_stdout",
        {},
        "os.close(1); sys.stdin.read()",
        {"reason": "server closed its output"},
    ),
)

every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
every_cell = pytest.mark.parametrize("cell", CELLS, ids=str)
modern_clients = pytest.mark.parametrize("cell", [MODERN_TO_LEGACY, MODERN_TO_MODERN], ids=str)
legacy_clients = pytest.mark.parametrize("cell", [LEGACY_TO_LEGACY, LEGACY_TO_MODERN], ids=str)


def check_error(answer: Message, way: Way) -> None:
    """Fail unless an answer tells how the child ended, and nothing of what it wrote to stderr.

    protocol.md, 2.2: -32603 with `data.reason` and the exit status; 9: never stderr text.
    """
    assert "error" in answer, answer
    assert answer["error"]["code"] == -32603, answer
    data = answer["error"].get("data", {})
    told = {name: data[name] for name in ("reason", "exitCode", "signal") if name in data}
    assert told == way.data, answer
    assert "stderr" not in json.dumps(answer)


async def end(client: AnyClient, way: Way) -> None:
    """Make the child end, by a call of its own, which is told so."""
    answer = await client.post(client.tool(way.tool, **way.arguments))
    assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
    check_error(message_in(answer), way)


async def seen(client: AnyClient, text: str) -> None:
    """Wait until the child has read a line with this text."""
    async with asyncio.timeout(PROMPT):
        while text not in await client.ask("seen"):
            pass


async def check_next(client: AnyClient, cell: Cell, old_pid: str) -> None:
    """Fail unless the next request is answered by another child.

    protocol.md, 2.2: from legacy to legacy the session ends with its child; else the child is replaced.
    """
    if cell == LEGACY_TO_LEGACY and isinstance(client, McpClient):
        assert (await client.post(client.tool("pid"))).status_code == 404
        await reopen(client)
    assert await client.ask("pid") != old_pid


async def reopen(client: McpClient) -> None:
    """Do what a client does after a 404."""
    client.session_id = client.version = None
    await open_session(client)


async def open_calls(edge: Edge, client: AnyClient, count: int) -> None:
    """Wait until so many calls of a client are open."""
    if isinstance(client, ModernClient):
        child = await shared_child(edge)
        await wait_until(lambda: child.calls == count)
    else:
        bridge = edge.sessions.find(ANONYMOUS, client.session_id or "").bridge
        await wait_until(lambda: bridge.statistics().calls == count)


# Calls.


@every_way
@every_cell
async def test_running_calls_are_told_how_their_child_ended(cell: Cell, way: Way) -> None:
    """protocol.md, 2.2: every open exchange gets -32603 at once; a restart follows."""
    async with serving(cell.config()) as edge, cell.connected(edge) as client:
        pid = await client.ask("pid")
        async with asyncio.TaskGroup() as tasks:
            calls = []
            for number in range(3):
                message = client.tool("wait", mark=f"call {number}")
                calls.append(tasks.create_task(client.exchange(message)))
                await seen(client, f"call {number}")
            async with asyncio.timeout(PROMPT):
                await end(client, way)
                for call in calls:
                    check_error(await call, way)
        await check_next(client, cell, pid)


@every_way
@every_cell
async def test_a_stream_with_progress_ends_with_the_error(cell: Cell, way: Way) -> None:
    """All revisions, transports: the server closes the stream after the JSON-RPC response."""
    async with serving(cell.config()) as edge, cell.connected(edge) as client:
        pid = await client.ask("pid")
        message = with_token(client.tool("raw", lines=[STEP]), "mine")
        async with client.stream(message) as stream, asyncio.timeout(PROMPT):
            assert (await stream.message())["params"]["progressToken"] == "mine"
            await end(client, way)
            answer = await stream.message()
            check_error(answer, way)
            assert answer["id"] == message["id"]
            assert await stream.rest() == []
        await check_next(client, cell, pid)


# Questions.


async def question_on(stream: EventStream) -> Message:
    """Return the question that comes next."""
    question = await stream.message()
    assert question["method"] == "elicitation/create", question
    return question


def answer_to(question: Message) -> Message:
    """Return a client's answer to an elicitation."""
    return {
        "jsonrpc": "2.0",
        "id": question["id"],
        "result": {"action": "accept", "content": {"name": "Anna"}},
    }


@every_way
async def test_a_legacy_child_that_ends_while_it_asks_a_legacy_client(way: Way) -> None:
    """protocol.md, 2.2: the open call is told; the late answer finds no session."""
    cell = LEGACY_TO_LEGACY
    async with serving(cell.config()) as edge, cell.connected(edge) as client:
        pid = await client.ask("pid")
        async with client.stream(client.tool("ask")) as stream, asyncio.timeout(PROMPT):
            question = await question_on(stream)
            await end(client, way)
            check_error(await stream.message(), way)
            assert await stream.rest() == []
            assert (await client.post(answer_to(question))).status_code == 404
        await check_next(client, cell, pid)


@every_way
async def test_a_modern_child_that_ends_while_a_legacy_client_answers_its_question(way: Way) -> None:
    """protocol.md, 5: nothing is open at the child then, so it is the retry that fails; the session lives."""
    cell = LEGACY_TO_MODERN
    async with serving(cell.config()) as edge, cell.connected(edge) as client:
        pid = await client.ask("pid")
        message = client.tool("ask", state="of $PID")
        async with client.stream(message) as stream, asyncio.timeout(PROMPT):
            question = await question_on(stream)
            await end(client, way)
            assert (await client.post(answer_to(question))).status_code == 202
            check_error(await stream.message(), way)
            assert await stream.rest() == []
        await check_next(client, cell, pid)


@every_way
@modern_clients
async def test_the_state_of_a_child_that_ended_is_not_good_any_more(cell: Cell, way: Way) -> None:
    """protocol.md, 4.3 and 6.1: a child that is gone: -32602 "Invalid or expired requestState" at once."""
    async with serving(cell.config()) as edge, cell.connected(edge) as client:
        assert isinstance(client, ModernClient)
        pid = await client.ask("pid")
        message = client.tool("ask", state="of $PID")
        result = (await client.exchange(message))["result"]
        assert result["resultType"] == "input_required"
        responses = {key: {"action": "decline"} for key in result["inputRequests"]}
        async with asyncio.timeout(PROMPT):
            await end(client, way)
            for _ in range(2):  # with and without a new child
                retry = await client.post(client.retry(message, result, responses))
                assert retry.status_code == 400
                error = message_in(retry)["error"]
                assert error["code"] == -32602
                assert "Invalid or expired requestState" in error["message"]
                await check_next(client, cell, pid)


# The queue of a legacy child that has asked something.


@every_way
async def test_calls_that_wait_for_their_turn_are_told_too(way: Way) -> None:
    """protocol.md, 2.2 and 4.3: calls take turns since the child has asked; none of them may hang."""
    cell = MODERN_TO_LEGACY
    async with serving(cell.config(), http=QUICK) as edge, cell.connected(edge) as client:
        pid = await client.ask("pid")
        parked = await client.exchange(client.tool("ask"))
        assert parked["result"]["resultType"] == "input_required"
        child = await shared_child(edge)
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(PROMPT):
            async with client.stream(client.tool("wait")) as running:
                # Only this one runs; the next one ends the child when it is its turn.
                assert await running.next() == COMMENT
                ending = tasks.create_task(end(client, way))
                await wait_until(lambda: child.calls == 2)
                queued = [
                    tasks.create_task(client.exchange(client.tool("echo", text="late"))) for _ in range(5)
                ]
                await wait_until(lambda: child.calls == 7)
            # Its client has hung up: the next one's turn.
            await ending
            for call in queued:
                check_error(await call, way)
        await check_next(client, cell, pid)


async def test_a_resumed_call_that_waits_for_its_turn_is_told_too() -> None:
    """protocol.md, 4.3: resumed calls queue for the lock again."""
    cell = MODERN_TO_LEGACY
    async with serving(cell.config(), http=QUICK) as edge, cell.connected(edge) as client:
        assert isinstance(client, ModernClient)
        pid = await client.ask("pid")
        message = client.tool("ask")
        result = (await client.exchange(message))["result"]
        responses = {key: {"action": "decline"} for key in result["inputRequests"]}
        child = await shared_child(edge)
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(PROMPT):
            async with client.stream(client.tool("wait")) as running:
                assert await running.next() == COMMENT
                resumed = tasks.create_task(client.exchange(client.retry(message, result, responses)))
                await wait_until(lambda: child.calls == 2)
                os.kill(int(pid), signal.SIGKILL)
                check_error((await running.rest())[-1], SIGKILL)
            check_error(await resumed, SIGKILL)
        await check_next(client, cell, pid)


# Streams of changes.


def changes_of(messages: list[Message]) -> list[tuple[str, str | None]]:
    """Return what is said to have changed, in an order of our own."""
    told = [(message["method"], message.get("params", {}).get("uri")) for message in messages]
    return sorted(told, key=str)


async def announce(client: AnyClient) -> None:
    """Make the child announce a change of its tools."""
    assert int(await client.ask("change", method=TOOLS_CHANGED)) >= 1


@every_way
@modern_clients
async def test_a_listener_is_told_what_may_have_changed_and_goes_on(cell: Cell, way: Way) -> None:
    """protocol.md, 2.2: re-opened on a new child; no second acknowledgement, but all that it listens to."""
    async with serving(cell.config("resources")) as edge, cell.connected(edge) as client:
        assert isinstance(client, ModernClient)
        pid = await client.ask("pid")
        request = client.listen_request(toolsListChanged=True, resourceSubscriptions=[URI])
        async with client.stream(request) as stream:
            acknowledged = await stream.message()
            assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
            async with asyncio.timeout(PROMPT):
                await end(client, way)
                # Nobody sends a request meanwhile: the stream itself is owed a child.
                told = [await stream.message() for _ in range(2)]
            assert changes_of(told) == sorted([(UPDATED, URI), (TOOLS_CHANGED, None)], key=str)
            await watched(client)
            await announce(client)
            told.append(await stream.message())
            assert told[-1]["method"] == TOOLS_CHANGED
            for message in told:
                assert message["params"]["_meta"][SUBSCRIPTION] == request["id"]
            assert await client.ask("pid") != pid


async def watched(client: AnyClient) -> None:
    """Wait until the child is asked to tell of changes, in whichever way its era has."""
    async with asyncio.timeout(PROMPT):
        while True:
            told = json.loads(await client.ask("subscriptions"))
            if told["watched"] or told["listens"]:
                return


@every_way
@modern_clients
async def test_all_listeners_of_a_child_survive_it(cell: Cell, way: Way) -> None:
    """protocol.md, 2.2: the broker re-opens the listen streams on the new child, all on the same one."""
    async with serving(cell.config()) as edge, cell.connected(edge) as client:
        assert isinstance(client, ModernClient)
        pid = await client.ask("pid")
        async with contextlib.AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(client.listen(toolsListChanged=True)) for _ in range(5)
            ]
            for stream in streams:
                await stream.message()
            async with asyncio.timeout(PROMPT):
                await end(client, way)
                for stream in streams:
                    assert (await stream.message())["method"] == TOOLS_CHANGED
            assert await client.ask("pid") != pid
            assert edge.children == 1


@modern_clients
async def test_a_listener_that_hung_up_is_owed_no_child(cell: Cell) -> None:
    """Ours: nothing is started for nobody."""
    async with serving(cell.config()) as edge, cell.connected(edge) as client:
        assert isinstance(client, ModernClient)
        async with client.listen(toolsListChanged=True) as stream:
            await stream.message()
        child = await shared_child(edge)
        await wait_until(lambda: not child.busy)
        await end(client, SIGKILL)
        await wait_until(lambda: edge.children == 0)
        assert edge.sessions.statistics().places == 0


@every_way
async def test_the_get_stream_of_a_legacy_child_ends_with_it(way: Way) -> None:
    """2025-11-25, transports: the session is gone, and the 404 that follows makes clients initialize anew."""
    cell = LEGACY_TO_LEGACY
    async with serving(cell.config()) as edge, cell.connected(edge) as client:
        assert isinstance(client, McpClient)
        pid = await client.ask("pid")
        async with client.listen() as stream, asyncio.timeout(PROMPT):
            assert await stream.next() == COMMENT
            await end(client, way)
            assert await stream.rest() == []
            async with client.listen() as again:
                assert again.status == 404
        await check_next(client, cell, pid)


@every_way
async def test_the_get_stream_over_a_modern_child_outlives_it(way: Way) -> None:
    """protocol.md, 5: the session is state of ours; what may have changed is told after the restart."""
    cell = LEGACY_TO_MODERN
    async with serving(cell.config("resources")) as edge, cell.connected(edge) as client:
        assert isinstance(client, McpClient)
        pid = await client.ask("pid")
        await watched(client)
        subscribed = await client.exchange(client.request("resources/subscribe", params={"uri": URI}))
        assert subscribed["result"] == {}
        async with client.listen() as stream:
            assert await stream.next() == COMMENT
            async with asyncio.timeout(PROMPT):
                await end(client, way)
                told = [await stream.message() for _ in range(3)]
            lists = [(TOOLS_CHANGED, None), ("notifications/resources/list_changed", None)]
            assert changes_of(told) == sorted([(UPDATED, URI), *lists], key=str)
            await announce(client)
            assert (await stream.message())["method"] == TOOLS_CHANGED
        assert await client.ask("pid") != pid


# The first request to a child.


def child_of_moods(cell: Cell, flag: Path, way: Way) -> Config:
    """Return a child that serves, but ends at its first request as long as a file is there."""
    program = (
        "import os, sys\n"
        f"if os.path.exists({str(flag)!r}):\n"
        f"    sys.stdin.buffer.raw.readline(); os.write(2, b'stderr'); {way.code}; os._exit(0)\n"
        f"os.execv({CHILD[0]!r}, {[*CHILD, f'era={cell.child}']!r})\n"
    )
    return Config(cmd=(sys.executable, "-I", "-S", "-c", program))


@every_way
@every_cell
async def test_a_child_that_ends_at_its_first_request(cell: Cell, way: Way, tmp_path: Path) -> None:
    """protocol.md, 2.2: the request that a child was started for is told; the next one starts another."""
    flag = tmp_path / "flag"
    async with serving(child_of_moods(cell, flag, way)) as edge, cell.connected(edge) as client:
        # Now it is known what the server speaks.
        await client.ask("pid")
        flag.touch()
        async with asyncio.timeout(PROMPT):
            await end(client, way)
            if cell == LEGACY_TO_LEGACY:
                async with McpClient(edge.url) as other:
                    check_error(message_in(await other.post(other.initialize_request())), way)
            else:
                check_error(message_in(await client.post(client.tool("pid"))), way)
        flag.unlink()
        if cell == LEGACY_TO_LEGACY and isinstance(client, McpClient):
            await reopen(client)
        assert int(await client.ask("pid"))


@every_way
@every_cell
async def test_a_server_that_always_ends_at_its_first_request(cell: Cell, way: Way) -> None:
    """The same of a server of which nothing is known yet: both eras are tried, and then it is told."""
    program = f"import os, sys; sys.stdin.buffer.raw.readline(); {way.code}"
    async with serving(Config(cmd=(sys.executable, "-I", "-S", "-c", program))) as edge:
        async with asyncio.timeout(PROMPT):
            if cell.client == "modern":
                async with ModernClient(edge.url, capabilities=EVERYTHING) as modern:
                    check_error(message_in(await modern.post(modern.tool("pid"))), way)
            else:
                async with McpClient(edge.url) as legacy:
                    check_error(message_in(await legacy.post(legacy.initialize_request())), way)
        # The place is given back a moment later: by the task that has seen the child through.
        await wait_until(lambda: edge.children == 0 and edge.sessions.statistics().places == 0)


# Batches and subscriptions.


@every_way
@legacy_clients
async def test_every_request_of_a_batch_is_told(cell: Cell, way: Way) -> None:
    """2025-03-26, transports: the stream should include a response per request; it ends after them."""
    version = "2025-03-26"
    async with serving(cell.config()) as edge, cell.connected(edge, version=version) as client:
        assert isinstance(client, McpClient)
        pid = await client.ask("pid")
        batch = [client.tool("wait", mark="first"), client.tool("wait", mark="second")]
        body = json.dumps(batch).encode()
        async with client.stream(body) as stream, asyncio.timeout(PROMPT):
            await seen(client, "second")
            await end(client, way)
            answers = await stream.rest()
            for answer in answers:
                check_error(answer, way)
            assert sorted(answer["id"] for answer in answers) == [message["id"] for message in batch]
        if cell == LEGACY_TO_LEGACY:
            assert (await client.post(client.tool("pid"))).status_code == 404
            client.session_id = client.version = None
            await open_session(client, version)
        assert await client.ask("pid") != pid


async def test_a_legacy_child_that_ends_at_a_subscription() -> None:
    """protocol.md, 2.2: from legacy to legacy it is a call like any other."""
    cell = LEGACY_TO_LEGACY
    config = cell.config("resources", "die-on=resources/subscribe")
    async with serving(config) as edge, cell.connected(edge) as client:
        async with asyncio.timeout(PROMPT):
            check_error(await client.exchange(request_of(client, "resources/subscribe", uri=URI)), EXIT_3)
        assert (await client.post(client.tool("pid"))).status_code == 404


async def test_a_modern_child_that_ends_at_the_subscription_of_a_legacy_client() -> None:
    """protocol.md, 5: the session lives on, and serves."""
    cell = LEGACY_TO_MODERN
    config = cell.config("resources", "die-on=subscriptions/listen")
    async with serving(config) as edge, cell.connected(edge) as client:
        async with asyncio.timeout(PROMPT):
            check_error(await client.exchange(request_of(client, "resources/subscribe", uri=URI)), EXIT_3)


async def test_a_modern_child_that_ends_when_it_shall_listen() -> None:
    """protocol.md, 2.2: an exchange that has not begun to be a stream is told as any other."""
    cell = MODERN_TO_MODERN
    config = cell.config("resources", "die-on=subscriptions/listen")
    async with serving(config) as edge, cell.connected(edge) as client:
        assert isinstance(client, ModernClient)
        async with asyncio.timeout(PROMPT):
            request = client.listen_request(toolsListChanged=True)
            check_error(await client.exchange(request), EXIT_3)
        assert int(await client.ask("pid"))


@modern_clients
async def test_a_child_that_ends_whenever_it_shall_listen_is_not_started_for_ever(cell: Cell) -> None:
    """Ours: no loop of restarts for a stream that nobody can serve; its end says that it is none of grace."""
    config = Config(cmd=(sys.executable, "-I", "-S", "-c", SHORT_LIVED, cell.child))
    async with serving(config) as edge, cell.connected(edge) as client:
        assert isinstance(client, ModernClient)
        request = client.listen_request(toolsListChanged=True, resourceSubscriptions=[URI])
        async with client.stream(request) as stream, asyncio.timeout(30):
            messages = await stream.rest()
        assert messages[0]["method"] == "notifications/subscriptions/acknowledged"
        assert "result" not in messages[-1]
        assert edge.supervisor.statistics().started <= 8


# Acknowledges a subscription, and ends.
SHORT_LIVED = """
import json, sys
def answer(call, result):
    print(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result}), flush=True)
capabilities = {"tools": {"listChanged": True}, "resources": {"subscribe": True, "listChanged": True}}
for line in sys.stdin:
    call = json.loads(line)
    method = call["method"]
    if method == "server/discover" and sys.argv[1] == "modern":
        answer(call, {"resultType": "complete", "supportedVersions": ["2026-07-28"],
                      "capabilities": capabilities, "ttlMs": 0, "cacheScope": "private"})
    elif method == "initialize" and sys.argv[1] == "legacy":
        answer(call, {"protocolVersion": "2025-11-25", "capabilities": capabilities,
                      "serverInfo": {"name": "short-lived", "version": "1"}})
    elif method == "subscriptions/listen":
        params = {"_meta": {"io.modelcontextprotocol/subscriptionId": call["id"]},
                  "notifications": call["params"]["notifications"]}
        print(json.dumps({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                          "params": params}), flush=True)
        sys.exit(3)
    elif method == "resources/subscribe":
        answer(call, {})
        sys.exit(3)
    elif "id" in call:
        print(json.dumps({"jsonrpc": "2.0", "id": call["id"],
                          "error": {"code": -32601, "message": "no such method"}}), flush=True)
"""


# Where the child does not even read.


@every_cell
async def test_a_call_that_is_still_being_written_is_told(cell: Cell) -> None:
    """Ours: a child that does not read blocks its calls; its end must not leave them so."""
    async with serving(cell.config()) as edge, cell.connected(edge) as client:
        pid = await client.ask("pid")
        assert await client.ask("stop_reading", seconds=600) == "not reading"
        text = "x" * (4 * 1024 * 1024)
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(PROMPT):
            calls = []
            for number in range(3):
                calls.append(tasks.create_task(client.post(client.tool("measure", text=text))))
                await open_calls(edge, client, number + 1)
            os.kill(int(pid), signal.SIGKILL)
            answers = [await call for call in calls]
        # The first one was on its way; what was not begun may be sent to another child, or find no session.
        check_error(message_in(answers[0]), SIGKILL)
        for answer in answers[1:]:
            if answer.status_code == 200 and "result" not in message_in(answer):
                check_error(message_in(answer), SIGKILL)
            else:
                assert answer.status_code == (404 if cell == LEGACY_TO_LEGACY else 200), answer.text
        await check_next(client, cell, pid)


@modern_clients
async def test_a_child_that_ends_when_it_lists_its_tools_costs_no_call(cell: Cell) -> None:
    """protocol.md, 8: no schema available: do not block the call."""
    config = cell.config("die-on=tools/list")
    async with serving(config) as edge, cell.connected(edge) as client, asyncio.timeout(PROMPT):
        assert await client.ask("echo", text="served") == "served"
