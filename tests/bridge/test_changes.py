"""`subscriptions/listen` over legacy children."""

from __future__ import annotations

import asyncio

import pytest

from stdio_broker.bridge import Changes, Owner, Seal, SharedExchange
from stdio_broker.errors import BridgeBroken, LimitReached, LocalProtocolError
from stdio_broker.protocol.jsonrpc import INTERNAL_ERROR
from stdio_broker.supervisor import ExitStatus
from tests.bridge.legacy_rig import (
    PREFIX,
    SERVER,
    Json,
    Rig,
    in_virtual_time,
    legacy,
    messages_on,
    modern_request,
)

TAG = f"{PREFIX}subscriptionId"
LISTS = {
    "toolsListChanged": "notifications/tools/list_changed",
    "promptsListChanged": "notifications/prompts/list_changed",
    "resourcesListChanged": "notifications/resources/list_changed",
}
UPDATED = "notifications/resources/updated"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"


async def listen(rig: Rig, *uris: str, id: int | str = "l", **lists: bool) -> SharedExchange:  # noqa: A002 - it is called so
    """Open a stream, and take its acknowledgement."""
    wanted = {**lists, **({"resourceSubscriptions": uris} if uris else {})}
    exchange = await rig.shared.call(modern_request("subscriptions/listen", {"notifications": wanted}, id=id))
    (first,) = await messages_on(exchange)
    assert first["method"] == ACKNOWLEDGED
    return exchange


def watched(rig: Rig) -> list[tuple[str, str]]:
    """Return what the child was told to watch, or no more."""
    return [
        (line["method"].removeprefix("resources/"), line["params"]["uri"])
        for line in rig.said
        if line.get("method", "").startswith("resources/")
    ]


async def told(exchange: SharedExchange) -> list[str]:
    """Return which changes wait on a stream: the URI of an updated resource, the method of others."""
    return [message["params"].get("uri", message["method"]) for message in await messages_on(exchange)]


# Acknowledgement.


@in_virtual_time
async def test_the_first_that_comes_is_what_the_child_can_do() -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions, "Acknowledgment"."""
    server = {**SERVER, "capabilities": {"tools": {"listChanged": True}, "resources": {"subscribe": True}}}
    async with legacy(server=server) as rig:
        wanted = {
            "toolsListChanged": True,
            "promptsListChanged": True,
            "resourcesListChanged": False,
            "resourceSubscriptions": ["x:1"],
            "vendorEvents": True,
        }
        request = modern_request("subscriptions/listen", {"notifications": wanted}, id="l1")
        exchange = await rig.shared.call(request)
        await rig.says(method=LISTS["toolsListChanged"])
        acknowledgement, change = await messages_on(exchange)
        assert acknowledgement == {
            "jsonrpc": "2.0",
            "method": ACKNOWLEDGED,
            "params": {
                "notifications": {"toolsListChanged": True, "resourceSubscriptions": ["x:1"]},
                "_meta": {TAG: "l1"},
            },
        }
        assert change["params"] == {"_meta": {TAG: "l1"}}
        assert not exchange.complete


@in_virtual_time
async def test_a_filter_that_is_none_is_refused() -> None:
    async with legacy() as rig:
        with pytest.raises(LocalProtocolError):
            await rig.shared.call(modern_request("subscriptions/listen", {}))
        assert rig.is_empty()


@in_virtual_time
async def test_streams_over_the_bound_are_refused_and_one_that_ends_makes_room() -> None:
    async with legacy(max_listeners=1) as rig:
        first = await listen(rig, toolsListChanged=True)
        with pytest.raises(LimitReached, match="1 streams"):
            await listen(rig)
        first.release()
        await listen(rig)


@in_virtual_time
async def test_the_child_watches_before_the_client_reads_that_it_does() -> None:
    """Ours: what the client asks for next may make the change."""
    async with legacy() as rig:
        rig.child.stdin.fill()
        listening = asyncio.create_task(listen(rig, "x:1"))
        await asyncio.sleep(1)
        assert not listening.done()
        rig.child.stdin.drain()
        await listening
        assert watched(rig) == [("subscribe", "x:1")]


# Changes.


@pytest.mark.parametrize("name", LISTS)
@in_virtual_time
async def test_a_list_that_changed_is_told_to_who_asked_for_it(name: str) -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions: MUST NOT what was not requested."""
    async with legacy() as rig:
        listener = await listen(rig, **{name: True})
        other = await listen(rig, id=2, **{other: True for other in LISTS if other != name})
        nobody = await listen(rig, id=3)
        await rig.says(method=LISTS[name], params={"_meta": {"a": 1}, "x": None})
        (change,) = await messages_on(listener)
        assert change["params"] == {"_meta": {"a": 1, TAG: "l"}, "x": None}
        assert await told(other) == await told(nobody) == []


@in_virtual_time
async def test_neither_progress_nor_logs_come_on_a_stream_of_changes() -> None:
    """Protocol matrix, 4.4: MUST NOT."""
    async with legacy() as rig:
        listener = await listen(rig, "x:1", **dict.fromkeys(LISTS, True))
        await rig.says(method="notifications/message", params={"level": "error", "data": 1})
        await rig.says(method="notifications/progress", params={"progressToken": 1, "progress": 1})
        await rig.says(method="vendor/event")
        assert await told(listener) == []


@in_virtual_time
async def test_a_list_is_told_by_any_child_of_the_owner_a_resource_by_the_one_that_watches_it() -> None:
    """Protocol matrix, 4.4: nobody is told twice."""
    owner, changes = Owner(b"owner", Seal()), Changes()
    async with legacy(owner=owner, changes=changes) as one, legacy(owner=owner, changes=changes) as other:
        listener = await listen(one, "x:1", toolsListChanged=True)
        await other.says(method=LISTS["toolsListChanged"])
        await other.says(method=UPDATED, params={"uri": "x:1"})
        assert await told(listener) == [LISTS["toolsListChanged"]]
        await one.says(method=UPDATED, params={"uri": "x:1"})
        assert await told(listener) == ["x:1"]


@in_virtual_time
async def test_an_owner_hears_nothing_of_anothers_children() -> None:
    """Protocol matrix, D3."""
    async with legacy() as one, legacy() as other:
        listener = await listen(one, toolsListChanged=True)
        await other.says(method=LISTS["toolsListChanged"])
        assert await told(listener) == []


@in_virtual_time
async def test_a_resource_is_watched_as_long_as_one_listener_wants_it() -> None:
    """Protocol matrix, 4.4: counted over all listeners that share the lease."""
    async with legacy() as rig:
        first = await listen(rig, "x:1", "x:2", "x:1")
        second = await listen(rig, "x:2", "x:3", id=2)
        assert watched(rig) == [("subscribe", "x:1"), ("subscribe", "x:2"), ("subscribe", "x:3")]
        for uri in ("x:1", "x:2", "x:3", "x:2/part", "x:4"):
            await rig.says(method=UPDATED, params={"uri": uri})
        assert await told(first) == ["x:1", "x:2", "x:2/part"]
        assert await told(second) == ["x:2", "x:3", "x:2/part"]
        first.release()
        await asyncio.sleep(0)
        assert watched(rig)[3:] == [("unsubscribe", "x:1")]
        await rig.says(method=UPDATED, params={"uri": "x:2"})
        assert await told(second) == ["x:2"]
        second.release()
        await asyncio.sleep(0)
        assert watched(rig)[4:] == [("unsubscribe", "x:2"), ("unsubscribe", "x:3")]
        assert rig.is_empty()


@in_virtual_time
async def test_what_is_wanted_again_before_the_child_reads_is_not_told_twice() -> None:
    async with legacy() as rig:
        first = await listen(rig, "x:1", "x:2")
        rig.child.stdin.fill()
        first.release()
        await asyncio.sleep(1)
        listening = asyncio.create_task(listen(rig, "x:1", "x:2"))
        await asyncio.sleep(1)
        rig.child.stdin.drain()
        second = await listening
        # The first of them was on its way already.
        assert watched(rig)[2:] == [("unsubscribe", "x:1"), ("subscribe", "x:1")]
        await rig.says(method=UPDATED, params={"uri": "x:2"})
        assert await told(second) == ["x:2"]


@in_virtual_time
async def test_a_client_that_goes_before_the_child_reads_leaves_nothing_watched() -> None:
    async with legacy() as rig:
        rig.child.stdin.fill()
        listening = asyncio.create_task(listen(rig, "x:1", "x:2"))
        await asyncio.sleep(1)
        listening.cancel()
        await asyncio.wait([listening])
        rig.child.stdin.drain()
        await asyncio.sleep(1)
        assert watched(rig) == []
        assert rig.is_empty()


@in_virtual_time
async def test_more_resources_than_calls_may_be_in_flight_can_be_watched() -> None:
    """Ours: nobody waits for the answers, so they take nobody's place."""
    async with legacy(max_calls=2) as rig:
        await listen(rig, *(f"x:{number}" for number in range(10)))
        assert len(watched(rig)) == 10
        assert rig.shared.calls == 0
        await rig.call()


# Ends.


@in_virtual_time
async def test_a_listener_is_owed_something_until_it_leaves() -> None:
    """Protocol matrix, D6."""
    async with legacy() as rig:
        listener = await listen(rig)
        assert rig.shared.busy
        rig.idle.clear()
        listener.release()
        assert rig.idle
        assert not rig.shared.busy


@in_virtual_time
async def test_a_graceful_end_says_so() -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions, "Graceful Closure"."""
    async with legacy() as rig:
        listener = await listen(rig, "x:1", id=5)
        rig.shared.end_listening()
        (last,) = await messages_on(listener)
        meta = {TAG: 5, f"{PREFIX}serverInfo": SERVER["serverInfo"]}
        assert last == {"jsonrpc": "2.0", "id": 5, "result": {"resultType": "complete", "_meta": meta}}
        assert listener.complete
        await asyncio.sleep(0)
        assert watched(rig)[-1] == ("unsubscribe", "x:1")
        assert rig.is_empty()
        listener.release()


@in_virtual_time
async def test_a_listener_that_does_not_read_is_ended_and_told_why() -> None:
    """Protocol matrix, 4.4: overflow ends the stream."""
    async with legacy(max_stream_bytes=2000) as rig:
        slow = await listen(rig, id=1, toolsListChanged=True)
        other = await listen(rig, id=2, promptsListChanged=True)
        for _ in range(30):
            await rig.says(method=LISTS["toolsListChanged"])
        await rig.says(method=LISTS["promptsListChanged"])
        messages = await messages_on(slow)
        assert messages[-1]["error"]["data"] == {"reason": "slow client"}
        assert (messages[-1]["id"], slow.error_code) == (1, INTERNAL_ERROR)
        assert sum("error" in message for message in messages) == 1
        assert await told(other) == [LISTS["promptsListChanged"]]
        assert len(rig.changes) == 1


@in_virtual_time
async def test_a_child_that_replaces_another_goes_on_with_its_streams() -> None:
    """Protocol matrix, 2.2: no second acknowledgement; everything may have changed."""
    owner, changes = Owner(b"owner", Seal()), Changes()
    async with legacy(owner=owner, changes=changes) as old, legacy(owner=owner, changes=changes) as new:
        listener = await listen(old, "x:1", "x:2", toolsListChanged=True, resourcesListChanged=True)
        left = await listen(old, "x:3", id=2)
        old.child.exit(ExitStatus(code=1, signal=None))
        await old.running
        assert not old.shared.busy
        assert len(changes) == 0
        assert await told(listener) == []
        assert listener.open
        left.release()
        for orphan in old.shared.orphans:
            await new.shared.adopt(orphan)
        assert watched(new) == [("subscribe", "x:1"), ("subscribe", "x:2")]
        assert await told(listener) == [
            LISTS["toolsListChanged"],
            LISTS["resourcesListChanged"],
            "x:1",
            "x:2",
        ]
        await new.says(method=UPDATED, params={"uri": "x:1"})
        assert await told(listener) == ["x:1"]
        listener.release()
        await asyncio.sleep(0)
        assert len(watched(new)) == 4
        assert new.is_empty()


@in_virtual_time
async def test_a_stream_that_is_full_when_it_is_adopted_is_ended_once() -> None:
    owner, changes = Owner(b"owner", Seal()), Changes()
    bounds: Json = {"owner": owner, "changes": changes, "max_stream_bytes": 600}
    async with legacy(**bounds) as old, legacy(**bounds) as new:
        listener = await listen(old, *(f"x:{number}" for number in range(9)))
        old.shared.fail(BridgeBroken("stopped", reason="stopped"))
        for orphan in old.shared.orphans:
            await new.shared.adopt(orphan)
        messages = await messages_on(listener)
        assert [("error" in message) for message in messages].count(True) == 1
        assert "error" in messages[-1]
        assert new.is_empty()


@in_virtual_time
async def test_a_child_that_has_ended_adopts_nothing() -> None:
    async with legacy() as old, legacy() as new:
        await listen(old, "x:1")
        for rig in (old, new):
            rig.child.exit()
            await rig.running
        with pytest.raises(BridgeBroken):
            await new.shared.adopt(old.shared.orphans[0])


@in_virtual_time
async def test_a_stream_that_was_never_opened_is_not_left_to_another_child() -> None:
    async with legacy() as rig:
        rig.child.stdin.fill()
        listening = asyncio.create_task(listen(rig, "x:1"))
        await asyncio.sleep(1)
        rig.child.exit()
        await rig.running
        await asyncio.wait([listening])
        assert listening.exception() is not None
        assert [orphan.exchange.open for orphan in rig.shared.orphans] in ([], [False])
        assert rig.is_empty()


@in_virtual_time
async def test_leaving_a_child_that_does_not_read_any_more_is_no_error() -> None:
    async with legacy() as rig:
        listener = await listen(rig, "x:1")
        rig.child.stdin.close()
        listener.release()
        await asyncio.sleep(0.1)
        assert not rig.shared.busy
