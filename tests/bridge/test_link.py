"""A session whose children come and go: what a fresh one is told, and whose messages are whose."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stdio_broker.bridge import Exchange, MessageStream
from stdio_broker.errors import BridgeBroken, ChildGone, LimitReached, RemoteProtocolError, ServerFailing
from stdio_broker.protocol.journal import Likeness
from stdio_broker.supervisor import OversizeLine

from .link_rig import AGREED, LinkRig, Server, linked
from .session_rig import settle, virtual, waiting

#: What is told of a child that has ended, besides how.
ENDED = {"reason": "server process ended", "retryable": True}

Message = dict[str, Any]


async def _answer(exchange: Exchange) -> Message:
    async with asyncio.timeout(1000):
        answer: Message = json.loads(await exchange.wait_answered())
    return answer


async def _all_on(stream: MessageStream) -> list[Message]:
    await settle(0)
    return await waiting(stream)


# What a fresh child is told.


@virtual
async def test_a_fresh_child_is_told_what_the_client_has_told_the_others_in_its_order() -> None:
    """Design decision 6; MCP 2025-11-25, lifecycle: `initialize`, then `initialized`, then the rest."""
    async with linked() as rig:
        await rig.begin()
        await rig.ask("resources/subscribe", uri="b")
        await rig.ask("logging/setLevel", level="info")
        await rig.ask("resources/subscribe", uri="a")
        await rig.ask("tools/call", name="t")
        await rig.ask("logging/setLevel", level="error")
        link, server = rig.join()
        assert await link.replay() is Likeness.SAME
        assert server.methods == [
            "initialize",
            "notifications/initialized",
            "logging/setLevel error",
            "resources/subscribe b",
            "resources/subscribe a",
        ]
        assert server.heard[0] == {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {"capabilities": {}, "_meta": {"x": 1.0}},
        }
        assert link.calls == 0
        # Nothing else goes there, and nothing of this to the client, before it is used.
        await rig.ask("tools/call", name="u")
        assert "tools/call u" not in server.methods
        assert await _all_on(rig.bridge.listen()) == []


@virtual
async def test_a_fresh_child_is_not_told_of_what_the_client_has_not_said() -> None:
    """MCP 2025-11-25, lifecycle: `initialized` is the client's to say."""
    async with linked() as rig:
        link, _ = rig.join()
        rig.bridge.use(link)
        await rig.ask("initialize", capabilities={})
        fresh, server = rig.join()
        assert await fresh.replay() is Likeness.SAME
        assert server.methods == ["initialize"]


@virtual
async def test_subscriptions_are_all_asked_for_before_the_first_is_answered() -> None:
    """Ours: a session with many of them must not wait for each."""
    async with linked() as rig:
        await rig.begin()
        for uri in ("a", "b", "c"):
            await rig.ask("resources/subscribe", uri=uri)
        link, server = rig.join()
        server.silent.add("resources/subscribe")
        replaying = asyncio.create_task(link.replay())
        await settle()
        asked = [message for message in server.heard if message["method"] == "resources/subscribe"]
        assert [message["params"]["uri"] for message in asked] == ["a", "b", "c"]
        for message in reversed(asked):
            assert not replaying.done()
            await server.answers(message)
        assert await replaying is Likeness.SAME


@virtual
async def test_what_the_client_changes_meanwhile_is_caught_up_with() -> None:
    """Ours: it is not stopped while its next child is made ready."""
    async with linked() as rig:
        await rig.begin()
        await rig.ask("logging/setLevel", level="info")
        await rig.ask("resources/subscribe", uri="a")
        await rig.ask("resources/subscribe", uri="b")
        link, server = rig.join()
        server.silent.add("resources/subscribe")
        replaying = asyncio.create_task(link.replay())
        await settle()
        server.silent.clear()
        await rig.ask("resources/subscribe", uri="c")
        await rig.ask("resources/unsubscribe", uri="a")
        await rig.ask("logging/setLevel", level="error")
        before = len(server.heard)
        for message in server.heard[-2:]:
            await server.answers(message)
        assert await replaying is Likeness.SAME
        assert server.methods[before:] == [
            "resources/unsubscribe a",
            "logging/setLevel error",
            "resources/subscribe c",
        ]


@virtual
async def test_a_subscription_that_the_client_takes_back_meanwhile_is_taken_back() -> None:
    """Ours: else the client would be told of what it does not want to hear of any more."""
    async with linked() as rig:
        await rig.begin()
        await rig.ask("resources/subscribe", uri="a")
        link, server = rig.join()
        server.silent.add("resources/subscribe")
        replaying = asyncio.create_task(link.replay())
        await settle()
        await rig.ask("resources/unsubscribe", uri="a")
        await server.answers(server.last("resources/subscribe"))
        assert await replaying is Likeness.SAME
        assert server.methods[2:] == ["resources/subscribe a", "resources/unsubscribe a"]


@virtual
async def test_what_a_fresh_child_does_not_take_is_logged_and_the_rest_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Ours: a resource that is gone is no reason to end a session."""
    caplog.set_level(logging.WARNING)
    async with linked() as rig:
        await rig.begin()
        await rig.ask("resources/subscribe", uri="a")
        await rig.ask("logging/setLevel", level="info")
        link, server = rig.join()
        server.refused.add("logging/setLevel")
        assert await link.replay() is Likeness.SAME
        assert server.methods[-2:] == ["logging/setLevel info", "resources/subscribe a"]
    (record,) = [record for record in caplog.records if record.message == "session.not_replayed"]
    assert vars(record)["method"] == "logging/setLevel"


@virtual
async def test_a_fresh_child_that_refuses_initialize_is_quoted() -> None:
    """Ours: the operator wants to know why."""
    async with linked() as rig:
        await rig.begin()
        link, server = rig.join()
        server.refused.add("initialize")
        with pytest.raises(RemoteProtocolError, match="no initialize"):
            await link.replay()
        assert server.methods == ["initialize"]


@pytest.mark.parametrize(
    ("change", "likeness", "said"),
    [
        ({"instructions": "others"}, Likeness.CHANGED, ["initialize", "notifications/initialized"]),
        ({"protocolVersion": "2025-06-18"}, Likeness.INCOMPATIBLE, ["initialize"]),
        ({"capabilities": {}}, Likeness.INCOMPATIBLE, ["initialize"]),
    ],
)
@virtual
async def test_a_fresh_child_that_answers_otherwise_is_told_no_more_if_it_cannot_be_used(
    change: Message, likeness: Likeness, said: list[str]
) -> None:
    """Issue 5: if the replayed `initialize` answers differently."""
    async with linked() as rig:
        await rig.begin()
        link, server = rig.join(Server(initialize={**AGREED, **change}))
        assert await link.replay() is likeness
        assert server.methods == said


@pytest.mark.parametrize("at", ["initialize", "resources/subscribe"])
@virtual
async def test_a_fresh_child_that_ends_meanwhile_is_no_answer(at: str) -> None:
    """Ours: whoever waits learns how it ended."""
    async with linked() as rig:
        await rig.begin()
        await rig.ask("resources/subscribe", uri="a")
        link, server = rig.join()
        server.silent.add(at)
        replaying = asyncio.create_task(link.replay())
        await settle()
        server.ends(7)
        with pytest.raises(BridgeBroken) as caught:
            await replaying
        assert caught.value.code == 7
        assert not link.usable


@virtual
async def test_a_fresh_child_that_reads_nothing_is_gone() -> None:
    """Ours."""
    async with linked() as rig:
        await rig.begin()
        link, server = rig.join()
        server.fake.stdin.close()
        assert not link.usable
        with pytest.raises(ChildGone):
            await link.replay()


# Two at once.


async def _two(rig: LinkRig, token: str) -> tuple[Server, Server, Exchange, Exchange]:
    """Have two children, and a call at each, whose ids are the same there."""
    old, first = await rig.begin()
    first.silent.add("tools/call")
    slow = await rig.call(request_id="slow", _meta={"progressToken": token})
    new, second = rig.join()
    second.silent.add("tools/call")
    await new.replay()
    assert rig.bridge.use(new) is old
    assert rig.bridge.links == (old, new)
    quick = await rig.call(request_id="quick", _meta={"progressToken": token})
    assert first.last("tools/call")["id"] == second.last("tools/call")["id"] == 2
    assert (old.calls, new.calls, rig.bridge.statistics().calls) == (1, 1, 2)
    return first, second, slow, quick


@virtual
async def test_answers_and_progress_of_two_children_reach_their_own_calls() -> None:
    """Ours: each counts from 1, so the same number means another call in each."""
    async with linked() as rig:
        first, second, slow, quick = await _two(rig, "t")
        for server, name in ((second, "second"), (first, "first")):
            params = {"progressToken": 2, "progress": 1, "message": name}
            await server.says(method="notifications/progress", params=params)
            await server.says(id=2, result={"of": name})
        for exchange, request_id, name in ((slow, "slow", "first"), (quick, "quick", "second")):
            progress, answer = await _all_on(exchange)
            assert progress["params"] == {"progressToken": "t", "progress": 1, "message": name}
            assert answer == {"jsonrpc": "2.0", "id": request_id, "result": {"of": name}}
            rig.bridge.release(exchange)


@pytest.mark.parametrize("request_id", ["slow", "quick"])
@virtual
async def test_a_cancellation_reaches_the_child_that_has_the_call(request_id: str) -> None:
    """MCP 2025-11-25, basic/utilities/cancellation: the same id means another call to the other child."""
    async with linked() as rig:
        first, second, slow, quick = await _two(rig, "t")
        await rig.tell("notifications/cancelled", requestId=request_id)
        told = [server for server in (first, second) if "notifications/cancelled" in server.methods]
        assert told == [first if request_id == "slow" else second]
        assert told[0].last("notifications/cancelled")["params"] == {"requestId": 2}
        cancelled = slow if request_id == "slow" else quick
        assert (await _answer(cancelled))["error"]["message"] == "the client cancelled this request"
        # A third time, and of nothing.
        await rig.tell("notifications/cancelled", requestId=request_id)
        await rig.tell("notifications/cancelled", requestId="other")
        assert sum(server.methods.count("notifications/cancelled") for server in (first, second)) == 1


@virtual
async def test_questions_of_two_children_are_answered_to_the_one_that_asked() -> None:
    """Ours: the client knows them by ids of ours, so they cannot be taken for one another."""
    async with linked() as rig:
        first, second, *_ = await _two(rig, "t")
        get = rig.bridge.listen()
        for server in (first, second):
            await server.says(id=1, method="elicitation/create", params={"of": str(id(server))})
        questions = await _all_on(get)
        assert rig.bridge.statistics().questions == 2
        for question in reversed(questions):
            await rig.reply(question)
            await rig.reply(question)  # an answer to nothing is dropped
        for server in (first, second):
            assert [message for message in server.heard if "result" in message] == [
                {"jsonrpc": "2.0", "id": 1, "result": {"n": 1}}
            ]


@virtual
async def test_a_client_that_does_not_read_costs_its_own_call_at_the_child_that_has_it() -> None:
    """Design, 4: a slow client costs its own exchange."""
    async with linked(max_stream_bytes=300) as rig:
        first, second, slow, _ = await _two(rig, "t")
        for number in range(5):
            params = {"progressToken": 2, "progress": number, "message": "x" * 100}
            await first.says(method="notifications/progress", params=params)
        assert "notifications/cancelled" in first.methods
        assert "notifications/cancelled" not in second.methods
        assert (await _answer(slow))["error"]["data"]["reason"] == "slow client"


@virtual
async def test_what_the_old_child_agrees_to_after_the_switch_its_successor_is_asked_too() -> None:
    """Design decision 6: else the client would be told of nothing, and not know."""
    async with linked() as rig:
        _, first = await rig.begin()
        first.silent.add("resources/subscribe")
        subscribing = [
            asyncio.create_task(rig.ask("resources/subscribe", number, uri=uri))
            for number, uri in enumerate(("a", "b"))
        ]
        await settle(0)
        new, second = rig.join()
        await new.replay()
        rig.bridge.use(new)
        assert second.methods == ["initialize", "notifications/initialized"]
        asked = [message for message in first.heard if message["method"] == "resources/subscribe"]
        await first.answers(asked[0])
        await first.says(id=asked[1]["id"], error={"code": -1, "message": "no"})
        assert "result" in await subscribing[0]
        assert "error" in await subscribing[1]
        assert second.methods[2:] == ["resources/subscribe a"]
        assert (new.calls, rig.bridge.journal.subscriptions) == (0, 1)
        # What it is asked itself, it is asked once.
        await rig.ask("resources/subscribe", uri="c")
        assert second.methods[3:] == ["resources/subscribe c"]
        assert "resources/subscribe c" not in first.methods


@virtual
async def test_the_client_is_told_of_the_change_before_what_the_new_child_says() -> None:
    """Ours: `list_changed` first, so that it lists again what the new one has."""
    async with linked() as rig:
        await rig.begin()
        get = rig.bridge.listen()
        new, second = rig.join()
        await new.replay()
        rig.bridge.use(new, told=rig.bridge.journal.list_changes())
        await second.says(method="notifications/tools/list_changed", params={"n": 1})
        assert [(message["method"], message.get("params")) for message in await _all_on(get)] == [
            ("notifications/tools/list_changed", None),
            ("notifications/resources/list_changed", None),
            ("notifications/tools/list_changed", {"n": 1}),
        ]


# One that goes.


@virtual
async def test_what_an_ended_child_has_asked_is_taken_back() -> None:
    """MCP 2025-11-25, cancellation: the client shall not go on with what nobody waits for."""
    async with linked() as rig:
        link, server = await rig.begin()
        get = rig.bridge.listen()
        await server.says(id=1, method="elicitation/create", params={})
        server.ends()
        await settle()
        question, withdrawal = await _all_on(get)
        assert withdrawal["method"] == "notifications/cancelled"
        assert withdrawal["params"]["requestId"] == question["id"]
        await rig.reply(question)
        assert rig.woken == 0
        assert rig.bridge.links == ()
        assert rig.bridge.link is None
        assert (link.questions, link.usable) == (0, False)
        # The stream is the client's, and stays.
        assert get.open


@virtual
async def test_calls_of_an_ended_child_fail_and_the_next_one_wakes_another() -> None:
    """Issue 5: calls in flight are never replayed silently."""
    async with linked() as rig:
        _, server = await rig.begin()
        server.silent.add("tools/call")
        running = await rig.call()
        server.ends(9)
        assert (await _answer(running))["error"]["data"] == {**ENDED, "exitCode": 9}
        assert rig.woken == 0
        assert "result" in await rig.ask("tools/call", name="again")
        assert rig.woken == 1
        assert "tools/call again" not in server.methods


@virtual
async def test_a_child_that_is_put_to_rest_gets_nothing_new_and_may_finish() -> None:
    """Ours."""
    async with linked() as rig:
        link, server = await rig.begin()
        server.silent.add("tools/call")
        running = await rig.call()
        assert rig.bridge.rest() is link
        assert rig.bridge.rest() is None
        assert "result" in await rig.ask("tools/call", 2, name="new")
        assert rig.woken == 1
        await server.answers(server.last("tools/call"))
        assert "result" in await _answer(running)
        assert server.methods.count("tools/call") == 1


# A child that goes as it is asked.


@virtual
async def test_a_call_that_a_child_did_not_read_is_sent_to_another_with_its_own_progress_token() -> None:
    """Design decision 6: nothing was sent, so nothing is repeated; once, and as the client wrote it."""
    async with linked() as rig:
        _, first = await rig.begin()
        second = Server()
        second.silent.add("tools/call")
        rig.successors = [second]
        first.fake.stdin.fill()
        calling = asyncio.create_task(
            rig.call(request_id="mine", name="t", _meta={"progressToken": "t", "x": 1.0})
        )
        await settle()
        first.ends()
        exchange = await calling
        heard = second.last("tools/call")
        assert heard["params"] == {"name": "t", "_meta": {"progressToken": heard["id"], "x": 1.0}}
        params = {"progressToken": heard["id"], "progress": 1}
        await second.says(method="notifications/progress", params=params)
        await second.answers(heard)
        progress, answer = await _all_on(exchange)
        assert progress["params"]["progressToken"] == "t"
        assert answer["id"] == "mine"
        assert rig.woken == 1
        rig.bridge.release(exchange)


@virtual
async def test_a_call_is_sent_to_another_child_once_only() -> None:
    """Ours: a server that reads nothing is not started for ever."""
    async with linked() as rig:
        _, first = await rig.begin()
        second = Server()
        rig.successors = [second]
        first.fake.stdin.fill()
        calling = asyncio.create_task(rig.call(name="t"))
        await settle()
        rig.on_woken = lambda server: server.fake.stdin.fill()
        first.ends()
        await settle()
        assert not calling.done()
        second.ends()
        with pytest.raises(BridgeBroken, match="does not read"):
            await calling
        assert rig.woken == 1
        assert not rig.bridge.busy


@virtual
async def test_a_call_for_which_no_child_can_be_woken_leaves_nothing_open() -> None:
    """Ours: the client is told why, and may ask again."""
    async with linked() as rig:
        _, server = await rig.begin()
        server.ends()
        await settle()
        rig.wake_error = ServerFailing(retry_after=5)
        with pytest.raises(ServerFailing):
            await rig.call()
        assert not rig.bridge.busy
        rig.wake_error = None
        assert "result" in await rig.ask("tools/call")


@virtual
async def test_a_call_that_waits_for_room_and_is_given_up_leaves_nothing_open() -> None:
    """Ours: also what would have stood in the journal."""
    async with linked() as rig:
        link, server = await rig.begin()
        server.fake.stdin.fill()
        calling = asyncio.create_task(rig.call("resources/subscribe", uri="a"))
        await settle()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert link.calls == 0
        assert not rig.bridge.busy
        server.fake.stdin.drain()
        assert rig.bridge.journal.subscriptions == 0


@virtual
async def test_calls_over_the_bound_are_refused_for_each_child() -> None:
    """Settings.max_calls: what a child has been asked and has not answered."""
    async with linked(max_calls=1) as rig:
        _, server = await rig.begin()
        server.silent.add("tools/call")
        await rig.call()
        with pytest.raises(LimitReached):
            await rig.call(request_id=2)


# Notifications.


@pytest.mark.parametrize(
    ("method", "woken"),
    [
        ("notifications/initialized", 0),
        ("notifications/roots/list_changed", 0),
        ("notifications/cancelled", 0),
        ("notifications/x", 1),
    ],
)
@virtual
async def test_a_notification_wakes_a_child_if_it_may_mean_something_to_it(method: str, woken: int) -> None:
    """Ours: a fresh child has asked for no roots, and is told `initialized` by us."""
    async with linked() as rig:
        _, server = await rig.begin()
        server.ends()
        await settle()
        await rig.tell(method)
        assert rig.woken == woken
        if woken:
            assert rig.youngest.methods[-1] == method


@virtual
async def test_what_a_child_does_not_read_any_more_is_no_error_where_another_can_come() -> None:
    """Ours: a notification has no answer to fail with."""
    async with linked() as rig:
        _, server = await rig.begin()
        get = rig.bridge.listen()
        await server.says(id=1, method="elicitation/create", params={})
        (question,) = await _all_on(get)
        server.fake.stdin.fill()
        waiting_for_room = [
            asyncio.create_task(rig.tell("notifications/x")),
            asyncio.create_task(rig.reply(question)),
        ]
        await settle()
        server.ends()
        await asyncio.gather(*waiting_for_room)


# Quiet.


async def _answered(server: Server) -> None:
    await server.answers(server.last("tools/call"))


async def _too_long(server: Server) -> None:
    head = json.dumps({"jsonrpc": "2.0", "id": server.last("tools/call")["id"], "result": 1})[:-2]
    await server.fake.says(OversizeLine(length=9, head=head.encode(), tail=b"}"))


async def _ended(server: Server) -> None:
    server.ends()


@pytest.mark.parametrize("how", [_answered, _too_long, _ended])
@virtual
async def test_a_child_is_quiet_when_its_last_call_is_over(how: Callable[[Server], Awaitable[None]]) -> None:
    """Ours: then it can be stopped without failing anybody."""
    async with linked() as rig:
        link, server = await rig.begin()
        await link.wait_quiet()
        server.silent.add("tools/call")
        for number in (1, 2):
            await rig.call(request_id=number)
        quiet = asyncio.create_task(link.wait_quiet())
        await settle()
        await server.answers({"id": 2})
        await settle()
        assert not quiet.done()
        await how(server)
        async with asyncio.timeout(1):
            await quiet
        await link.wait_quiet()


@virtual
async def test_a_child_is_quiet_when_its_last_call_is_cancelled_or_given_up() -> None:
    """Ours: whoever was told of a cancellation must not answer."""
    async with linked(max_stream_bytes=300) as rig:
        link, server = await rig.begin()
        server.silent.add("tools/call")
        await rig.call(request_id="a")
        await rig.call(request_id="b", _meta={"progressToken": "t"})
        quiet = asyncio.create_task(link.wait_quiet())
        await settle()
        await rig.tell("notifications/cancelled", requestId="a")
        await settle()
        assert not quiet.done()
        token = server.last("tools/call")["id"]
        for _ in range(5):
            params = {"progressToken": token, "progress": 1, "message": "x" * 100}
            await server.says(method="notifications/progress", params=params)
        async with asyncio.timeout(1):
            await quiet


@virtual
async def test_a_wait_for_quiet_can_be_given_up_and_begun_again() -> None:
    """Ours: `drain_timeout`."""
    async with linked() as rig:
        link, server = await rig.begin()
        server.silent.add("tools/call")
        await rig.call()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await link.wait_quiet()
        quiet = asyncio.create_task(link.wait_quiet())
        await settle()
        await _answered(server)
        await quiet


# All of it.


@virtual
async def test_the_statistics_of_a_bridge_are_those_of_its_children_now() -> None:
    """Ours: an operator sees the session, not one process of it."""
    async with linked() as rig:
        first, second, *_ = await _two(rig, "t")
        await first.fake.says(b"Welcome!")
        await second.fake.says(b"Welcome again!", b"!")
        statistics = rig.bridge.statistics()
        assert (statistics.calls, statistics.bad_lines) == (2, 3)
        assert rig.bridge.first_bad_line == "Welcome!"
        first.ends()
        await settle()
        assert (rig.bridge.statistics().calls, rig.bridge.statistics().bad_lines) == (1, 2)


@virtual
async def test_a_session_that_ends_fails_the_calls_of_all_its_children_and_wakes_none() -> None:
    """Ours: nothing is left of it."""
    async with linked() as rig:
        _, _, slow, quick = await _two(rig, "t")
        rig.bridge.fail(BridgeBroken("the test says so", reason="session ended"))
        for exchange in (slow, quick):
            assert (await _answer(exchange))["error"]["data"] == {
                "reason": "session ended",
                "retryable": True,
            }
        with pytest.raises(BridgeBroken, match="the test says so"):
            await rig.call(request_id=3)
        assert rig.woken == 0
