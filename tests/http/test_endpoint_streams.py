"""What the server says of its own accord: the GET stream, the backlog, and questions to the client."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.http import Settings
from tests.support.edge import serving
from tests.support.mcp_client import COMMENT, EventStream, McpClient, Message, text_of
from tests.support.processes import wait_until

QUICK = Settings(keep_alive_interval=0.02)
LIST_CHANGED = "notifications/tools/list_changed"


async def announce(client: McpClient, count: int = 1, method: str = LIST_CHANGED, **options: object) -> None:
    """Make the child send notifications when no call of this client is open."""
    assert await client.ask("say", count=count, method=method, after=True, **options) == "said"


async def numbers(stream: EventStream, count: int) -> list[int]:
    """Return the numbers of the next notifications of the tool `say`."""
    return [(await stream.message())["params"]["data"] for _ in range(count)]


async def test_a_get_opens_a_stream_that_says_at_once_that_it_is_open() -> None:
    """2025-11-25, transports: a GET is answered with an event stream; ours: with a byte in it at once."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with client.listen() as stream:
            assert stream.status == 200
            assert stream.headers["content-type"] == "text/event-stream"
            assert "no-cache" in stream.headers["cache-control"]
            assert "mcp-session-id" not in stream.headers
            assert await stream.next() == COMMENT


async def test_a_silent_get_stream_gets_a_comment_after_every_interval() -> None:
    """Ours: proxies close what is silent for 30 to 60 s."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        async with client.listen() as stream:
            assert [await stream.next() for _ in range(4)] == [COMMENT] * 4


async def test_what_the_server_says_outside_calls_comes_on_the_get_stream() -> None:
    """2025-11-25, transports: the GET stream carries messages that are unrelated to any request."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with client.listen() as stream:
            await announce(client, count=3)
            assert await numbers(stream, 3) == [0, 1, 2]


async def test_what_was_said_while_nobody_listened_waits_for_the_next_get() -> None:
    """protocol.md, 13.1: a backlog for the GET stream, in order."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        await announce(client, count=3)
        await announce(client, count=2, method="notifications/message")
        async with client.listen() as stream:
            assert await numbers(stream, 5) == [0, 1, 2, 0, 1]
            await announce(client)
            assert await numbers(stream, 1) == [0]


async def test_a_full_backlog_forgets_the_oldest_messages() -> None:
    """Ours: every buffer is bounded (style guide, "Data"); the newest state is the one that counts."""
    bounds = BridgeSettings(max_backlog_messages=3)
    async with serving(bridge=bounds) as edge, edge.client() as client:
        await client.open()
        await announce(client, count=10)
        async with client.listen() as stream:
            assert await numbers(stream, 3) == [7, 8, 9]


async def test_a_full_backlog_is_full_by_bytes_too() -> None:
    """Ours: every buffer is bounded, however large its messages are."""
    bounds = BridgeSettings(max_backlog_bytes=3000)
    async with serving(bridge=bounds) as edge, edge.client() as client:
        await client.open()
        await announce(client, count=10, bytes=1000)
        async with client.listen() as stream:
            assert await numbers(stream, 2) == [8, 9]


async def test_a_second_get_takes_over_from_the_first() -> None:
    """Ours: a client comes back long before we notice that its old connection is dead; never two streams."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with client.listen() as old:
            assert await old.next() == COMMENT
            async with client.listen() as new:
                assert await new.next() == COMMENT
                assert await old.next() is None
                await announce(client)
                assert await numbers(new, 1) == [0]


async def test_a_get_that_hangs_up_leaves_what_follows_to_the_next() -> None:
    """2025-11-25, transports: the client may close the stream at any time."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with client.listen() as stream:
            assert await stream.next() == COMMENT
            await announce(client)
            assert await numbers(stream, 1) == [0]
        async with client.listen() as stream:
            await announce(client, count=2)
            assert await numbers(stream, 2) == [0, 1]


async def test_every_message_comes_on_exactly_one_stream() -> None:
    """2025-11-25, transports: MUST NOT broadcast; protocol.md, 6.2: several POSTs and a GET: the GET."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        async with (
            client.listen() as get,
            client.stream(client.tool("wait")) as first,
            client.stream(client.tool("wait")) as second,
        ):
            async with client.stream(client.tool("say", count=5)) as third:
                assert [text_of(message) for message in await third.rest()] == ["said"]
            assert await numbers(get, 5) == [0, 1, 2, 3, 4]
            await client.notify("notifications/test/release")
            for stream in (first, second):
                assert [text_of(message) for message in await stream.rest()] == ["released"]
            await client.delete()
            assert await get.rest() == []


async def test_with_several_calls_and_no_get_the_oldest_call_gets_it() -> None:
    """protocol.md, 6.2: else the oldest open POST stream."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        async with (
            client.stream(client.tool("wait")) as oldest,
            client.stream(client.tool("wait")) as younger,
        ):
            assert await client.ask("say", count=3) == "said"
            assert await numbers(oldest, 3) == [0, 1, 2]
            await client.notify("notifications/test/release")
            assert len(await oldest.rest()) == len(await younger.rest()) == 1


@pytest.mark.parametrize(
    ("method", "related"),
    [
        ("notifications/message", True),
        ("notifications/unknown", True),
        (LIST_CHANGED, False),
        ("notifications/prompts/list_changed", False),
        ("notifications/resources/list_changed", False),
        ("notifications/resources/updated", False),
    ],
)
async def test_beside_one_call_and_a_get_the_kind_of_a_notification_decides(
    method: str, *, related: bool
) -> None:
    """2025-11-25, transports: a POST's stream SHOULD carry what relates to it, the GET's what does not."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with client.listen() as get:
            async with client.stream(client.tool("say", count=1, method=method)) as post:
                answer = await post.rest()
                assert [message.get("method") for message in answer] == [method] * related + [None]
            if not related:
                assert await numbers(get, 1) == [0]


async def test_the_get_stream_ends_when_its_session_does() -> None:
    """2025-11-25, transports: the server may close the stream at any time; there is nothing more to come."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with client.listen() as stream:
            assert (await client.delete()).status_code == 200
            assert await stream.rest() == []


async def test_the_get_stream_ends_when_the_child_does() -> None:
    """Ours: the client shall notice at once that its session is gone."""
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with client.listen() as stream:
            assert "error" in await client.call("die", code=1)
            assert await stream.rest() == []
        async with client.listen() as stream:
            assert stream.status == 404


async def test_a_client_that_does_not_read_its_get_stream_costs_nobody_else_anything() -> None:
    """design.md, 4: a slow client costs its own exchange, never the child's other users."""
    settings = Settings(write_timeout=0.2)
    async with serving(http=settings) as edge, edge.client() as client, edge.client() as slow:
        await client.open()
        slow.session_id = client.session_id
        async with slow.listen():
            # More than all the socket buffers on the way, and than what may wait.
            for _ in range(20):
                await announce(client, count=20, bytes=50_000)
            assert await client.ask("echo", text="hello") == "hello"
            async with client.listen() as stream:
                await announce(client, method="notifications/new")
                while (await stream.message())["method"] != "notifications/new":
                    pass


# Questions.

SAMPLING: Message = {
    "method": "sampling/createMessage",
    "params": {"messages": [], "maxTokens": 1, "x": [1.5]},
}
ROOTS: Message = {"method": "roots/list"}
ELICITATION: Message = {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {}}}
PING: Message = {"method": "ping"}


async def reply(client: McpClient, question: Message, **members: object) -> httpx.Response:
    """Answer a question."""
    return await client.post({"jsonrpc": "2.0", "id": question["id"], **members})


async def test_questions_come_on_the_stream_of_their_call_and_the_answers_reach_the_child() -> None:
    """2025-11-25, transports: requests SHOULD relate to the client's; protocol.md, 6.2, for L → L."""
    asked = [{"id": "q-1", **SAMPLING}, {"id": 7, **ROOTS}, {"id": "7", **ELICITATION}, {"id": 1.5, **PING}]
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with client.listen() as get, client.stream(client.tool("ask", questions=asked)) as stream:
            questions = [await stream.message() for _ in asked]
            for question, original in zip(questions, asked, strict=True):
                assert {**question, "id": original["id"]} == {"jsonrpc": "2.0", **original}
            # Unguessable, so that nobody answers what it was not asked (protocol.md, 3).
            ids = [question["id"] for question in questions]
            assert len(set(ids)) == 4
            assert all(isinstance(identifier, str) and len(identifier) >= 16 for identifier in ids)

            results: list[Message] = [
                {"result": {"role": "assistant", "x": [1.0]}},
                {"result": {"roots": []}},
                {"error": {"code": -1, "message": "declined", "data": {"a": 1}}},
                {"result": {}, "x-member": 1},
            ]
            for question, result in zip(questions, results, strict=True):
                answer = await reply(client, question, **result)
                assert (answer.status_code, answer.content) == (202, b"")
            answers = [json.loads(line) for line in json.loads(text_of(await stream.message()))]
            assert answers == [
                {"jsonrpc": "2.0", "id": original["id"], **result}
                for original, result in zip(asked, results, strict=True)
            ]
            await client.delete()
            assert await get.rest() == []


async def test_answers_may_come_in_any_order_and_each_only_once() -> None:
    """JSON-RPC 2.0, 5: an answer belongs to its id; protocol.md, 3: a second one is 202 and dropped."""
    asked = [{"id": 1, **ROOTS}, {"id": 2, **ROOTS}]
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with client.stream(client.tool("ask", questions=asked)) as stream:
            first, second = [await stream.message() for _ in asked]
            for question in (second, second, first):
                assert (await reply(client, question, result={"to": question["id"]})).status_code == 202
            answers = [json.loads(line) for line in json.loads(text_of(await stream.message()))]
        assert [answer["id"] for answer in answers] == [2, 1]
        assert [answer["result"]["to"] for answer in answers] == [second["id"], first["id"]]


async def test_a_question_comes_on_the_get_stream_when_several_calls_are_open() -> None:
    """protocol.md, 6.2: on a POST's stream only if exactly one is open, else on the GET's."""
    async with serving(http=QUICK) as edge, edge.client() as client:
        await client.open()
        async with (
            client.listen() as get,
            client.stream(client.tool("wait")),
            client.stream(client.tool("ask", questions=[{"id": 1, **ELICITATION}])) as stream,
        ):
            question = await get.message()
            assert question["method"] == "elicitation/create"
            assert (await reply(client, question, result={"action": "accept"})).status_code == 202
            (line,) = json.loads(text_of(await stream.message()))
            assert json.loads(line) == {"jsonrpc": "2.0", "id": 1, "result": {"action": "accept"}}
            await client.notify("notifications/test/release")


async def test_a_question_outside_calls_waits_for_the_get_stream() -> None:
    """Ours: nobody is there to be asked, so it goes to the backlog."""
    lines = [
        '{"jsonrpc":"2.0","id":$ID,"result":{}}',
        '{"jsonrpc":"2.0","id":"q","method":"roots/list"}',
    ]
    async with serving() as edge, edge.client() as client:
        await client.open()
        await client.call("raw", lines=lines)
        async with client.listen() as get:
            question = await get.message()
            assert question["method"] == "roots/list"
            await reply(client, question, result={"roots": []})
        seen = json.loads(await client.ask("seen"))
        assert '{"jsonrpc":"2.0","id":"q","result":{"roots": []}}' in seen


async def test_a_ping_when_no_client_is_there_is_answered_by_the_broker() -> None:
    """2025-11-25, ping: the receiver MUST respond promptly; the client may be between two requests."""
    lines = ['{"jsonrpc":"2.0","id":$ID,"result":{}}', '{"jsonrpc":"2.0","id":"p","method":"ping"}']
    async with serving() as edge, edge.client() as client:
        await client.open()
        await client.call("raw", lines=lines)
        seen: list[str] = []
        while '{"jsonrpc":"2.0","id":"p","result":{}}' not in seen:
            seen = json.loads(await client.ask("seen"))


async def test_a_question_that_the_child_takes_back_is_taken_back_under_its_new_id() -> None:
    """2025-11-25, cancellation: either side may cancel; protocol.md, 3: ids are translated both ways."""
    lines = [
        '{"jsonrpc":"2.0","id":"q","method":"roots/list"}',
        '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"q","reason":"é"}}',
        '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"unknown"}}',
        '{"jsonrpc":"2.0","id":$ID,"result":{}}',
    ]
    async with serving() as edge, edge.client() as client:
        await client.open()
        async with client.stream(client.tool("raw", lines=lines)) as stream:
            question, cancelled, answer = await stream.rest()
        assert cancelled["params"] == {"requestId": question["id"], "reason": "é"}
        assert answer["result"] == {}


async def test_one_question_too_many_is_refused_to_the_child() -> None:
    """Ours: a bounded table of questions (style guide, "Data")."""
    asked = [{"id": number, **ROOTS} for number in range(3)]
    async with serving(bridge=BridgeSettings(max_questions=2)) as edge, edge.client() as client:
        await client.open()
        async with client.stream(client.tool("ask", questions=asked)) as stream:
            for question in [await stream.message() for _ in range(2)]:
                await reply(client, question, result={})
            answers = [json.loads(line) for line in json.loads(text_of(await stream.message()))]
        assert sorted((answer["id"], "error" in answer) for answer in answers) == [
            (0, False),
            (1, False),
            (2, True),
        ]


async def test_a_session_cannot_answer_the_question_of_another() -> None:
    """Ours: two sessions never see each other, even if one learns an id of the other."""
    async with serving() as edge, edge.client() as client, edge.client() as stranger:
        await client.open()
        await stranger.open()
        asking = client.tool("ask", questions=[{"id": 1, **ROOTS}])
        async with client.stream(asking) as stream:
            question = await stream.message()
            # A broken guard would let the first answer win, and the second one be dropped.
            assert (await reply(stranger, question, result={"of": "a stranger"})).status_code == 202
            assert (await reply(client, question, result={"of": "mine"})).status_code == 202
            assert "mine" in text_of(await stream.message())
        assert "a stranger" not in await stranger.ask("seen")


async def test_two_sessions_never_see_each_other() -> None:
    """design.md, 6.3: ids, notifications and children of one session stay in it."""
    async with serving(http=QUICK) as edge, edge.client() as one, edge.client() as other:
        await one.open()
        await other.open()
        assert one.session_id != other.session_id
        assert await one.ask("pid") != await other.ask("pid")
        same = one.tool("wait")
        async with (
            one.listen() as get,
            other.listen() as other_get,
            one.stream(same) as stream,
            other.stream(same) as other_stream,
        ):
            await announce_beside(one, 2)
            assert await numbers(get, 2) == [0, 1]
            await one.notify("notifications/test/release")
            assert [text_of(message) for message in await stream.rest()] == ["released"]
            await one.delete()
            assert await get.rest() == []
            # Nothing of all this has reached the other one.
            await announce_beside(other, 1)
            assert await numbers(other_get, 1) == [0]
            await other.notify("notifications/test/release")
            assert [text_of(message) for message in await other_stream.rest()] == ["released"]
        await wait_until(lambda: edge.children == 1)


async def announce_beside(client: McpClient, count: int) -> None:
    """Make the child announce something while another call of this client is open."""
    assert await client.ask("say", count=count, method=LIST_CHANGED) == "said"


async def test_a_child_that_does_not_read_holds_up_its_own_session_only() -> None:
    """design.md, 4: back-pressure is one chain per child."""
    async with serving() as edge, edge.client() as stuck, edge.client() as other:
        await stuck.open()
        await other.open()
        assert await stuck.ask("stop_reading", seconds=0.5) == "not reading"
        # Above the pipe and the high-water mark: the last ones wait for the child.
        text = "x" * 1_000_000
        async with asyncio.TaskGroup() as tasks:
            answers = [tasks.create_task(stuck.ask("echo", text=text)) for _ in range(4)]
            assert await other.ask("echo", text="hello") == "hello"
            assert not any(answer.done() for answer in answers)
        assert [answer.result() == text for answer in answers] == [True] * 4
