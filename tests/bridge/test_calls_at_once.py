"""A call that is passed on at once is passed on like any other, or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from stdio_broker.bridge import Budget, Exchange, LegacyChild, ModernChild, Settings, SharedExchange
from stdio_broker.errors import BridgeBroken, LimitReached
from stdio_broker.protocol.jsonrpc import Request
from stdio_broker.protocol.modern import ModernRequest
from stdio_broker.supervisor import ExitStatus
from stdio_broker.testing import FakeChild

from .legacy_rig import Json, in_virtual_time, legacy, modern_request, only_on
from .link_rig import LinkRig, Server, linked, parsed
from .modern_rig import ModernRig, answer, rigged, text, waiting

SCHEMA = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}


def asked(method: str = "tools/call", request_id: object = 7, **params: object) -> Request:
    """Return a request of a legacy client."""
    request = parsed(id=request_id, method=method, params=params)
    assert isinstance(request, Request)
    return request


async def call(rig: LinkRig, request: Request, *, at_once: bool) -> Exchange:
    """Pass on a request, in one of two ways."""
    if not at_once:
        return await rig.bridge.call(request)
    exchange = rig.bridge.call_nowait(request)
    assert exchange is not None
    return exchange


def written(request: Request) -> Json:
    """Return what a request says, but for its id, which is another one to each child."""
    return {name: json.loads(bytes(value)) for name, value in request.members.items() if name != "id"}


# A session of a legacy child.


@in_virtual_time
async def test_a_session_passes_a_call_on_alike_in_both_ways() -> None:
    """Ours: the same line to the child, the same answer to the client, the same count of calls."""
    seen = []
    for at_once in (False, True):
        async with linked() as rig:
            _, server = await rig.begin(silent())
            params: Json = {
                "name": "t",
                "_meta": {"progressToken": "mine", "x": 1.0},
                "arguments": {"a": [1, 2]},
            }
            exchange = await call(rig, asked(**params), at_once=at_once)
            heard = server.last("tools/call")
            assert rig.bridge.statistics().calls == 1
            progress = {"progressToken": heard["params"]["_meta"]["progressToken"], "progress": 1}
            await server.says(method="notifications/progress", params=progress)
            await server.answers(heard, content=[])
            got = [json.loads(await exchange.receive(1) or b"") for _ in range(2)]
            rig.bridge.release(exchange)
            assert rig.bridge.statistics().calls == 0
            seen.append((heard, got))
    assert seen[0] == seen[1]
    assert seen[0][1][0]["params"]["progressToken"] == "mine"


@pytest.mark.parametrize("answers", ["at once", "later"])
@pytest.mark.parametrize(
    ("method", "params"),
    [("logging/setLevel", {"level": "error"}), ("resources/subscribe", {"uri": "a"})],
)
def test_what_a_fresh_child_has_to_be_told_is_noted_in_both_ways(
    method: str, params: Json, answers: str
) -> None:
    """Design decision 6: the journal. A child without pipes may answer while it is being asked."""

    async def main() -> None:
        for at_once in (False, True):
            async with linked() as rig:
                link, first = await rig.begin()
                if answers == "later":
                    first.silent.add(method)
                for request_id in (7, 8):
                    exchange = await call(rig, asked(method, request_id, **params), at_once=at_once)
                    if answers == "later":
                        await first.answers(first.last(method))
                    assert exchange.answered
                    rig.bridge.release(exchange)
                assert link._entries == {}  # noqa: SLF001 - nothing is kept of a call that is over
                fresh, server = rig.join()
                await fresh.replay()
                told = [message["params"] for message in server.heard if message["method"] == method]
                assert told == [params]

    in_virtual_time(main)()


@pytest.mark.parametrize("state", ["full", "shut", "ended", "asleep", "over"])
def test_a_session_whose_child_takes_nothing_now_passes_nothing_on_at_once(state: str) -> None:
    """Ours: nothing is sent, nothing left open, and the request is as it was."""

    async def main() -> None:
        async with linked() as rig:
            link, server = await rig.begin(silent())
            if state == "full":
                server.fake.stdin.fill()
            elif state == "shut":
                server.fake.stdin.shut()
            elif state == "ended":
                server.ends()
                await asyncio.sleep(1)
            elif state == "asleep":
                assert rig.bridge.rest() is link
            else:
                rig.bridge.fail(BridgeBroken("over", reason="over"))
            before = len(server.fake.stdin.lines)
            request = asked(name="t", _meta={"progressToken": "mine"})
            original = written(request)
            assert rig.bridge.call_nowait(request) is None
            assert written(request) == original
            assert (len(server.fake.stdin.lines), rig.bridge.statistics().calls) == (before, 0)
            assert not rig.bridge.busy
            if state == "over":
                with pytest.raises(BridgeBroken):
                    await rig.bridge.call(request)
                return
            waits = asyncio.ensure_future(rig.bridge.call(request))
            await asyncio.sleep(1)
            assert waits.done() == (state != "full")
            server.fake.stdin.drain()
            exchange = await waits
            assert "mine" not in str(rig.youngest.heard[-1])
            rig.bridge.release(exchange)
            assert rig.woken == (state != "full")

    in_virtual_time(main)()


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("limit", ["calls", "bytes"])
def test_a_session_at_its_limits_refuses_a_call_alike_in_both_ways(limit: str, *, at_once: bool) -> None:
    """Ours: and nothing is left of it."""

    async def main() -> None:
        budget = Budget(1000)
        async with linked(**({"max_calls": 1} if limit == "calls" else {})) as rig:
            _, server = await rig.begin(silent())
            first = await call(rig, asked(name="t"), at_once=at_once)
            rig.bridge._streams._budget = budget  # noqa: SLF001 - a full one
            if limit == "bytes":
                budget.add(1000)
            before = len(server.fake.stdin.lines)
            with pytest.raises(LimitReached):
                await call(rig, asked(request_id=8, name="t"), at_once=at_once)
            assert len(server.fake.stdin.lines) == before
            assert rig.bridge.statistics().calls == 1
            rig.bridge.release(first)

    in_virtual_time(main)()


def silent() -> Server:
    """Return a server that does not answer calls."""
    server = Server()
    server.silent.add("tools/call")
    return server


# A child without sessions.


def listing(line: bytes) -> list[bytes]:
    """Answer as a child that lists one tool."""
    message = json.loads(line)
    if message.get("method") != "tools/list":
        return []
    tools = [{"name": "run", "inputSchema": SCHEMA}]
    return [answer(text(message["id"]), {"tools": tools})]


def tool(name: str = "run", *, region: str | None = None, **options: Any) -> ModernRequest:  # noqa: ANN401
    """Return the call of a tool."""
    arguments = {} if region is None else {"region": region}
    return modern_request("tools/call", {"name": name, "arguments": arguments}, id=7, **options)


#: Of progress.
TOKEN: Json = {"token": "mine"}

FIELDS = [(b"mcp-param-region", b"us")]

#: Requests that may be passed on at once, with their header fields.
PLAIN: dict[str, Callable[[], tuple[ModernRequest, list[tuple[bytes, bytes]]]]] = {
    "a tool": lambda: (tool(region="us"), FIELDS),
    "a tool that is not listed": lambda: (tool("other"), []),
    "a call of nothing": lambda: (modern_request("tools/call", {}, id=7), []),
    "with a token": lambda: (tool(region="us", **TOKEN), FIELDS),
    "a resource": lambda: (modern_request("resources/read", {"uri": "a"}, id=7), []),
    "a list": lambda: (modern_request("prompts/list", {"cursor": "2"}, id=7), []),
    "anything": lambda: (modern_request("acme/x", {"y": [1]}, id="s"), []),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_modern_child_hears_the_same_in_both_ways(name: str) -> None:
    """Ours: and what it says reaches the client alike; a client that goes cancels it alike."""

    async def main() -> None:
        seen = []
        for at_once in (False, True):
            async with rigged(fake=FakeChild(answer=listing)) as rig:
                await rig.child.check_headers(tool(region="us"), FIELDS)  # the list is read
                request, fields = PLAIN[name]()
                first = await begin(rig, request, fields, at_once=at_once)
                heard = rig.fake.stdin.lines[-1]
                await rig.fake.says(answer(rig.seen_id(), {"content": []}))
                got = await waiting(first)
                first.release()
                second = await begin(rig, request, fields, at_once=at_once)
                second.release()
                await asyncio.sleep(1)
                assert not rig.child.busy
                seen.append((heard, got, rig.fake.stdin.lines[-1]))
        assert seen[0] == seen[1]
        assert b"notifications/cancelled" in seen[0][2]

    in_virtual_time(main)()


async def begin(
    rig: ModernRig, request: ModernRequest, fields: list[tuple[bytes, bytes]], *, at_once: bool
) -> SharedExchange:
    """Pass on a request, in one of two ways."""
    if at_once:
        exchange = rig.child.call_nowait(request, fields)
        assert exchange is not None
        return exchange
    if request.method == "tools/call":
        await rig.child.check_headers(request, fields)
    return await rig.child.call(request)


#: Requests that are not passed on at once.
OTHERS: dict[str, Callable[[], tuple[ModernRequest, list[tuple[bytes, bytes]]]]] = {
    "a missing header": lambda: (tool(region="us"), []),
    "another header": lambda: (tool(region="eu"), FIELDS),
    "discover": lambda: (modern_request("server/discover", {}), []),
    "listen": lambda: (modern_request("subscriptions/listen", {"notifications": {}}), []),
    "a task": lambda: (modern_request("tasks/get", {"taskId": "1"}), []),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_plain_is_not_passed_on_at_once(name: str) -> None:
    """Ours: it is looked at in the other way, which may refuse it."""

    async def main() -> None:
        async with rigged(fake=FakeChild(answer=listing)) as rig:
            await rig.child.check_headers(tool(region="us"), FIELDS)
            before = len(rig.fake.stdin.lines)
            request, fields = OTHERS[name]()
            assert rig.child.call_nowait(request, fields) is None
            assert (len(rig.fake.stdin.lines), rig.child.busy) == (before, False)

    in_virtual_time(main)()


@pytest.mark.parametrize("state", ["unread", "outdated", "being read"])
def test_a_call_of_a_tool_waits_for_the_list_of_tools(state: str) -> None:
    """Protocol.md, 8, rule 4: only what the child says of its tools can pass a call."""

    async def main() -> None:
        lists: list[bool] = []
        fake = FakeChild(answer=lambda line: listing(line) if lists else [])
        async with rigged(fake=fake) as rig:
            if state == "outdated":
                lists.append(True)
                await rig.child.check_headers(tool(region="us"), FIELDS)
                await rig.fake.says(
                    b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}'
                )
            checking = None
            if state == "being read":
                checking = asyncio.ensure_future(rig.child.check_headers(tool(region="us"), FIELDS))
                await asyncio.sleep(0.1)
            assert rig.child.call_nowait(tool(region="us"), FIELDS) is None
            assert rig.child.call_nowait(modern_request("tools/call", {}), []) is not None
            if checking is not None:
                await rig.fake.says(*listing(rig.fake.stdin.lines[0]))
                await checking
                assert rig.child.call_nowait(tool(region="us"), FIELDS) is not None

    in_virtual_time(main)()


@pytest.mark.parametrize("state", ["full", "shut", "ended"])
def test_a_child_that_takes_nothing_now_is_sent_nothing_at_once(state: str) -> None:
    """Ours: the other way waits, or says why not."""

    async def main() -> None:
        async with rigged() as rig:
            if state == "full":
                rig.fake.stdin.fill()
            elif state == "shut":
                rig.fake.stdin.shut()
            else:
                await rig.ends(ExitStatus(code=3, signal=None))
            assert rig.child.call_nowait(modern_request("prompts/list", {}), []) is None
            assert (rig.fake.stdin.lines, rig.child.busy) == ([], False)

    in_virtual_time(main)()


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("limit", ["calls", "bytes"])
@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_a_child_at_its_limits_refuses_a_call_alike_in_both_ways(
    era: str, limit: str, *, at_once: bool
) -> None:
    """Ours: and nothing is left of it."""

    async def main() -> None:
        async with rigged() as modern, legacy() as old:
            child, fake = (modern.child, modern.fake) if era == "modern" else (old.shared, old.child)
            first = await child.call(modern_request("prompts/list", {}))
            if limit == "bytes":
                child.budget.max_bytes = 1000
                child.budget.add(1000)
            else:
                child._settings = Settings(max_calls=1)  # noqa: SLF001 - of any child
            before = len(fake.stdin.lines)
            with pytest.raises(LimitReached):
                await pass_on(child, modern_request("prompts/list", {}), at_once=at_once)
            assert (len(fake.stdin.lines), child.owed) == (before, 1)
            first.release()

    in_virtual_time(main)()


async def pass_on(
    child: ModernChild | LegacyChild, request: ModernRequest, *, at_once: bool
) -> SharedExchange:
    """Pass on a request without headers, in one of two ways."""
    if not at_once:
        return await child.call(request)
    exchange = child.call_nowait(request, [])
    assert exchange is not None
    return exchange


# A legacy child without sessions.


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: modern_request("tools/call", {}, id=7),
        lambda: modern_request("resources/read", {"uri": "a"}, id=7, **TOKEN),
        lambda: modern_request("prompts/list", {}, id="s", capabilities={}),
    ],
)
@pytest.mark.parametrize("takes_turns", [False, True])
def test_a_legacy_child_hears_the_same_in_both_ways(
    request_of: Callable[[], ModernRequest], *, takes_turns: bool
) -> None:
    """Ours: and what it says reaches the client alike, in its turn if the child takes turns."""

    async def main() -> None:
        seen = []
        for at_once in (False, True):
            async with legacy(takes_turns=takes_turns) as rig:
                before = len(rig.said)
                exchanges = [await pass_on(rig.shared, request_of(), at_once=at_once) for _ in range(2)]
                heard = [rig.said[before:]]
                got = []
                for exchange in exchanges:
                    await rig.answers(
                        rig.last()["id"] if exchange is exchanges[-1] else rig.said[before]["id"]
                    )
                    await asyncio.sleep(1)
                    got.append(await only_on(exchange))
                    heard.append(rig.said[before:])
                assert not rig.shared.busy
                seen.append((heard, got))
        assert seen[0] == seen[1]

    in_virtual_time(main)()


@pytest.mark.parametrize(
    "request_of",
    [
        lambda: modern_request("prompts/list", {}, level="error"),
        lambda: modern_request("tasks/list", {}),
        lambda: modern_request("tasks/get", {"taskId": "1"}),
    ],
)
def test_what_a_legacy_child_has_to_be_told_first_is_not_passed_on_at_once(
    request_of: Callable[[], ModernRequest],
) -> None:
    """Ours: such as the level of logs that the client wants."""

    async def main() -> None:
        async with legacy() as rig:
            before = len(rig.said)
            assert rig.shared.call_nowait(request_of(), []) is None
            assert (len(rig.said), rig.shared.busy) == (before, False)

    in_virtual_time(main)()


def test_a_legacy_child_that_was_called_at_once_and_asks_is_answered() -> None:
    """Design decision 5: a question belongs to the call that runs, in whichever way that was begun."""

    async def main() -> None:
        async with legacy() as rig:
            exchange = rig.shared.call_nowait(modern_request("prompts/get", {"name": "p"}), [])
            assert exchange is not None
            await rig.asks(5)
            result = await rig.asked_of(exchange)
            assert result["requestState"]
            exchange.release()

    in_virtual_time(main)()
