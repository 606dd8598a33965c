"""What a legacy client is told of changes by a modern child."""

from __future__ import annotations

import asyncio

import pytest

from stdio_broker.bridge.watching import MAX_RETURNS, RETURNS_WINDOW
from stdio_broker.protocol.modern import MAX_ELEMENTS
from tests.bridge.session_rig import (
    LISTEN,
    TOOLS_CHANGED,
    UPDATED,
    answer_on,
    methods,
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
    notice,
)

# Changes.


@virtual
async def test_changes_of_lists_are_told_from_initialized_on() -> None:
    """protocol.md, 5: one stream of changes for what the child announces."""
    async with session() as rig:
        await rig.tell("notifications/initialized")
        await rig.tell("notifications/initialized")
        (listen,) = rig.heard(LISTEN)
        assert listen["params"]["notifications"] == {"toolsListChanged": True, "resourcesListChanged": True}
        assert listen["params"]["_meta"].keys() >= {f"{PREFIX}protocolVersion", f"{PREFIX}clientCapabilities"}
        await rig.changes(acme=1)
        (told,) = await waiting(rig.session.listen())
        assert told == {"jsonrpc": "2.0", "method": TOOLS_CHANGED, "params": {"acme": 1}}


@virtual
async def test_a_child_that_announces_no_changes_is_not_listened_to() -> None:
    """Ours: so it can be idle."""
    async with session(servers=FakeServers(discover=discover_result(capabilities={}))) as rig:
        await rig.tell("notifications/initialized")
        assert rig.heard(LISTEN) == []
        answer = await rig.ask("resources/subscribe", uri="a:1")
        assert answer["error"]["code"] == -32601
        assert "does not tell" in answer["error"]["message"]


@virtual
async def test_subscriptions_open_a_new_stream_before_the_old_one_ends() -> None:
    """protocol.md, 5: no change falls in between, and none is told twice."""
    async with session() as rig:
        await rig.tell("notifications/initialized")
        get = rig.session.listen()
        rig.servers.listen = SILENCE
        subscribing = await rig.call("resources/subscribe", uri="a:1")
        old, new = rig.heard(LISTEN)
        assert new["params"]["notifications"]["resourceSubscriptions"] == ["a:1"]
        await rig.child.says(notice(TOOLS_CHANGED, old["id"], n=1))
        assert rig.heard("notifications/cancelled") == []
        agreed = new["params"]["notifications"]
        rig.child.stdout.feed(
            notice("notifications/subscriptions/acknowledged", new["id"], notifications=agreed),
            notice(TOOLS_CHANGED, old["id"], n=2),
            notice(TOOLS_CHANGED, new["id"], n=2),
            notice(UPDATED, new["id"], uri="a:1"),
        )
        assert await answer_on(subscribing) == {"jsonrpc": "2.0", "id": 1, "result": {}}
        assert [message["params"] for message in await waiting(get)] == [{"n": 1}, {"n": 2}, {"uri": "a:1"}]
        assert rig.heard("notifications/cancelled")[0]["params"]["requestId"] == old["id"]


@virtual
async def test_subscribing_twice_changes_nothing_and_unsubscribing_does() -> None:
    """MCP 2025-11-25, server/resources: empty results."""
    async with session(
        servers=FakeServers(discover=discover_result(capabilities={"resources": {"subscribe": True}}))
    ) as rig:
        for method, uri, streams in (
            ("subscribe", "a:1", [["a:1"]]),
            ("subscribe", "a:1", [["a:1"]]),
            ("subscribe", "a:2", [["a:1"], ["a:1", "a:2"]]),
            ("unsubscribe", "a:3", [["a:1"], ["a:1", "a:2"]]),
            ("unsubscribe", "a:1", [["a:1"], ["a:1", "a:2"], ["a:2"]]),
            ("unsubscribe", "a:2", [["a:1"], ["a:1", "a:2"], ["a:2"]]),
        ):
            assert (await rig.ask(f"resources/{method}", uri=uri))["result"] == {}
            opened = [one["params"]["notifications"]["resourceSubscriptions"] for one in rig.heard(LISTEN)]
            assert opened == streams
        assert len(rig.heard("notifications/cancelled")) == 3
        assert not rig.modern.busy
        assert (await rig.ask("resources/subscribe", uri=5))["error"]["code"] == -32602


@virtual
async def test_a_subscription_before_initialized_makes_one_stream_for_both() -> None:
    """Ours: some clients are in a hurry."""
    async with session() as rig:
        await rig.session.call(request("resources/subscribe", {"uri": "a:1"}))
        await rig.tell("notifications/initialized")
        await settle()
        assert len(rig.heard(LISTEN)) == 1


@virtual
async def test_subscriptions_at_once_do_not_lose_each_other() -> None:
    """Ours."""
    async with session() as rig:
        await asyncio.gather(*(rig.ask("resources/subscribe", uri=f"a:{number}") for number in range(10)))
        last = rig.heard(LISTEN)[-1]["params"]["notifications"]["resourceSubscriptions"]
        assert sorted(last) == sorted(f"a:{number}" for number in range(10))


REFUSES_TO_LISTEN: list[tuple[Message | str, str]] = [
    ({"code": -32601, "message": "no such thing"}, "no such thing"),
    ({"resultType": "complete"}, "ends its stream"),
    (SILENCE, "did not agree within 10 s"),
]


@pytest.mark.parametrize(("reply", "words"), REFUSES_TO_LISTEN)
@virtual
async def test_a_subscription_that_fails_changes_nothing(reply: Message | str, words: str) -> None:
    """Ours: the client is told, and what was watched is watched on."""
    async with session() as rig:
        await rig.ask("resources/subscribe", uri="a:1")
        rig.servers.listen = reply
        for method, uri in (("subscribe", "a:2"), ("unsubscribe", "a:1")):
            assert words in (await rig.ask(f"resources/{method}", uri=uri))["error"]["message"]
            assert rig.modern.calls == 1  # the stream that there was
        await rig.changes(UPDATED, uri="a:1")
        assert methods(await waiting(rig.session.listen())).count(UPDATED) >= 1
        rig.servers.listen = None
        assert "result" in await rig.ask("resources/subscribe", uri="a:3")
        assert rig.heard(LISTEN)[-1]["params"]["notifications"]["resourceSubscriptions"] == ["a:1", "a:3"]


@virtual
async def test_a_child_that_agrees_to_less_is_taken_at_its_word() -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions: check the acknowledged filter."""
    async with session() as rig:
        rig.servers.listen = SILENCE
        told: list[Message] = [
            {"notifications": {"toolsListChanged": True}},
            {"notifications": {"resourceSubscriptions": []}},
            {},
        ]
        for agreed in told:
            subscribing = await rig.call("resources/subscribe", uri="a:1")
            listen = rig.heard(LISTEN)[-1]["id"]
            acknowledged = notice("notifications/subscriptions/acknowledged", listen, **agreed)
            await rig.child.says(acknowledged, acknowledged)
            assert (await answer_on(subscribing))["error"]["code"] == -32601


@virtual
async def test_resources_of_one_session_are_bounded() -> None:
    """Ours: every table has a bound."""
    async with session() as rig:
        for number in range(MAX_ELEMENTS):
            await rig.session._watching.subscribe(f"a:{number}")  # noqa: SLF001 -- a thousand calls take long
        answer = await rig.ask("resources/subscribe", uri="b:1")
        assert answer["error"]["data"]["reason"] == "too many subscriptions"
        assert "result" in await rig.ask("resources/subscribe", uri="a:1")


@pytest.mark.parametrize(("reply", "_words"), REFUSES_TO_LISTEN)
@virtual
async def test_a_child_that_refuses_to_tell_changes_is_not_asked_with_every_call(
    reply: Message | str, _words: str
) -> None:
    """Ours: the client has not asked for it."""
    async with session() as rig:
        rig.servers.listen = reply
        await rig.tell("notifications/initialized")
        await settle(20)
        for number in range(3):
            await rig.call(request_id=number)
        await settle(20)
        assert len(rig.heard(LISTEN)) == 1
        assert await waiting(rig.session.listen()) == []


@pytest.mark.parametrize("how", ["result", "cancelled"])
@virtual
async def test_a_stream_that_the_child_ends_is_opened_again_with_the_next_call(how: str) -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions and /cancellation: either is the end."""
    async with session() as rig:
        get = rig.session.listen()
        await rig.tell("notifications/initialized")
        for number in range(MAX_RETURNS + 2):
            listen = rig.heard(LISTEN)[-1]["id"]
            ends = {
                "result": answer_line(listen, {"resultType": "complete"}),
                "cancelled": notice("notifications/cancelled", requestId=listen),
            }
            await rig.child.says(ends[how])
            await rig.call(request_id=number)
            await settle()
        # A server that ends each at once does not make its clients ask for ever what has changed.
        assert len(rig.heard(LISTEN)) == 1 + MAX_RETURNS
        assert len(await waiting(get)) == 2 * MAX_RETURNS
        await settle(RETURNS_WINDOW)
        await rig.call()
        assert len(rig.heard(LISTEN)) == 2 + MAX_RETURNS


# Dozing.


@virtual
async def test_a_session_that_dozes_watches_nothing_and_keeps_what_it_is_subscribed_to() -> None:
    """Design decision 6: its child owes it nothing, so that it can be stopped; the session is kept."""
    async with session() as rig:
        await rig.tell("notifications/initialized")
        await rig.ask("resources/subscribe", uri="a:1")
        assert rig.session.subscriptions == 1
        assert rig.modern.calls == 1
        get = rig.session.listen()
        rig.session.doze()
        rig.session.doze()
        assert rig.modern.calls == 0
        assert rig.session.subscriptions == 1
        await rig.child.says(notice(TOOLS_CHANGED, rig.heard(LISTEN)[-1]["id"]))
        await settle()
        assert await waiting(get) == []
        assert get.open
        assert not rig.modern.busy


@pytest.mark.parametrize("gone", [False, True])
@virtual
async def test_the_next_call_wakes_a_session_that_dozes_and_tells_that_all_may_have_changed(
    *, gone: bool
) -> None:
    """Ours: what happened meanwhile nobody has seen; whether the child is another one or still the same."""
    async with session() as rig:
        await rig.tell("notifications/initialized")
        await rig.ask("resources/subscribe", uri="a:1")
        get = rig.session.listen()
        rig.session.doze()
        if gone:
            await rig.crash()
        await settle()
        assert len(rig.servers.children) == 1
        exchange = await rig.call()
        await settle()
        (listen,) = rig.heard(LISTEN)[-1:]
        assert listen["params"]["notifications"]["resourceSubscriptions"] == ["a:1"]
        assert len(rig.servers.children) == (2 if gone else 1)
        told = await waiting(get)
        assert sorted(methods(told)) == sorted(
            [TOOLS_CHANGED, "notifications/resources/list_changed", UPDATED]
        )
        await rig.answers({"resultType": "complete", "content": []})
        await answer_on(exchange)
        await rig.changes(n=1)
        assert [message["params"] for message in await waiting(get)] == [{"n": 1}]


@virtual
async def test_a_session_that_dozes_while_its_stream_opens_gets_none() -> None:
    """Ours: else its child would owe it something, and nobody would look again."""
    async with session() as rig:
        rig.servers.listen = SILENCE
        await rig.tell("notifications/initialized")
        await settle(0)
        (listen,) = rig.heard(LISTEN)
        rig.session.doze()
        await settle(0)
        assert rig.heard("notifications/cancelled")[0]["params"]["requestId"] == listen["id"]
        agreed = listen["params"]["notifications"]
        await rig.child.says(
            notice("notifications/subscriptions/acknowledged", listen["id"], notifications=agreed)
        )
        assert not rig.modern.busy
