"""What one principal has is, to every other one, as if it were not there.

Every foreign thing gets the answer that an unknown one gets, to the byte but for the time of day; and it
still works for its owner afterwards. Nothing of two principals is one: no child, no table, no stream.
Source: issue 4, "Done when" 4; design.md, decisions 3, 5 and 7; protocol.md, D3.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from stdio_broker.bridge import Seal
from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.errors import LocalProtocolError
from stdio_broker.http import Settings as HttpSettings
from stdio_broker.sessions import ANONYMOUS, Leases, Quotas, ServerRecipe
from stdio_broker.sessions import Settings as SessionSettings
from stdio_broker.sessions.admission import Admission
from stdio_broker.sessions.state import ServerState
from stdio_broker.supervisor import Config, Supervisor
from tests.support.edge import UNBOUNDED, child_config
from tests.support.eras import (
    LEGACY_TO_LEGACY,
    LEGACY_TO_MODERN,
    MODERN_TO_LEGACY,
    MODERN_TO_MODERN,
    Cell,
    answer_of,
    legacy_client,
    modern_client,
    open_session,
    parsed,
    serving_principals,
)
from tests.support.mcp_client import COMMENT, EventStream, McpClient, Message, message_in, text_of
from tests.support.modern_client import EVERYTHING, SUBSCRIPTION, ModernClient

TOOLS_CHANGED = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"
URI = "test:one"
# So that an answer that is still to come becomes a stream at once.
QUICK = HttpSettings(keep_alive_interval=0.05)
# A token of the shape that our own states have, of no key of ours.
UNKNOWN_STATE = "b2QncyBib2R5IGtub3dzIHdoYXQgdGhpcyBpcywgbm90IGV2ZW4gd2hvIG1hZGUgaXQ"
UNKNOWN_SESSION = "0badcafe-000102030405060708090a0b0c0d0e0f-00112233445566778899"

modern_clients = pytest.mark.parametrize("cell", [MODERN_TO_LEGACY, MODERN_TO_MODERN], ids=str)
legacy_clients = pytest.mark.parametrize("cell", [LEGACY_TO_LEGACY, LEGACY_TO_MODERN], ids=str)


# States.


async def ask(client: ModernClient, **arguments: object) -> tuple[Message, Message]:
    """Call the tool that asks; return the request, and the result that wants input."""
    message = client.tool("ask", state="of $PID", **arguments)
    answer = await client.exchange(message)
    assert answer["result"]["resultType"] == "input_required", answer
    return message, answer["result"]


def responses_to(result: Message) -> Message:
    """Return an answer to every question."""
    return {key: {"action": "accept", "content": {"name": "Anna"}} for key in result["inputRequests"]}


def retry_of(client: ModernClient, message: Message, result: Message, **changes: object) -> Message:
    """Return a repetition, whose id is always the same: whole answers are compared."""
    retry = client.retry(message, {**result, **changes}, responses_to(result))
    return {**retry, "id": "the retry"}


@modern_clients
async def test_a_foreign_state_is_answered_as_an_unknown_one(cell: Cell) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr: a state MUST be bound to the user that it was made for."""
    async with (
        serving_principals(cell.config()) as edge,
        modern_client(edge, "anna") as anna,
        modern_client(edge, "bernd") as bernd,
    ):
        message, result = await ask(anna)
        foreign = retry_of(bernd, message, result)
        unknown = retry_of(bernd, message, result, requestState=UNKNOWN_STATE)
        cold = [answer_of(await bernd.post(retry)) for retry in (foreign, unknown)]
        # Now with a child of his own, and with a parked call of the very same kind.
        _, his = await ask(bernd)
        warm = [answer_of(await bernd.post(retry)) for retry in (foreign, unknown)]
        assert cold == [cold[0]] * 2
        assert warm == cold
        status, _, body = cold[0]
        assert (status, body["error"]["code"], body["id"]) == (400, -32602, "the retry")
        # Nothing of it was used up, on either side.
        for client, held in ((anna, result), (bernd, his)):
            answer = await client.exchange(retry_of(client, message, held))
            assert '"action": "accept"' in text_of(answer), answer


@modern_clients
async def test_a_state_is_good_for_its_own_request_only(cell: Cell) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, and protocol.md, 13.7: method, name and arguments are bound."""
    async with serving_principals(cell.config("prompts")) as edge, modern_client(edge, "anna") as anna:
        message, result = await ask(anna)
        unknown = answer_of(await anna.post(retry_of(anna, message, result, requestState=UNKNOWN_STATE)))
        others = [
            anna.tool("ask", state="of $PID", more=1),
            anna.tool("echo", text="ask"),
            anna.request("prompts/get", {"name": "ask", "arguments": {"ask": "{}"}}),
            anna.request("resources/read", {"uri": "ask:"}),
        ]
        for other in others:
            assert answer_of(await anna.post(retry_of(anna, other, result))) == unknown, other
        answer = await anna.exchange(retry_of(anna, message, result))
        assert '"action": "accept"' in text_of(answer)


async def test_a_state_that_has_done_its_work_is_unknown() -> None:
    """protocol.md, 13.7: each state is single-use: of two retries with the same one, one wins."""
    cell = MODERN_TO_LEGACY
    async with serving_principals(cell.config()) as edge, modern_client(edge, "anna") as anna:
        message, result = await ask(anna)
        unknown = answer_of(await anna.post(retry_of(anna, message, result, requestState=UNKNOWN_STATE)))
        retry = retry_of(anna, message, result)
        answers = await asyncio.gather(*(anna.post(retry) for _ in range(8)))
        good = [answer for answer in answers if answer.status_code == 200]
        assert len(good) == 1
        assert '"action": "accept"' in text_of(message_in(good[0]))
        refused = [answer_of(answer) for answer in answers if answer.status_code != 200]
        assert refused == [unknown] * 7
        assert answer_of(await anna.post(retry)) == unknown


async def test_the_state_of_an_earlier_round_is_unknown() -> None:
    """protocol.md, 4.3: a state is bound to its round."""
    cell = MODERN_TO_LEGACY
    async with serving_principals(cell.config()) as edge, modern_client(edge, "anna") as anna:
        message, first = await ask(anna, rounds=2)
        unknown = answer_of(await anna.post(retry_of(anna, message, first, requestState=UNKNOWN_STATE)))
        second = (await anna.exchange(retry_of(anna, message, first)))["result"]
        assert second["resultType"] == "input_required"
        assert answer_of(await anna.post(retry_of(anna, message, first))) == unknown
        # Its keys are no others' either: answers to the first questions answer nothing now.
        mixed = retry_of(anna, message, {**first, "requestState": second["requestState"]})
        again = (await anna.exchange(mixed))["result"]
        assert again["resultType"] == "input_required"
        assert again["inputRequests"] == second["inputRequests"]
        answer = await anna.exchange(retry_of(anna, message, again))
        assert '"action": "accept"' in text_of(answer)


@modern_clients
async def test_a_state_that_was_changed_is_unknown(cell: Cell) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr: integrity-protected; every bit of it counts."""
    async with serving_principals(cell.config()) as edge, modern_client(edge, "anna") as anna:
        message, result = await ask(anna)
        state = result["requestState"]
        unknown = answer_of(await anna.post(retry_of(anna, message, result, requestState=UNKNOWN_STATE)))
        middle = len(state) // 2
        flipped = state[:middle] + ("A" if state[middle] != "A" else "B") + state[middle + 1 :]
        for changed in (flipped, state[:-4], state + "AAAA", state * 2, "", "=", "é", "\0", "A" * 2_000_000):
            answer = answer_of(await anna.post(retry_of(anna, message, result, requestState=changed)))
            assert answer == unknown, changed[:100]
        assert "result" in await anna.exchange(retry_of(anna, message, result))


async def test_a_state_is_good_for_its_own_server_only() -> None:
    """design.md, decision 5: bound to the server too, for one process may serve several with one key."""
    seal, config = Seal(), child_config()
    async with (
        Supervisor() as supervisor,
        leasing("one", config, supervisor, seal) as one,
        leasing("other", config, supervisor, seal) as other,
        ModernClient("http://-/", capabilities=EVERYTHING) as client,
    ):
        message = client.tool("ask")
        exchange = await one.call(ANONYMOUS, parsed(message))
        result = json.loads(await exchange.receive(10.0) or b"null")["result"]
        exchange.release()
        assert result["resultType"] == "input_required"
        retry = retry_of(client, message, result)
        unknown = retry_of(client, message, result, requestState=UNKNOWN_STATE)
        # The other one has a child, too.
        (await other.call(ANONYMOUS, parsed(client.tool("pid")))).release()
        problems = []
        for request in (retry, unknown):
            with pytest.raises(LocalProtocolError) as caught:
                await other.call(ANONYMOUS, parsed(request))
            problems.append((str(caught.value), caught.value.code, caught.value.data))
        assert problems[0] == problems[1]
        good = await one.call(ANONYMOUS, parsed(retry))
        assert b"result" in (await good.receive(10.0) or b"")
        good.release()


@contextlib.asynccontextmanager
async def leasing(name: str, config: Config, supervisor: Supervisor, seal: Seal) -> AsyncIterator[Leases]:
    """Have leases of a server, with a key that it shares."""
    server = ServerState(ServerRecipe(name, config), SessionSettings(), BridgeSettings())
    quotas = Quotas(UNBOUNDED, now=asyncio.get_running_loop().time)
    admission = Admission(server, quotas, uniform=random.uniform)
    leases = Leases(server, supervisor, admission, seal=seal, on_change=lambda: None)
    async with leases:
        try:
            yield leases
        finally:
            leases.end_all()


# Sessions.


async def answers_for(client: McpClient, session_id: str) -> list[tuple[int, dict[str, str], object]]:
    """Return the whole answer to everything that can be sent with a session id; DELETE comes last."""
    mark = {"mcp-session-id": session_id}
    call = {**client.tool("pid"), "id": "the call"}
    listening = {**mark, "accept": "text/event-stream", "content-type": None}
    sent: list[httpx.Response] = [
        await client.post(call, mark),
        await client.post({**call, "method": "initialize"}, mark),
        await client.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, mark),
        await client.post({"jsonrpc": "2.0", "id": "q1", "result": {}}, mark),
        await client.post([call, call], mark),
        await client.post(call, {**mark, "mcp-protocol-version": "2026-07-28"}),
        await client.send("GET", listening),
        await client.send("GET", {**listening, "last-event-id": "1_1"}),
        await client.send("GET", {**listening, "mcp-protocol-version": "2026-07-28"}),
        await client.send("DELETE", {**mark, "mcp-protocol-version": "2026-07-28"}),
        await client.send("DELETE", mark),
    ]
    return [answer_of(answer) for answer in sent]


@legacy_clients
async def test_a_foreign_session_is_answered_as_an_unknown_one(cell: Cell) -> None:
    """protocol.md, 7: another principal gets the same 404 as for an unknown id; so does every verb."""
    async with (
        serving_principals(cell.config()) as edge,
        legacy_client(edge, "anna") as anna,
        legacy_client(edge, "bernd") as bernd,
    ):
        await open_session(anna)
        pid = await anna.ask("pid")
        async with asyncio.timeout(20):
            without = await answers_for(bernd, anna.session_id or "")
            assert without == await answers_for(bernd, UNKNOWN_SESSION)
        assert [status for status, _, _ in without].count(404) >= 5
        # And with a session of his own beside it, an ended one, and one that was changed.
        await open_session(bernd)
        ended, bernd.session_id = bernd.session_id or "", None
        assert (await bernd.send("DELETE", {"mcp-session-id": ended})).status_code == 200
        await open_session(bernd)
        changed = (anna.session_id or "")[:-1] + "?"
        foreign = await answers_for(bernd, anna.session_id or "")
        for session_id in (UNKNOWN_SESSION, ended, changed):
            assert await answers_for(bernd, session_id) == foreign
        assert await anna.ask("pid") == pid
        assert await bernd.ask("pid") != pid


@legacy_clients
async def test_a_question_is_answered_by_its_own_session_only(cell: Cell) -> None:
    """protocol.md, 3: ids of questions are unguessable; an answer to an unknown id: 202 and drop."""
    async with (
        serving_principals(cell.config()) as edge,
        legacy_client(edge, "anna") as anna,
        legacy_client(edge, "bernd") as bernd,
        legacy_client(edge, "anna") as other,
    ):
        for client in (anna, bernd, other):
            await open_session(client)
        async with anna.stream(anna.tool("ask")) as stream:
            question = await stream.message()
            for client in (bernd, other):
                dropped = [
                    answer_of(
                        await client.post({"jsonrpc": "2.0", "id": name, "result": {"action": "cancel"}})
                    )
                    for name in (question["id"], "nobody asked this")
                ]
                assert dropped == [(202, dropped[0][1], "")] * 2
            good = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}
            assert (await anna.post(good)).status_code == 202
            assert '"decline"' in text_of((await stream.rest())[-1])


@legacy_clients
async def test_a_call_is_cancelled_by_its_own_session_only(cell: Cell) -> None:
    """protocol.md, 3: the id of a request means something in its own session only."""
    async with (
        serving_principals(cell.config(), http=QUICK) as edge,
        legacy_client(edge, "anna") as anna,
        legacy_client(edge, "bernd") as bernd,
    ):
        await open_session(anna)
        await open_session(bernd)
        message = anna.tool("wait")
        async with anna.stream(message) as stream:
            assert await stream.next() == COMMENT
            cancelled = await bernd.notify("notifications/cancelled", requestId=message["id"])
            assert cancelled.status_code == 202
            # To its child this comes after the cancellation, had that gone there.
            assert await bernd.ask("release") == "0"
            assert await anna.ask("release") == "1"
            assert text_of((await stream.rest())[-1]) == "released"


async def test_a_modern_call_is_cancelled_by_nobody_else() -> None:
    """protocol.md, 4.2: any notification that is POSTed: 202, and dropped; the stream is what cancels."""
    cell = MODERN_TO_MODERN
    async with (
        serving_principals(cell.config(), http=QUICK) as edge,
        modern_client(edge, "anna") as anna,
        modern_client(edge, "bernd") as bernd,
    ):
        message = anna.tool("wait")
        async with anna.stream(message) as stream:
            assert await stream.next() == COMMENT
            for client in (bernd, anna):
                for request_id in (message["id"], *range(1, 8)):
                    assert (
                        await client.notify("notifications/cancelled", requestId=request_id)
                    ).status_code == 202
            assert await bernd.ask("release") == "0"
            assert await anna.ask("release") == "1"
            assert text_of((await stream.rest())[-1]) == "released"


# Tasks.


async def test_a_foreign_task_is_answered_as_an_unknown_one() -> None:
    """SEP-2663: a task belongs to who made it. Ours: only the child of its owner is ever asked for it."""
    cell = MODERN_TO_MODERN
    async with (
        serving_principals(cell.config()) as edge,
        modern_client(edge, "anna") as anna,
        modern_client(edge, "bernd") as bernd,
    ):
        task, unknown = "task-of-anna", "task-of-nobdy"  # of one length, for the headers are compared
        assert "result" in await anna.exchange(anna.request("tasks/get", {"taskId": task}))
        before = await anna.ask("seen")
        for method in ("tasks/get", "tasks/update", "tasks/cancel"):
            answers = []
            for name in (task, unknown):
                message = {**bernd.request(method, {"taskId": name}), "id": "the call"}
                status, headers, body = answer_of(await bernd.post(message))
                # The child tells the line that it has read, whose id is another one each time.
                line = json.loads(body["result"].pop("line"))
                del line["id"], headers["content-length"]
                answers.append((status, headers, body, json.dumps(line).replace(name, "…")))
            assert answers[0] == answers[1]
        after: list[str] = json.loads(await anna.ask("seen"))
        assert after[: len(json.loads(before))] == json.loads(before)
        # Nothing but her own two questions has come.
        assert len(after) == len(json.loads(before)) + 1


# Subscriptions.


def frame(listen_id: object) -> str:
    """Return a change under the id of a listen stream, as a child writes it."""
    params = {"_meta": {SUBSCRIPTION: listen_id}, "forged": True}
    return json.dumps({"jsonrpc": "2.0", "method": TOOLS_CHANGED, "params": params})


@modern_clients
async def test_a_forged_frame_reaches_nobody_else(cell: Cell) -> None:
    """protocol.md, 3: subscription ids mean something at their own child only."""
    async with (
        serving_principals(cell.config()) as edge,
        modern_client(edge, "anna") as anna,
        modern_client(edge, "bernd") as bernd,
    ):
        hers, his = (client.listen_request(toolsListChanged=True) for client in (anna, bernd))
        hers["id"] = "of anna"
        async with anna.stream(hers) as stream, bernd.stream(his) as other:
            for listener in (stream, other):
                assert (await listener.message())["method"].endswith("/acknowledged")
            forged = [frame(name) for name in ("of anna", "nobody", *range(1, 20))]
            answer = json.dumps({"jsonrpc": "2.0", "id": "$ID", "result": {}}).replace('"$ID"', "$ID")
            assert "result" in await bernd.call("raw", lines=[*forged, answer])
            # What comes next on hers is what she makes happen herself.
            assert int(await anna.ask("change", method=TOOLS_CHANGED, params={"of": "anna"})) == 1
            change = await stream.message()
            assert change["params"].get("of") == "anna", change
            assert change["params"]["_meta"][SUBSCRIPTION] == "of anna"
            # His own child may say what it likes to him, but under no other id.
            mine = await other.message()
            assert mine["params"]["_meta"][SUBSCRIPTION] == his["id"]


@modern_clients
async def test_a_change_is_told_to_the_listeners_of_its_own_principal(cell: Cell) -> None:
    """protocol.md, 4.4: to every matching listener of that principal; D3: never across."""
    async with (
        serving_principals(cell.config("resources")) as edge,
        modern_client(edge, "anna") as anna,
        modern_client(edge, "bernd") as bernd,
    ):
        wanted: dict[str, Any] = {"toolsListChanged": True, "resourceSubscriptions": [URI]}
        async with (
            anna.stream(anna.listen_request(**wanted)) as hers,
            anna.stream(anna.listen_request(**wanted)) as too,
            bernd.stream(bernd.listen_request(**wanted)) as his,
        ):
            for listener in (hers, too, his):
                assert (await listener.message())["method"].endswith("/acknowledged")
            for client, listeners in ((anna, (hers, too)), (bernd, (his,)), (anna, (hers, too))):
                name = "anna" if client is anna else "bernd"
                await client.ask("change", method=TOOLS_CHANGED, params={"of": name})
                await client.ask("change", method=UPDATED, params={"uri": URI, "of": name})
                for listener in listeners:
                    told = [await listener.message() for _ in range(2)]
                    assert [(message["method"], message["params"]["of"]) for message in told] == [
                        (TOOLS_CHANGED, name),
                        (UPDATED, name),
                    ]


@legacy_clients
async def test_a_change_is_told_to_the_sessions_of_its_own_principal(cell: Cell) -> None:
    """The same on the GET streams of sessions."""
    async with (
        serving_principals(cell.config()) as edge,
        legacy_client(edge, "anna") as anna,
        legacy_client(edge, "bernd") as bernd,
        contextlib.AsyncExitStack() as stack,
    ):
        streams: dict[str, EventStream] = {}
        for name, client in (("anna", anna), ("bernd", bernd)):
            await open_session(client)
            await watching(cell, client)
            streams[name] = await stack.enter_async_context(client.listen())
            assert await streams[name].next() == COMMENT
        for name, client in (("anna", anna), ("bernd", bernd), ("anna", anna)):
            await client.ask("change", method=TOOLS_CHANGED, params={"of": name})
        # A legacy child announces while a call is open, so there its own stream may have taken it.
        got = {name: await changes_on(stream, cell, name) for name, stream in streams.items()}
        assert got == {"anna": ["anna", "anna"], "bernd": ["bernd"]}


async def watching(cell: Cell, client: McpClient) -> None:
    """Wait until the session listens to its modern child."""
    async with asyncio.timeout(10):
        while cell == LEGACY_TO_MODERN and not json.loads(await client.ask("subscriptions"))["listens"]:
            pass


async def changes_on(stream: EventStream, cell: Cell, name: str) -> list[str]:
    """Return whose changes come on a stream."""
    count = {"anna": 2, "bernd": 1}[name]
    return [(await stream.message())["params"]["of"] for _ in range(count)]


# Children and tables.


@modern_clients
async def test_two_principals_never_share_a_child_however_alike_they_are(cell: Cell) -> None:
    """D3: one child per (principal, server, credential generation, fingerprint)."""
    async with serving_principals(cell.config()) as edge, contextlib.AsyncExitStack() as stack:
        names = ["anna", "bernd", "anna ", "ANNA", "anna\tx", "anonymous", '["anna"]']
        clients = [await stack.enter_async_context(modern_client(edge, name.strip())) for name in names]
        pids = await asyncio.gather(*(client.ask("pid") for client in clients))
        # The header takes the blank away: it is her again.
        assert pids[0] == pids[2]
        assert len(set(pids)) == len(names) - 1
        assert await asyncio.gather(*(client.ask("pid") for client in clients)) == pids
        assert edge.children == len(names) - 1


@legacy_clients
async def test_sessions_of_two_principals_never_share_a_child(cell: Cell) -> None:
    """D3: L to L a child per session, L to M one per principal."""
    async with serving_principals(cell.config()) as edge, contextlib.AsyncExitStack() as stack:
        pids: dict[str, set[str]] = {}
        for name in ("anna", "bernd", "anna", "bernd"):
            client = await stack.enter_async_context(legacy_client(edge, name))
            await open_session(client)
            pids.setdefault(name, set()).add(await client.ask("pid"))
        assert not pids["anna"] & pids["bernd"]
        assert [len(each) for each in pids.values()] == ([2, 2] if cell == LEGACY_TO_LEGACY else [1, 1])


async def test_a_modern_client_and_a_session_share_a_modern_child_of_their_own_principal_only() -> None:
    """D3: (principal, server, credential generation) has the lease in both cells."""
    cell = LEGACY_TO_MODERN
    async with (
        serving_principals(cell.config()) as edge,
        legacy_client(edge, "anna") as session,
        modern_client(edge, "anna") as anna,
        modern_client(edge, "bernd") as bernd,
    ):
        await open_session(session)
        pid = await session.ask("pid")
        assert await anna.ask("pid") == pid
        assert await bernd.ask("pid") != pid


async def test_the_calls_that_one_principal_parks_leave_room_for_the_other() -> None:
    """protocol.md, 4.3: a bounded number of parked calls per principal."""
    cell = MODERN_TO_LEGACY
    async with (
        serving_principals(cell.config(), bridge=BridgeSettings(max_parked=2)) as edge,
        modern_client(edge, "anna") as anna,
        modern_client(edge, "bernd") as bernd,
    ):
        held = [await ask(client) for client in (anna, anna, bernd, bernd)]
        for client in (anna, bernd):
            refused = await client.exchange(client.tool("ask"))
            assert refused["error"]["data"]["reason"] == "too many parked calls", refused
        for client, (message, result) in zip((anna, anna, bernd, bernd), held, strict=True):
            assert "result" in await client.exchange(retry_of(client, message, result))


async def test_a_child_that_ends_is_nobody_elses_loss() -> None:
    """D3: neither calls, nor states, nor streams of another principal are touched."""
    cell = MODERN_TO_LEGACY
    async with (
        serving_principals(cell.config()) as edge,
        modern_client(edge, "anna") as anna,
        modern_client(edge, "bernd") as bernd,
    ):
        pid = await anna.ask("pid")
        message, result = await ask(anna)
        async with anna.listen(toolsListChanged=True) as stream:
            await stream.message()
            assert (await bernd.call("die", code=3))["error"]["code"] == -32603
            assert await bernd.ask("pid") != pid
            await anna.ask("change", method=TOOLS_CHANGED, params={"of": "anna"})
            assert (await stream.message())["params"]["of"] == "anna"
        assert "result" in await anna.exchange(retry_of(anna, message, result))
        assert await anna.ask("pid") == pid
