"""What children of both eras have in common: requests of our own, callers, ends, and headers of tools."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from stdio_broker.bridge.shared_child import error_code
from stdio_broker.bridge.tool_headers import FRESH_FOR, MAX_PAGES
from stdio_broker.errors import BridgeBroken, ChildGone, LocalProtocolError
from stdio_broker.protocol.headers import HEADER_MISMATCH
from stdio_broker.protocol.jsonrpc import object_members, parse_line
from stdio_broker.protocol.modern import ModernRequest
from stdio_broker.supervisor import ExitStatus, OversizeLine
from stdio_broker.testing import FakeChild
from tests.support.clock import run_in_virtual_time

from .modern_rig import ModernRig, answer, notification, progress, request, rigged, text, waiting

REGION = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
PLAIN = {"type": "object"}
CHANGED = notification("notifications/tools/list_changed")

# Requests of our own.


async def test_a_request_of_our_own_is_answered_like_any_other() -> None:
    async with rigged() as rig:
        asking = asyncio.create_task(rig.child.query("x/y"))
        line = json.loads(await rig.fake.hears())
        assert rig.child.calls == 1
        child_id = text(line["id"])
        await rig.fake.says(progress(child_id), answer(child_id, {"n": 1}))
        members = (await asking).members
        assert json.loads(bytes(members["result"])) == {"n": 1}
        assert not rig.child.busy
        assert rig.idle


async def test_a_request_of_our_own_fails_with_the_child() -> None:
    """Ours: nobody waits for a child that is not there."""
    async with rigged() as rig:
        asking = asyncio.create_task(rig.child.query("x/y"))
        await rig.fake.hears()
        await rig.ends(ExitStatus(code=3, signal=None))
        with pytest.raises(BridgeBroken, match="code 3") as caught:
            await asking
        assert caught.value.code == 3
        with pytest.raises(BridgeBroken, match="code 3"):
            await rig.child.query("x/y")


@pytest.mark.parametrize("ends", [False, True])
async def test_a_request_of_our_own_that_nobody_waits_for_is_forgotten(*, ends: bool) -> None:
    """Ours: also if it is answered, or the child ends, in the very moment in which it is given up."""
    async with rigged() as rig:
        asking = asyncio.create_task(rig.child.query("x/y"))
        child_id = text(json.loads(await rig.fake.hears())["id"])
        asking.cancel()
        if ends:
            rig.child.fail(BridgeBroken("gone", reason="gone"))
        else:
            (late,) = parse_line(answer(child_id, {}))
            rig.child.message(late)
        await asyncio.wait({asking})
        assert asking.cancelled()
        assert not rig.child.busy


async def test_a_request_of_our_own_to_a_child_that_is_being_stopped_fails() -> None:
    async with rigged() as rig:
        rig.fake.stdin.close()
        with pytest.raises(ChildGone):
            await rig.child.query("x/y")
        assert not rig.child.busy


async def test_children_are_told_apart_for_good() -> None:
    """Ours: a state that was made for one child must never fit another; pids come again."""
    numbers = set()
    for _ in range(3):
        async with rigged() as rig:
            numbers.add(rig.child.number)
    assert len(numbers) == 3


async def test_an_operator_can_see_what_was_no_json() -> None:
    async with rigged() as rig:
        await rig.fake.says(b"Welcome!", b"again")
        assert rig.child.first_bad_line == "Welcome!"


async def test_a_child_that_we_give_up_fails_everybody_once() -> None:
    """Ours: its own end comes later, and is not told again."""
    async with rigged() as rig:
        exchange, _ = await rig.call()
        await rig.fake.says(OversizeLine(length=9, head=b'{"jsonrpc":"2.0","id":77,"result":1', tail=b"}"))
        await rig.ends()
        assert len(await waiting(exchange)) == 1
        first = rig.child.ending
        assert first is not None
        rig.child.fail(first)
        assert await waiting(exchange) == []
        assert rig.child.ending is first


def test_the_code_of_an_error_is_a_number_or_0_and_that_of_a_result_is_none() -> None:
    def code(written: bytes) -> int | None:
        members = object_members(msgspec.Raw(written))
        assert members is not None
        return error_code(members)

    assert code(b'{"error":{"code":-32601}}') == -32601
    assert code(b'{"error":{"code":"x"}}') == 0
    assert code(b'{"error":{}}') == 0
    assert code(b'{"error":7}') is None
    assert code(b'{"result":{}}') is None


# What another child could not go on with.


@pytest.mark.parametrize("how", ["answered", "cancelled", "too long", "ended"])
async def test_a_child_is_settled_when_only_streams_of_changes_are_left(how: str) -> None:
    """Design decision 6: those go over to its successor; a call cannot."""
    async with rigged() as rig:
        await rig.child.wait_settled()
        listening, _ = await rig.listens(toolsListChanged=True)
        assert (rig.child.owed, rig.child.busy) == (0, True)
        await rig.child.wait_settled()
        first, first_id = await rig.call()
        second, second_id = await rig.call()
        assert rig.child.owed == 2
        settled = asyncio.create_task(rig.child.wait_settled())
        await rig.fake.says(answer(first_id, {}))
        await asyncio.sleep(0)
        assert not settled.done()
        if how == "answered":
            await rig.fake.says(answer(second_id, {}))
        elif how == "cancelled":
            second.release()
        elif how == "too long":
            head = b'{"jsonrpc":"2.0","id":' + second_id + b',"result":1'
            await rig.fake.says(OversizeLine(length=9, head=head, tail=b"}"))
        else:
            await rig.ends()
        async with asyncio.timeout(5):
            await settled
        assert rig.child.owed == 0
        await rig.child.wait_settled()
        first.release()
        listening.release()


async def test_a_wait_until_a_child_is_settled_can_be_given_up_and_begun_again() -> None:
    """Ours: `drain_timeout`."""
    async with rigged() as rig:
        exchange, child_id = await rig.call()
        settled = asyncio.create_task(rig.child.wait_settled())
        await asyncio.sleep(0)
        settled.cancel()
        await asyncio.wait({settled})
        settled = asyncio.create_task(rig.child.wait_settled())
        await asyncio.sleep(0)
        await rig.fake.says(answer(child_id, {}))
        async with asyncio.timeout(5):
            await settled
        exchange.release()


async def test_a_request_of_our_own_is_owed() -> None:
    """Ours: somebody waits for it."""
    async with rigged() as rig:
        asking = asyncio.create_task(rig.child.query("x/y"))
        child_id = text(json.loads(await rig.fake.hears())["id"])
        assert rig.child.owed == 1
        await rig.fake.says(answer(child_id, {}))
        await asking
        assert rig.child.owed == 0


# The headers that tools ask for.


def _call(region: str | None = "us", tool: str = "run") -> ModernRequest:
    arguments = {} if region is None else {"region": region}
    return request(b"9", params=b'"name":%b,"arguments":%b' % (text(tool), text(arguments)))


def _fields(region: str | None) -> list[tuple[bytes, bytes]]:
    return [] if region is None else [(b"mcp-param-region", region.encode())]


async def _passes(rig: ModernRig, header: str | None, region: str | None = "us") -> None:
    await rig.child.check_headers(_call(region), _fields(header))


async def _fails(rig: ModernRig, header: str | None, region: str | None = "us") -> None:
    with pytest.raises(LocalProtocolError) as caught:
        await rig.child.check_headers(_call(region), _fields(header))
    assert (caught.value.code, caught.value.request_id) == (HEADER_MISMATCH, b"9")


class _Lister:
    """A child that lists its tools.

    Attributes:
        pages: Its tools: name and schema.
        cursors: Those that it was asked for; None is the first page.
        silent: Whether it does not answer.
        endless: Whether there is always another page.
        error: Whether it answers with an error.
    """

    def __init__(self, *pages: dict[str, object]) -> None:
        self.pages = list(pages)
        self.cursors: list[str | None] = []
        self.silent = False
        self.endless = False
        self.error = False

    def __call__(self, line: bytes) -> Iterable[bytes]:
        message: dict[str, Any] = json.loads(line)
        if message["method"] != "tools/list":
            return
        assert "io.modelcontextprotocol/protocolVersion" in message["params"]["_meta"]
        cursor = message["params"].get("cursor")
        self.cursors.append(cursor)
        if self.silent:
            return
        child_id = text(message["id"])
        if self.error:
            yield b'{"jsonrpc":"2.0","id":%b,"error":{"code":-32601,"message":"no"}}' % child_id
            return
        number = int(cursor or 0)
        page = {} if self.endless else self.pages[number]
        tools = [{"name": name, "inputSchema": schema} for name, schema in page.items()]
        more = {"nextCursor": str(number + 1)} if self.endless or number + 1 < len(self.pages) else {}
        yield answer(child_id, {"tools": tools, **more})


async def test_tools_are_listed_once_all_pages_for_all_calls() -> None:
    """Protocol.md, 8, rule 4."""
    lister = _Lister({"other": PLAIN}, {"run": REGION}, {"last": PLAIN})
    async with rigged(fake=FakeChild(answer=lister)) as rig:
        await asyncio.gather(*(_passes(rig, "us") for _ in range(5)))
        await _fails(rig, "eu")
        await _fails(rig, None)
        assert lister.cursors == [None, "1", "2"]


async def test_a_call_without_a_tool_is_the_childs_to_refuse() -> None:
    """Ours: no list can tell anything of it."""
    lister = _Lister({"run": REGION})
    async with rigged(fake=FakeChild(answer=lister)) as rig:
        await rig.child.check_headers(request(), _fields("us"))
        assert lister.cursors == []


async def test_tools_are_listed_again_when_the_child_says_that_they_have_changed() -> None:
    """Protocol.md, 8, rule 4."""
    lister = _Lister({"run": REGION})
    async with rigged(fake=FakeChild(answer=lister)) as rig:
        await rig.fake.says(CHANGED)
        assert lister.cursors == []
        await _passes(rig, "us")
        await rig.fake.says(CHANGED, CHANGED)
        assert lister.cursors == [None]
        await _passes(rig, "us")
        await _passes(rig, "us")
        assert lister.cursors == [None, None]


async def test_tools_that_change_while_they_are_listed_are_listed_again_afterwards() -> None:
    """Ours: and one list at a time, however often they change."""
    lister = _Lister({"run": REGION})
    async with rigged(fake=FakeChild(answer=lister)) as rig:
        await rig.fake.says(CHANGED)
        first = asyncio.create_task(_passes(rig, "us"))
        await asyncio.sleep(0)
        (changed,) = parse_line(CHANGED)
        rig.child.message(changed)
        second = asyncio.create_task(_passes(rig, "us"))
        await asyncio.gather(first, second)
        assert lister.cursors == [None]
        await _passes(rig, "us")
        assert lister.cursors == [None, None]


def test_an_old_list_is_read_again_before_it_speaks_against_a_call() -> None:
    """Ours: a modern child tells of a change only to those who listen (MCP 2026-07-28, subscriptions)."""

    async def main() -> None:
        lister = _Lister({"run": REGION})
        async with rigged(fake=FakeChild(answer=lister)) as rig:
            await _passes(rig, "us")
            await _fails(rig, None)
            assert len(lister.cursors) == 1
            await asyncio.sleep(FRESH_FOR)
            await _fails(rig, None)
            assert len(lister.cursors) == 2
            await asyncio.sleep(FRESH_FOR)
            lister.pages = [{"run": PLAIN}]
            await asyncio.gather(_passes(rig, None), _passes(rig, None))
            assert len(lister.cursors) == 3

    run_in_virtual_time(main())


def test_a_child_that_never_lists_its_tools_validates_nothing_after_a_while() -> None:
    """Protocol.md, 8, rule 4: no schema available does not block the call."""

    async def main() -> None:
        lister = _Lister({"run": REGION})
        lister.silent = True
        async with rigged(fake=FakeChild(answer=lister), query_timeout=10.0) as rig:
            await _passes(rig, "eu")
            assert asyncio.get_running_loop().time() == pytest.approx(10.0)
            await _passes(rig, "eu")
            assert asyncio.get_running_loop().time() == pytest.approx(10.0)
            assert lister.cursors == [None]

    run_in_virtual_time(main())


async def test_a_child_that_does_not_list_its_tools_validates_nothing() -> None:
    """Protocol.md, 8, rule 4: the same."""
    lister = _Lister()
    lister.error = True
    async with rigged(fake=FakeChild(answer=lister)) as rig:
        await _passes(rig, "eu")


async def test_pages_are_bounded() -> None:
    """Ours: a child may give cursors without end."""
    lister = _Lister()
    lister.endless = True
    async with rigged(fake=FakeChild(answer=lister)) as rig:
        await _passes(rig, "eu")
        assert len(lister.cursors) == MAX_PAGES


async def test_a_child_that_ends_over_its_list_validates_nothing() -> None:
    """Ours: whether it is there is found out by the call itself."""
    async with rigged() as rig:
        checking = asyncio.create_task(_passes(rig, "eu"))
        await rig.fake.hears()
        await rig.ends()
        await checking
        await _passes(rig, "eu")


async def test_a_child_whose_end_comes_before_its_list_is_asked_for_validates_nothing() -> None:
    """Ours: the same, where the question is cancelled before it begins."""
    async with rigged() as rig:
        rig.fake.exit()
        checking = asyncio.create_task(_passes(rig, "eu"))
        await rig.running
        await checking


async def test_a_list_goes_on_when_the_client_that_needed_it_first_goes() -> None:
    """Ours: others wait for it."""
    async with rigged() as rig:
        gone, stays = (asyncio.create_task(_passes(rig, "us")) for _ in range(2))
        child_id = text(json.loads(await rig.fake.hears())["id"])
        gone.cancel()
        await asyncio.wait({gone})
        await rig.fake.says(answer(child_id, {"tools": [{"name": "run", "inputSchema": REGION}]}))
        await stays
        await _fails(rig, None)
        assert gone.cancelled()


async def test_what_we_do_for_a_child_ends_with_it() -> None:
    """Ours: also where it does not even read what we ask."""
    async with rigged() as rig:
        rig.fake.stdin.fill()
        checking = asyncio.create_task(_passes(rig, "us"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await rig.ends()
        await checking
