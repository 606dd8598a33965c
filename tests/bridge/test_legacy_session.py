"""A legacy client's session over a modern child: what crosses, and how it ends."""

from __future__ import annotations

import asyncio
import json

import pytest

from stdio_broker.bridge import (
    StreamEnded,
)
from stdio_broker.bridge.watching import MAX_RETURNS, RETURNS_WINDOW
from stdio_broker.errors import (
    BridgeBroken,
    BrokerError,
    CapacityError,
    LimitReached,
    LocalProtocolError,
    SpawnError,
    StartTimeout,
)
from tests.bridge.session_rig import (
    FORM,
    LISTEN,
    ROOTS,
    TOOLS_CHANGED,
    UPDATED,
    answer_on,
    cancelled,
    child_is,
    client,
    methods,
    notification,
    request,
    session,
    settle,
    virtual,
    waiting,
)
from tests.support.fake_servers import (
    PREFIX,
    SILENCE,
    FakeServers,
    Message,
    answer_line,
    discover_result,
    error_line,
    notice,
)

__all__ = ["child_is"]

pytestmark = pytest.mark.usefixtures("child_is")

#: What is told of a child that has ended, besides how.
ENDED = {"reason": "server process ended", "retryable": True}

# What crosses.


@virtual
async def test_a_call_to_a_child_that_runs_is_sent_and_answered_without_a_task() -> None:
    """Ours: a task for each would cost as much as all the rest."""
    async with session(runs=True) as rig:
        tasks = asyncio.all_tasks()
        exchange = rig.session.call_nowait(request("tools/call", {"name": "t"}))
        assert len(rig.heard()) == 1
        assert asyncio.all_tasks() == tasks
        await rig.child.says(answer_line(rig.heard()[0]["id"], {"content": []}))
        assert (await answer_on(exchange))["result"] == {"content": []}
        assert asyncio.all_tasks() == tasks


@virtual
async def test_a_call_waits_while_the_child_does_not_read() -> None:
    """Ours: what is unwritten is bounded."""
    async with session(runs=True) as rig:
        rig.child.stdin.fill()
        exchange = await rig.call()
        assert rig.heard() == []
        rig.child.stdin.drain()
        await settle()
        assert len(rig.heard()) == 1
        await rig.answers({"content": []})
        assert (await answer_on(exchange))["result"] == {"content": []}


@virtual
async def test_calls_over_the_bound_of_the_child_are_refused() -> None:
    """Ours: it is shared, so the session's own bound is not enough."""
    async with session(max_calls=1) as rig:
        asking = asyncio.create_task(rig.modern.query("x/y")) if rig.ran else None
        await settle(0)
        exchange = await rig.call()
        if asking is not None:
            assert (await answer_on(exchange))["error"]["code"] == -32603
            asking.cancel()


@virtual
async def test_a_log_level_counts_for_the_call_behind_it() -> None:
    """MCP 2025-11-25, server/utilities/logging: in the order in which they came."""
    async with session() as rig:
        rig.session.call_nowait(request("logging/setLevel", {"level": "error"}, 1))
        await rig.call(request_id=2)
        assert rig.heard()[0]["params"]["_meta"][f"{PREFIX}logLevel"] == "error"


@virtual
async def test_a_request_carries_what_the_client_said_in_initialize() -> None:
    """protocol.md, 5: `_meta` is added; what the client has there stays."""
    async with session() as rig:
        await rig.call(name="t", _meta={"progressToken": "p", "traceparent": "00-1", "acme": 1}, x=[1])
        (heard,) = rig.heard()
        assert heard["params"] == {
            "name": "t",
            "x": [1],
            "_meta": {
                "progressToken": heard["id"],
                "traceparent": "00-1",
                "acme": 1,
                f"{PREFIX}protocolVersion": "2026-07-28",
                f"{PREFIX}clientInfo": {"name": "c", "version": "2"},
                f"{PREFIX}clientCapabilities": {
                    "elicitation": {"form": {}, "url": {}},
                    "sampling": {"tools": {}},
                    "roots": {},
                    "experimental": {"acme": {"x": 1.5}},
                },
                f"{PREFIX}logLevel": "info",
            },
        }


@virtual
async def test_what_a_client_claims_in_the_names_of_the_protocol_is_not_believed() -> None:
    """protocol.md, 3: io.modelcontextprotocol/* is ours towards a modern child."""
    spoofed = {
        f"{PREFIX}clientCapabilities": {"tasks": {}},
        f"{PREFIX}protocolVersion": "1999-01-01",
        f"{PREFIX}subscriptionId": 1,
        f"{PREFIX}anything": 1,
    }
    async with session(client(capabilities={})) as rig:
        await rig.call(_meta=spoofed)
        meta = rig.heard()[0]["params"]["_meta"]
        assert meta[f"{PREFIX}clientCapabilities"] == {}
        assert meta[f"{PREFIX}protocolVersion"] == "2026-07-28"
        assert meta.keys().isdisjoint({f"{PREFIX}subscriptionId", f"{PREFIX}anything"})


@pytest.mark.parametrize("info", [None, "me", []])
def test_a_client_that_does_not_name_itself_is_named_unknown(info: object) -> None:
    """Ours: a modern request must name its client with an object, or not at all."""
    assert json.loads(bytes(client(info=info).info)) == {"name": "unknown", "version": "unknown"}


@virtual
async def test_a_result_loses_what_is_modern_and_nothing_else() -> None:
    """protocol.md, 5."""
    async with session() as rig:
        exchange = await rig.call(request_id="one")
        result = {"resultType": "complete", "content": [], "structuredContent": [1], "x": 1.50, "ttlMs": 1}
        await rig.answers({**result, "_meta": {f"{PREFIX}serverInfo": {}, "acme": 2}})
        assert await answer_on(exchange) == {
            "jsonrpc": "2.0",
            "id": "one",
            "result": {"content": [], "x": 1.5, "_meta": {"acme": 2}},
        }
        assert rig.idle == 1


@pytest.mark.parametrize(
    "error", [{"code": -32602, "message": "no"}, {"code": -32021, "message": "no", "data": {"x": 1}}]
)
@virtual
async def test_an_error_of_the_child_crosses_as_it_is(error: Message) -> None:
    """protocol.md, 5: code, message and data."""
    async with session() as rig:
        exchange = await rig.call()
        await rig.child.says(error_line(rig.heard()[0]["id"], error))
        assert await answer_on(exchange) == {"jsonrpc": "2.0", "id": 1, "error": error}


@virtual
async def test_a_ping_is_answered_with_an_empty_object_and_no_child() -> None:
    """protocol.md, 5: some peers validate it strictly."""
    async with session() as rig:
        exchange = await rig.session.call(request("ping"))
        assert await exchange.wait_answered() == b'{"jsonrpc":"2.0","id":1,"result":{}}'
        assert len(rig.servers.children) == rig.ran


@pytest.mark.parametrize("method", ["tasks/get", "tasks/list", "server/discover", LISTEN])
@virtual
async def test_methods_of_other_revisions_do_not_exist(method: str) -> None:
    """protocol.md, 5: tasks/* is not advertised; a legacy server has no discovery and no such stream."""
    async with session() as rig:
        error = (await rig.ask(method))["error"]
        assert error["code"] == -32601
        assert method in error["message"]
        assert len(rig.servers.children) == rig.ran


@virtual
async def test_unknown_methods_cross() -> None:
    """design.md, 6.2."""
    async with session() as rig:
        exchange = await rig.call("acme/run", x=1)
        await rig.answers({"y": 2}, "acme/run")
        assert (await answer_on(exchange))["result"] == {"y": 2}


@pytest.mark.parametrize("kind", ["task", "", None, 7])
@virtual
async def test_a_result_of_an_unknown_kind_is_an_error_in_words(kind: object) -> None:
    """MCP 2026-07-28, basic, "ResultType": it is invalid."""
    async with session() as rig:
        exchange = await rig.call()
        await rig.answers({"resultType": kind})
        error = (await answer_on(exchange))["error"]
        assert (error["code"], error["data"]["reason"]) == (-32603, "unknown kind of result")


@virtual
async def test_progress_has_the_clients_token_and_goes_to_its_own_call() -> None:
    """protocol.md, 3."""
    async with session() as rig:
        first = await rig.call(request_id=1, _meta={"progressToken": 7})
        second = await rig.call(request_id=2)
        one, two = (heard["id"] for heard in rig.heard())
        for token in (one, two, 99):
            await rig.child.says(notice("notifications/progress", progressToken=token, progress=1))
        (told,) = await waiting(first)
        assert told["params"] == {"progressToken": 7, "progress": 1}
        assert await waiting(second) == []
        await rig.child.says(
            answer_line(one, {}), notice("notifications/progress", progressToken=one, progress=2)
        )
        assert len(await waiting(first)) == 1


@virtual
async def test_logs_are_asked_for_as_the_client_has_set_and_go_to_the_call() -> None:
    """protocol.md, 5: logLevel on every request."""
    async with session() as rig:
        assert (await rig.ask("logging/setLevel", level="error"))["result"] == {}
        for params in ({}, {"level": "loud"}, {"level": 3}):
            assert (await rig.ask("logging/setLevel", **params))["error"]["code"] == -32602
        exchange = await rig.call()
        assert rig.heard()[0]["params"]["_meta"][f"{PREFIX}logLevel"] == "error"
        await rig.child.says(notice("notifications/message", level="error", data="x"))
        assert methods(await waiting(exchange)) == ["notifications/message"]
    async with session(servers=FakeServers(discover=discover_result(capabilities={}))) as rig:
        await rig.call()
        assert f"{PREFIX}logLevel" not in rig.heard()[0]["params"]["_meta"]


@virtual
async def test_notifications_of_the_client_do_not_reach_the_child() -> None:
    """protocol.md, 5: dropped."""
    async with session() as rig:
        exchange = await rig.call()
        heard = len(rig.child.stdin.lines)
        for method in ("notifications/progress", "notifications/roots/list_changed", "acme/x"):
            await rig.tell(method)
        assert len(rig.child.stdin.lines) == heard
        assert not exchange.answered


# Cancelling, and slow clients.


@virtual
async def test_a_cancellation_reaches_the_child_and_answers_the_call() -> None:
    """protocol.md, 5."""
    async with session() as rig:
        exchange = await rig.call(request_id="1")
        await rig.session.notify(cancelled(1))
        assert not exchange.answered
        await rig.session.notify(cancelled("1"))
        assert (await answer_on(exchange))["error"]["code"] == -32800
        await settle()
        (told,) = rig.heard("notifications/cancelled")
        assert told["params"]["requestId"] == rig.heard()[0]["id"]
        await rig.session.notify(cancelled("1"))
        await rig.answers({})
        assert len(await waiting(exchange)) == 1


@virtual
async def test_a_cancellation_while_the_client_is_asked_ends_the_call_and_nothing_is_sent_again() -> None:
    """protocol.md, 5: also while waiting for answers."""
    async with session() as rig:
        exchange = await rig.call()
        await rig.asks(a=FORM)
        (question,) = await waiting(exchange)
        await rig.session.notify(cancelled(1))
        await rig.reply(question)
        assert (await waiting(exchange))[-1]["error"]["code"] == -32800
        assert len(rig.heard()) == 1
        assert rig.heard("notifications/cancelled") == []


@virtual
async def test_a_cancellation_and_an_answer_at_once_make_one_answer() -> None:
    """Ours: whichever comes first."""
    async with session() as rig:
        exchange = await rig.call()
        rig.child.stdout.feed(answer_line(rig.heard()[0]["id"], {}))
        await rig.session.notify(cancelled(1))
        await settle()
        assert len(await waiting(exchange)) == 1


@virtual
async def test_an_id_that_the_client_uses_twice_at_once_cancels_the_newer_call() -> None:
    """protocol.md, 3: clients reuse ids, within a session, too."""
    async with session() as rig:
        first, second = await rig.call(), await rig.call()
        one, two = (heard["id"] for heard in rig.heard())
        await rig.session.notify(cancelled(1))
        assert second.answered
        assert not first.answered
        await rig.child.says(answer_line(two, {"n": 2}), answer_line(one, {"n": 1}))
        assert (await answer_on(first))["result"] == {"n": 1}
        third = await rig.call()
        await rig.answers({"n": 3})
        assert (await answer_on(third))["result"] == {"n": 3}


@virtual
async def test_the_newer_of_two_calls_with_one_id_can_be_cancelled_after_the_older_was_answered() -> None:
    """Ours: the end of one is not the end of the other."""
    async with session() as rig:
        first, second = await rig.call(), await rig.call()
        await rig.child.says(answer_line(rig.heard()[0]["id"], {}))
        assert "result" in await answer_on(first)
        await rig.session.notify(cancelled(1))
        assert (await answer_on(second))["error"]["code"] == -32800


@virtual
async def test_a_slow_client_costs_its_own_call() -> None:
    """design.md, section 4."""
    async with session(max_stream_bytes=2000) as rig:
        slow = await rig.call(request_id=1, _meta={"progressToken": "p"})
        other = await rig.call(request_id=2)
        one, two = (heard["id"] for heard in rig.heard())
        for number in range(20):
            await rig.child.says(
                notice("notifications/progress", progressToken=one, progress=number, x="x" * 200)
            )
        assert (await waiting(slow))[-1]["error"]["data"]["reason"] == "slow client"
        await settle()
        assert rig.heard("notifications/cancelled")[0]["params"]["requestId"] == one
        await rig.child.says(answer_line(two, {}))
        assert "result" in await answer_on(other)


@virtual
async def test_a_client_too_slow_for_its_questions_gets_no_more_of_them() -> None:
    """Ours: the rest does not go astray."""
    async with session(max_stream_bytes=1000) as rig:
        get = rig.session.listen()
        exchange = await rig.call()
        long = {"method": "elicitation/create", "params": {**FORM["params"], "message": "x" * 800}}
        await rig.asks(a=long, b=long, c=ROOTS)
        await settle()
        messages = await waiting(exchange)
        assert messages[-1]["error"]["data"]["reason"] == "slow client"
        assert methods(messages[:-1]) == ["elicitation/create"]
        assert await waiting(get) == []


@virtual
async def test_calls_of_one_session_are_bounded() -> None:
    """Ours: `max_calls`."""
    async with session(max_calls=2) as rig:
        await rig.call(request_id=1)
        await rig.call(request_id=2)
        with pytest.raises(LimitReached):
            await rig.call(request_id=3)


# The child's end, and the session's.


@virtual
async def test_a_crash_fails_running_calls_with_the_status_and_the_next_call_has_another_child() -> None:
    """design.md, section 4; protocol.md, 2.2."""
    async with session() as rig:
        exchanges = [await rig.call(request_id=number) for number in range(3)]
        asking = await rig.call(request_id=9)
        await rig.asks(a=FORM)
        await rig.crash()
        for exchange in exchanges:
            error = (await answer_on(exchange))["error"]
            assert error["data"] == {**ENDED, "exitCode": 3}
        # The state of the one that asks is of a process that is gone: the answer leads to an error.
        (question,) = await waiting(asking)
        await rig.reply(question)
        assert (await answer_on(asking))["error"]["data"] == {**ENDED, "exitCode": 3}
        exchange = await rig.call()
        await rig.answers({})
        assert "result" in await answer_on(exchange)
        assert len(rig.servers.children) == 2


@virtual
async def test_after_a_crash_the_client_is_told_what_may_have_changed_and_watches_on() -> None:
    """protocol.md, 2.2."""
    async with session() as rig:
        await rig.ask("resources/subscribe", uri="a:1")
        await rig.crash()
        get = rig.session.listen()
        assert len(rig.servers.children) == 2
        told = await waiting(get)
        assert methods(told) == [TOOLS_CHANGED, "notifications/resources/list_changed", UPDATED]
        assert told[-1]["params"] == {"uri": "a:1"}
        await rig.changes(UPDATED, uri="a:1")
        assert len(await waiting(get)) == 1


@virtual
async def test_a_child_that_cannot_be_replaced_at_once_is_watched_as_soon_as_a_call_needs_it() -> None:
    """Ours: the session survives; each call says what is wrong."""
    async with session() as rig:
        get = rig.session.listen()
        await rig.tell("notifications/initialized")
        rig.error = StartTimeout(5)
        await rig.crash()
        assert "within 5 s" in (await rig.ask("tools/list"))["error"]["message"]
        rig.error = None
        await asyncio.gather(*(rig.call(request_id=number) for number in range(3)))
        await settle()
        assert len(rig.heard(LISTEN)) == 1
        assert len(await waiting(get)) == 2


@virtual
async def test_a_server_that_crashes_whenever_its_clients_learn_of_it_is_not_started_for_ever() -> None:
    """design.md, 6.6: restart intensity is bounded."""
    async with session() as rig:
        await rig.tell("notifications/initialized")
        for _ in range(10):
            await rig.crash()
        assert len(rig.servers.children) == 1 + MAX_RETURNS
        await settle(RETURNS_WINDOW)
        await rig.call()
        await settle()
        assert len(rig.heard(LISTEN)) == 1


@virtual
async def test_a_crash_while_a_subscription_is_changed_is_told_and_what_was_watched_is_watched() -> None:
    """Ours: no dead end."""
    async with session() as rig:
        await rig.ask("resources/subscribe", uri="a:1")
        rig.servers.listen = SILENCE
        subscribing = await rig.call("resources/subscribe", uri="a:2")
        rig.servers.listen = None
        await rig.crash()
        assert "exited" in (await answer_on(subscribing))["error"]["message"]
        assert rig.heard(LISTEN)[-1]["params"]["notifications"]["resourceSubscriptions"] == ["a:1"]


@pytest.mark.parametrize(
    ("error", "code", "words", "data"),
    [
        (
            SpawnError("secret-path", "no"),
            -32603,
            "could not be started",
            {"reason": "server failed", "retryable": False},
        ),
        (
            CapacityError("secret-path", "no", resource="processes", used=1, limit=1),
            -32603,
            "could not be started",
            {"reason": "unavailable", "retryable": True},
        ),
        (
            LimitReached("all in use", retry_after=1),
            -32603,
            "all in use",
            {"reason": "unavailable", "retryable": True},
        ),
        (BridgeBroken("gone"), -32603, "gone", ENDED),
        (BridgeBroken("gone", signal=9), -32603, "gone", {**ENDED, "signal": 9}),
        (
            LocalProtocolError("not ours", code=-32022),
            -32022,
            "not ours",
            {"reason": "server failed", "retryable": False},
        ),
    ],
)
@virtual
async def test_a_call_without_a_child_says_why_and_whether_to_try_again(
    error: BrokerError, code: int, words: str, data: Message
) -> None:
    """protocol.md, 9: `data: {reason, retryable}`; never the command."""
    async with session() as rig:
        rig.error = error
        told = (await rig.ask("tools/list"))["error"]
        assert (told["code"], told["data"]) == (code, data)
        assert words in told["message"]
        assert "secret" not in told["message"]


@virtual
async def test_a_mistake_of_ours_costs_one_call(caplog: pytest.LogCaptureFixture) -> None:
    """Ours: it must not end the other sessions."""
    async with session() as rig:
        rig.error = ValueError("a mistake")  # type: ignore[assignment]
        assert (await rig.ask("tools/list"))["error"]["code"] == -32603
        assert [record.message for record in caplog.records] == ["call.failed"]
        caplog.clear()


@virtual
async def test_a_call_that_a_child_has_not_taken_goes_to_another_one() -> None:
    """Ours: nothing was sent, so nothing is done twice."""
    async with session() as rig:
        await rig.call(request_id=1)
        deaf = rig.child
        rig.replaces = True
        deaf.stdin.shut()
        second = await rig.call(request_id=2)
        assert rig.child is not deaf
        await rig.answers({})
        assert "result" in await answer_on(second)
        # But not for ever.
        rig.replaces = False
        rig.child.stdin.shut()
        assert "stdin" in (await rig.ask("tools/list"))["error"]["message"]


@virtual
async def test_a_call_that_a_child_has_acted_on_is_sent_to_no_other() -> None:
    """design.md, section 4: never a silent retry."""
    async with session() as rig:
        exchange = await rig.call()
        await rig.asks(a=FORM)
        (question,) = await waiting(exchange)
        rig.replaces = True
        rig.child.stdin.shut()
        await rig.reply(question)
        assert "stdin" in (await answer_on(exchange))["error"]["message"]
        assert len(rig.servers.children) == 1


@virtual
async def test_the_end_of_a_session_ends_everything() -> None:
    """Ours."""
    async with session() as rig:
        get = rig.session.listen()
        await rig.tell("notifications/initialized")
        running, asking = await rig.call(request_id=1), await rig.call(request_id=2)
        await rig.asks(a=FORM)
        subscribing = await rig.call("resources/subscribe", request_id=3, uri="a:1")
        rig.session.fail(BridgeBroken("the end", reason="session ended"))
        for exchange in (running, asking):
            assert (await answer_on(exchange))["error"]["data"] == {
                "reason": "session ended",
                "retryable": True,
            }
        assert subscribing.answered
        with pytest.raises(StreamEnded):
            await get.receive(1)
        with pytest.raises(BridgeBroken, match="the end"):
            await rig.call()
        await rig.tell("notifications/initialized")
        await rig.crash()
        assert rig.servers.alive == 0
        assert not rig.session.busy


@virtual
async def test_a_session_that_ends_while_it_begins_to_watch_leaves_no_stream() -> None:
    """Ours: a child that owes a stream to nobody would never be idle."""
    async with session() as rig:
        await rig.call()
        await rig.session.notify(notification("notifications/initialized"))
        await asyncio.sleep(0)
        rig.session.fail(BridgeBroken("the end", reason="session ended"))
        await settle(20)
        assert not rig.modern.busy


@virtual
async def test_a_session_that_ends_while_a_child_thinks_about_its_changes_waits_no_longer() -> None:
    """Ours: nothing of it is left, not even for `query_timeout`."""
    async with session() as rig:
        rig.servers.listen = SILENCE
        await rig.tell("notifications/initialized")
        assert rig.modern.calls == 1
        rig.session.fail(BridgeBroken("the end", reason="session ended"))
        await settle(0)
        assert rig.modern.calls == 0
        assert len(rig.heard("notifications/cancelled")) == 1


@virtual
async def test_after_the_end_of_watching_a_subscription_opens_no_stream() -> None:
    """Ours: a drain waits for answers, not for changes."""
    async with session() as rig:
        await rig.tell("notifications/initialized")
        rig.session.end_watching()
        assert (await rig.ask("resources/subscribe", uri="a:1"))["result"] == {}
        await rig.tell("notifications/initialized")
        assert not rig.modern.busy


@virtual
async def test_statistics_tell_calls_and_what_was_lost() -> None:
    """Ours."""
    async with session(max_backlog_messages=1) as rig:
        await rig.tell("notifications/initialized")
        await rig.changes()
        await rig.changes()
        await rig.call()
        statistics = rig.session.statistics()
        assert (statistics.calls, statistics.questions, statistics.dropped_messages) == (1, 0, 1)


@virtual
async def test_the_answer_to_initialize_is_on_an_exchange_of_its_own() -> None:
    """Ours: as a `Bridge` has it."""
    async with session() as rig:
        exchange = rig.session.greet(b'{"id":1}')
        assert await exchange.wait_answered() == b'{"id":1}'
        assert rig.idle == 1
