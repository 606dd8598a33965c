"""What a modern child asks in its results, put to a legacy client."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from stdio_broker.bridge import (
    LegacyClient,
)
from tests.bridge.session_rig import (
    FORM,
    ROOTS,
    SAMPLE,
    URL,
    answer_on,
    client,
    session,
    settle,
    virtual,
    waiting,
)
from tests.support.fake_servers import (
    Message,
)

# Questions.


@virtual
async def test_questions_are_put_all_at_once_on_the_stream_of_the_call_and_answered_in_any_order() -> None:
    """protocol.md, 5: never on the GET stream while the POST is open; state to the byte."""
    async with session() as rig:
        get = rig.session.listen()
        exchange = await rig.call(name="t", arguments={"a": 1.50})
        state = 'é "\\ \u2028 7'
        await rig.asks(state, a=FORM, b=ROOTS, c=SAMPLE)
        asked = await waiting(exchange)
        assert [{key: one.get(key) for key in ("method", "params")} for one in asked] == [
            FORM,
            {**ROOTS, "params": None},
            SAMPLE,
        ]
        assert rig.session.statistics().questions == 3
        results: list[Message] = [{"action": "accept", "content": {"x": 1}}, {"roots": []}, {"model": "m"}]
        for index in (2, 0, 1):
            assert len(rig.heard()) == 1
            await rig.reply(asked[index], results[index])
        first, retry = rig.heard()
        assert retry["id"] != first["id"]
        assert retry["params"] == {
            **first["params"],
            "inputResponses": dict(zip("abc", results, strict=True)),
            "requestState": state,
        }
        await rig.answers({"content": []})
        assert (await answer_on(exchange))["result"] == {"content": []}
        assert await waiting(get) == []


@virtual
async def test_the_state_goes_back_to_the_letter_as_it_came() -> None:
    r"""protocol.md, 5: byte-exact; `\u00e9` is not rewritten."""
    async with session() as rig:
        await rig.call()
        raw = rb'"\u00e9\/ \ud83d\ude00"'
        line = b'{"jsonrpc":"2.0","id":%d,"result":{"resultType":"input_required","requestState":%b}}'
        await rig.child.says(line % (rig.heard()[0]["id"], raw))
        await settle(1)
        assert b'"requestState":' + raw in rig.child.stdin.lines[-1]


@virtual
async def test_a_page_to_visit_gets_an_id_of_its_own() -> None:
    """MCP 2025-11-25, schema, ElicitRequestURLParams: elicitationId is required."""
    async with session() as rig:
        exchange = await rig.call()
        await rig.asks(a=URL, b=URL)
        ids = {one["params"]["elicitationId"] for one in await waiting(exchange)}
        assert len(ids) == 2


@pytest.mark.parametrize(
    ("who", "question", "words"),
    [
        (client(capabilities={}), FORM, "does not declare elicitation.form"),
        (client(capabilities={"elicitation": {}}), URL, "does not declare elicitation.url"),
        (client("2025-06-18"), URL, "elicitation.url"),
        (client("2025-03-26"), FORM, "elicitation.form"),
        (client(capabilities={}), ROOTS, "does not declare roots"),
        (client(capabilities={}), SAMPLE, "does not declare sampling"),
    ],
)
@virtual
async def test_what_a_client_cannot_be_asked_is_an_error_that_says_so(
    who: LegacyClient, question: Message, words: str
) -> None:
    """protocol.md, 5: capability-gated; nobody is asked, not even what could be."""
    async with session(who) as rig:
        exchange = await rig.call()
        await rig.asks(a=question, b=ROOTS)
        (answer,) = await waiting(exchange)
        assert words in answer["error"]["message"]
        assert answer["error"]["data"] == {"reason": "client cannot be asked", "retryable": False}
        assert len(rig.heard()) == 1


@pytest.mark.parametrize(
    "result",
    [
        {"resultType": "input_required"},
        {"resultType": "input_required", "inputRequests": {"a": {"method": "x"}}},
    ],
)
@virtual
async def test_a_question_that_makes_no_sense_is_an_error_in_words(result: Message) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr."""
    async with session() as rig:
        exchange = await rig.call()
        await rig.answers(result)
        assert "asks for input with" in (await answer_on(exchange))["error"]["message"]


@pytest.mark.parametrize("error", [{"code": -1, "message": "I won't"}, {"code": -1}])
@virtual
async def test_an_error_of_the_client_ends_its_call_at_once_and_withdraws_the_other_questions(
    error: Message,
) -> None:
    """protocol.md, 5: there is no "refuse" in MRTR; nothing further goes to the child."""
    async with session() as rig:
        exchange = await rig.call()
        await rig.asks(a=FORM, b=ROOTS)
        asked = await waiting(exchange)
        await rig.reply(asked[1], **error)
        withdrawn, answer = await waiting(exchange)
        assert withdrawn["method"] == "notifications/cancelled"
        assert withdrawn["params"]["requestId"] == asked[0]["id"]
        assert error.get("message", "without a message") in answer["error"]["message"]
        assert len(rig.heard()) == 1
        await rig.reply(asked[0])
        assert rig.session.statistics().questions == 0


@virtual
async def test_decline_and_cancel_are_answers_like_any_other() -> None:
    """protocol.md, 5."""
    async with session() as rig:
        exchange = await rig.call()
        await rig.asks(a=FORM, b=FORM)
        for question, action in zip(await waiting(exchange), ("decline", "cancel"), strict=True):
            await rig.reply(question, {"action": action})
        assert rig.heard()[-1]["params"]["inputResponses"] == {
            "a": {"action": "decline"},
            "b": {"action": "cancel"},
        }


@virtual
async def test_an_answer_counts_once_and_an_answer_to_nothing_not_at_all() -> None:
    """protocol.md, 3."""
    async with session() as rig:
        exchange = await rig.call()
        await rig.asks(a=FORM, b=FORM)
        one, two = await waiting(exchange)
        await rig.reply({"id": "made up"})
        await rig.reply(one, {"action": "accept"})
        await rig.reply(one, {"action": "decline"})
        await rig.reply(two, {"action": "cancel"})
        assert rig.heard()[-1]["params"]["inputResponses"] == {
            "a": {"action": "accept"},
            "b": {"action": "cancel"},
        }


@virtual
async def test_a_client_that_never_answers_ends_its_call_only() -> None:
    """Ours: bounded by `park_timeout`."""
    async with session(park_timeout=60) as rig:
        exchange = await rig.call()
        await rig.asks(a=FORM)
        (asked,) = await waiting(exchange)
        await settle(59)
        assert not exchange.answered
        await settle(2)
        withdrawn, answer = await waiting(exchange)
        assert withdrawn["params"]["requestId"] == asked["id"]
        assert answer["error"]["data"]["reason"] == "client did not answer"


@virtual
async def test_a_server_that_asks_for_ever_is_cut_off_before_the_client_is_asked_once_more() -> None:
    """protocol.md, 5: a cap on rounds."""
    async with session(max_rounds=3) as rig:
        exchange = await rig.call()
        for _ in range(3):
            await rig.asks(a=FORM)
            (question,) = await waiting(exchange)
            await rig.reply(question)
        await rig.asks(a=FORM)
        (answer,) = await waiting(exchange)
        assert answer["error"]["data"]["reason"] == "too many rounds"
        assert len(rig.heard()) == 4


@virtual
async def test_a_server_without_a_question_is_asked_again_after_a_pause_but_not_for_ever() -> None:
    """protocol.md, 5: a state-only result backs off, 50 to 250 ms."""
    async with session(park_timeout=10) as rig:
        times: list[float] = []

        async def ask_to_be_asked() -> None:
            while True:
                if json.loads(await rig.child.hears())["method"] == "tools/call":
                    times.append(asyncio.get_running_loop().time())
                    await rig.asks(f"s{len(times)}")

        exchange = await rig.call()
        asking = asyncio.create_task(ask_to_be_asked())
        answer = await answer_on(exchange)
        asking.cancel()
        pauses = [round(after - before, 2) for before, after in itertools.pairwise(times)]
        assert pauses[:4] == [0.05, 0.1, 0.2, 0.25]
        assert max(pauses) == 0.25
        assert times[-1] == pytest.approx(10, abs=1)
        assert answer["error"]["data"]["reason"] == "too many rounds"
        assert rig.heard()[1]["params"]["requestState"] == "s1"
        assert "inputResponses" not in rig.heard()[1]["params"]


@virtual
async def test_questions_of_one_session_are_bounded() -> None:
    """Ours: `max_questions`."""
    async with session(max_questions=2) as rig:
        first = await rig.call(request_id=1)
        await rig.asks(a=FORM, b=FORM)
        second = await rig.call(request_id=2)
        await rig.asks(a=FORM)
        assert (await answer_on(second))["error"]["data"]["reason"] == "too many questions"
        assert len(await waiting(first)) == 2


@virtual
async def test_a_question_after_the_stream_was_lost_finds_the_client_and_the_answer_its_call() -> None:
    """MCP 2025-11-25, basic/transports: a disconnect is no cancel."""
    async with session() as rig:
        exchange = await rig.call()
        rig.session.release(exchange)
        assert not rig.session.busy
        await rig.asks(a=FORM)
        (question,) = await waiting(rig.session.listen())
        await rig.reply(question, {"action": "accept"})
        assert len(rig.heard()) == 2
        assert rig.heard("notifications/cancelled") == []
        await rig.answers({})
        await settle()
        assert rig.session.statistics().calls == 0


@virtual
async def test_a_question_that_no_stream_could_take_is_refused() -> None:
    """Ours: a backlog is bounded, and its child must not wait for ever."""
    async with session(max_backlog_messages=1) as rig:
        for number in (1, 2):
            exchange = await rig.call(request_id=number)
            rig.session.release(exchange)
            await rig.asks(a=FORM)
        await settle()
        assert rig.session.statistics().calls == rig.session.statistics().questions == 1
        # Changes that get lost are no question.
        await rig.tell("notifications/initialized")
        await rig.changes()
        await rig.changes()
        assert rig.session.statistics().questions == 0
