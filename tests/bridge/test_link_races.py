"""What happens to a call in the wrong moment: every test here began as a suspicion of a reviewer."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from stdio_broker.bridge import ModernChild, Settings
from stdio_broker.bridge.owner import Owner
from stdio_broker.bridge.seal import Seal
from stdio_broker.errors import BrokerError
from stdio_broker.testing import FakeChild

from .link_rig import Server, linked
from .session_rig import settle, virtual, waiting

Message = dict[str, Any]


def _calls(server: Server) -> list[Message]:
    return [message for message in server.heard if message.get("method") == "tools/call"]


@virtual
async def test_a_call_that_failed_while_it_waited_to_be_sent_is_not_sent_to_another_child() -> None:
    """JSON-RPC: one answer. A child that closes its output, and does not read, fails what waits for it."""
    async with linked() as rig:
        _, server = await rig.begin()
        server.fake.stdin.fill()
        calling = asyncio.create_task(rig.call("tools/call", name="t"))
        await settle(0)
        server.fake.stdout.end()
        await settle(1)  # its calls have failed by now; it lives on
        server.fake.stdin.shut()
        exchange = await calling
        await settle(1)
        (answer,) = await waiting(exchange)
        assert answer["error"]["data"]["reason"] == "server closed its output"
        assert exchange.complete
        assert rig.woken == 0
        rig.bridge.release(exchange)


@virtual
async def test_a_call_that_was_cancelled_while_it_waited_to_be_sent_is_not_sent_to_another_child() -> None:
    """2025-11-25, cancellation: what was cancelled is not done."""
    async with linked() as rig:
        _, server = await rig.begin()
        server.fake.stdin.fill()
        calling = asyncio.create_task(rig.call("tools/call", name="t"))
        await settle(0)
        telling = asyncio.create_task(rig.tell("notifications/cancelled", requestId=1))
        await settle(0)
        server.ends()
        exchange = await calling
        await telling
        await settle(1)
        (answer,) = await waiting(exchange)
        assert "cancelled" in answer["error"]["message"]
        assert rig.woken == 0
        rig.bridge.release(exchange)


@virtual
async def test_a_call_that_waits_for_room_at_a_second_child_is_answered_once_too() -> None:
    """As above, for the second try."""
    async with linked() as rig:
        _, first = await rig.begin()
        second = Server()
        rig.successors = [second]
        rig.on_woken = lambda server: server.fake.stdin.fill()
        first.fake.stdin.fill()
        calling = asyncio.create_task(rig.call("tools/call", name="t"))
        await settle(0)
        first.ends()
        await settle(0.1)
        second.fake.stdout.end()
        await settle(1)
        second.fake.stdin.shut()
        exchange = await calling
        (answer,) = await waiting(exchange)
        assert "error" in answer
        assert rig.woken == 1
        rig.bridge.release(exchange)


@virtual
async def test_a_second_try_is_the_request_as_the_client_wrote_it() -> None:
    """Design, 6.2: only ids and progress tokens are rewritten, each time anew."""
    async with linked() as rig:
        _, first = await rig.begin()
        first.fake.stdin.fill()
        meta = {"progressToken": "mine", "x": 1e2, "y": None}
        calling = asyncio.create_task(rig.call("tools/call", "id-7", name="t", _meta=meta))
        await settle(0)
        second = Server()
        second.silent.add("tools/call")
        rig.successors = [second]
        first.ends()
        exchange = await calling
        (sent,) = _calls(second)
        assert sent["params"] == {"name": "t", "_meta": {**meta, "progressToken": sent["id"]}}
        await second.says(
            method="notifications/progress", params={"progressToken": sent["id"], "progress": 1}
        )
        await second.answers(sent, n=1)
        progress, answer = await waiting(exchange)
        assert progress["params"]["progressToken"] == "mine"
        assert (answer["id"], answer["result"]) == ("id-7", {"n": 1})
        rig.bridge.release(exchange)


@virtual
async def test_our_own_question_to_a_child_that_ends_before_it_reads_leaves_no_forgotten_error() -> None:
    """asyncio: an exception that nobody retrieves is logged as a mistake of ours."""
    mistakes: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: mistakes.append(context))
    fake = FakeChild()
    child = ModernChild(fake, Settings(), Owner(b"o", Seal()))
    running = asyncio.create_task(child.run())
    fake.stdin.fill()
    asking = asyncio.create_task(child.query("tools/list"))
    await settle(0)
    fake.stdout.end()
    await settle(1)
    fake.exit()
    await running
    (problem,) = await asyncio.gather(asking, return_exceptions=True)
    assert isinstance(problem, BrokerError)
    del asking, problem
    gc.collect()
    await settle(0)
    assert not mistakes
