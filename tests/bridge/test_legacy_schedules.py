"""Any order of calls, questions, answers, repetitions, cancellations and ends: nothing is mixed up or lost.

The schedules are made by chance from a number, which a failure tells: `STDIO_BROKER_SCHEDULE=number` runs
that one alone. `STDIO_BROKER_SCHEDULES` says how many there are; issue 4 asks for 10,000.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from random import Random

import pytest

from stdio_broker.bridge import SharedExchange
from stdio_broker.errors import BridgeBroken, ChildGone, LimitReached, LocalProtocolError
from stdio_broker.protocol.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS
from stdio_broker.protocol.modern import MISSING_CAPABILITY, ModernRequest
from tests.bridge.legacy_model import MAY_ASK, Server
from tests.bridge.legacy_rig import (
    EVERYTHING,
    Json,
    Rig,
    answer_to,
    in_virtual_time,
    initialized_by_test,
    messages_on,
    modern_request,
)

SCHEDULES = int(os.environ.get("STDIO_BROKER_SCHEDULES", "400"))
ONE = os.environ.get("STDIO_BROKER_SCHEDULE")
STEPS = 40
LEVELS = ("debug", "info", "error")
PARK_TIMEOUT = 100.0
#: Seconds after which a call that asks is surely parked.
WINDOW = 0.02
PATIENCE = 5.0
#: Seconds: none, part of the window for questions, more than it, than the patience, than the timeout.
PAUSES = (0.0, 0.0, 0.004, 0.02, 0.02, 0.02, 6.0, 60.0, 101.0)


@dataclass(frozen=True)
class Plan:
    """What may happen in a schedule.

    Attributes:
        exact: The child takes turns from the start, reads, asks only for what it works on and takes nothing
            back, and nobody loses patience: then each question is certain.
        one_at_a_time: The child works on one call after the other.
        max_parked: Bound.
        max_calls: Bound.
    """

    exact: bool = False
    one_at_a_time: bool = False
    max_parked: int = 64
    max_calls: int = 256

    @classmethod
    def by(cls, chance: Random) -> Plan:
        kind = chance.random()
        return cls(
            exact=kind < 0.25,
            one_at_a_time=kind > 0.8,
            max_parked=chance.choice([1, 3, 64, 64]),
            max_calls=chance.choice([4, 256, 256]),
        )


@dataclass
class Asked:
    """What a client was asked, and the state that it is to bring back."""

    state: str
    questions: dict[str, Json]
    expires: float


@dataclass
class Call:
    """One call of a client, with its repetitions.

    Attributes:
        tag: What tells it from every other one.
        answer: How it ended: the last message, or the exception.
    """

    tag: str
    method: str
    capabilities: Json
    level: str | None
    token: int | None
    request: ModernRequest = field(init=False)
    sending: asyncio.Task[SharedExchange] | None = None
    exchange: SharedExchange | None = None
    asked: Asked | None = None
    stale: list[str] = field(default_factory=list)
    answer: Json | Exception | None = None
    gone: bool = False

    @property
    def done(self) -> bool:
        return self.gone or self.answer is not None

    def params(self) -> Json:
        return {MAY_ASK.get(self.method, "cursor"): self.tag}


class Schedule:
    """One child, its clients, and what chance lets them do."""

    def __init__(self, rig: Rig, server: Server, plan: Plan, chance: Random) -> None:
        self.rig = rig
        self.server = server
        self.plan = plan
        self.chance = chance
        self.calls: list[Call] = []
        self.ended_exchanges: list[SharedExchange] = []
        self.loop = asyncio.get_running_loop()
        self.asked_at = -1.0

    async def run(self, steps: int) -> None:
        """Let anything happen, then let it come to its end."""
        await self.happen(steps, [*self.by_clients(), *self.by_child()])
        if self.chance.random() < 0.1:
            self.server.end()
        await self.see_through()

    async def happen(self, steps: int, actions: list[Callable[[], None]]) -> None:
        for _ in range(steps):
            self.chance.choice(actions)()
            await self.pause(self.chance.choice(PAUSES))

    def by_clients(self) -> list[Callable[[], None]]:
        return [self.begin] * 4 + [self.repeat] * 6 + [self.repeat_badly] * 2 + [self.leave]

    def by_child(self) -> list[Callable[[], None]]:
        often = [self.ask] * 6 + [self.child_answers] * 5
        rarely = [self.ask_more, self.withdraw, self.tell, self.late_answer, self.server.ping]
        return [*often, *rarely, self.stop_reading, self.read]

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        for _ in range(3):
            await asyncio.sleep(0)
        for call in self.calls:
            await self.look_at(call)

    # What clients do.

    def begin(self) -> None:
        """Call something new."""
        chance = self.chance
        call = Call(
            tag=f"t{len(self.calls)}.",
            method=chance.choice([*MAY_ASK, *MAY_ASK, "tools/list"]),
            capabilities=EVERYTHING if self.plan.exact or chance.random() < 0.9 else {"roots": {}},
            level=chance.choice([None, None, "info", "error"]),
            token=chance.choice([None, len(self.calls)]),
        )
        self.calls.append(call)
        call.request = modern_request(
            call.method, call.params(), capabilities=call.capabilities, level=call.level, token=call.token
        )
        call.sending = asyncio.create_task(self.rig.shared.call(call.request))

    def repeat(self) -> None:
        """Bring some answers, or all."""
        asked = [call for call in self.calls if call.asked is not None and not call.done]
        if asked:
            self.bring(self.chance.choice(asked), all_of_them=self.chance.random() < 0.7)

    def bring(self, call: Call, *, all_of_them: bool) -> None:
        asked, call.asked = call.asked, None
        assert asked is not None
        answers = {key: answer_to(question) for key, question in asked.questions.items()}
        if not all_of_them:
            answers = {key: value for key, value in answers.items() if self.chance.random() < 0.5}
        answers["nobody asked"] = {"x": 1}
        # A repetition is a request of its own, with a token of its own, or without one.
        call.token = self.chance.choice([None, 1000 + len(call.stale)])
        call.request = self.repetition(call, asked.state, answers)
        call.stale.append(asked.state)
        if asked.expires <= self.loop.time():
            call.answer = LocalProtocolError("expected", code=INVALID_PARAMS)
            self.expect_refusal(call.request)
            return
        call.sending = asyncio.create_task(self.rig.shared.call(call.request))

    def repetition(self, call: Call, state: str, answers: Json, **params: object) -> ModernRequest:
        return modern_request(
            call.method,
            {**call.params(), "requestState": state, "inputResponses": answers, **params},
            capabilities=call.capabilities,
            level=call.level,
            token=call.token,
        )

    def repeat_badly(self) -> None:
        """Bring a state again, or with other arguments, or answers that are none."""
        call = self.chance.choice(self.calls) if self.calls else None
        if call is None:
            return
        if call.stale and self.chance.random() < 0.5:
            self.expect_refusal(self.repetition(call, self.chance.choice(call.stale), {}))
        elif call.asked is not None:
            key = next(iter(call.asked.questions), "any")
            name = MAY_ASK[call.method]
            self.expect_refusal(self.repetition(call, call.asked.state, {}, **{name: "other"}))
            self.expect_refusal(self.repetition(call, call.asked.state, {key: {"action": "maybe"}}))
            self.expect_refusal(self.repetition(call, call.asked.state + "A", {}))

    def expect_refusal(self, request: ModernRequest) -> None:
        """Send a request that must not change anything."""
        call = self.rig.shared.call(request)
        with pytest.raises(LocalProtocolError) as caught:
            call.send(None)
        assert caught.value.code == INVALID_PARAMS

    def leave(self) -> None:
        """Close the connection of a call that is not answered. Its child may ask, and not know that yet."""
        waiting = [call for call in self.calls if call.sending or call.exchange]
        if waiting:
            call = self.chance.choice(waiting)
            self.hang_up(call)
            works = [work for work in self.server.executing(asking=True) if work.tag == call.tag]
            if works and self.chance.random() < 0.5:
                self.server.ask(works[0], 1)

    def hang_up(self, call: Call) -> None:
        call.gone = True
        if call.sending is not None:
            call.sending.cancel()
        if call.exchange is not None:
            call.exchange.release()
            call.exchange = None

    # What the child does.

    def ask(self) -> None:
        """Ask for something that is worked on."""
        works = self.server.executing(asking=True)
        if works:
            self.asked_at = self.loop.time()
            self.server.ask(self.chance.choice(works), self.chance.choice([1, 1, 2, 3]))

    def ask_more(self) -> None:
        """Ask for something that waits for answers already: no other work can be meant."""
        works = [work for work in self.server.open_works() if work.may_ask]
        alone = len(works) == 1 or self.loop.time() > self.asked_at + WINDOW
        if works and all(work.waits_for for work in works) and alone and not self.plan.exact:
            self.server.ask(self.chance.choice(works), 1)

    def child_answers(self) -> None:
        """Answer something that is worked on, or has waited too long for answers."""
        works = self.server.open_works() if self.chance.random() < 0.2 else self.server.executing()
        if works:
            self.server.answer(self.chance.choice(works))

    def late_answer(self) -> None:
        """Answer something that was cancelled: nobody gets it."""
        works = [work for work in self.server.works.values() if work.cancelled and not work.answered]
        if works:
            self.server.answer(self.chance.choice(works))

    def withdraw(self) -> None:
        questions = self.server.open_questions()
        if questions and not self.plan.exact:
            self.server.withdraw(self.chance.choice(questions))

    def tell(self) -> None:
        for work in self.server.executing():
            self.server.progress(work)
            self.server.log(work)

    def stop_reading(self) -> None:
        if not self.plan.exact:
            self.server.child.stdin.fill()

    def read(self) -> None:
        self.server.child.stdin.drain()

    # What must hold.

    async def look_at(self, call: Call) -> None:
        """Check everything that has come for a call."""
        if call.sending is not None and call.sending.done():
            sending, call.sending = call.sending, None
            if sending.cancelled():
                assert call.gone
            elif (failure := sending.exception()) is not None:
                self.check_failure(call, failure)
            elif call.gone:
                sending.result().release()
            else:
                call.exchange = sending.result()
        if call.exchange is None:
            return
        for message in await messages_on(call.exchange):
            assert call.exchange is not None, "something came after the answer"
            if "method" in message:
                self.check_notification(call, message)
            else:
                assert call.exchange.complete
                self.ended_exchanges.append(call.exchange)
                call.exchange.release()
                call.exchange = None
                self.check_answer(call, message)

    def check_failure(self, call: Call, failure: BaseException) -> None:
        if isinstance(failure, LimitReached):
            assert self.plan.max_calls < 256
            assert not call.stale, "a call that is open already was refused"
        else:
            # The state of a child that has ended is no good any more.
            assert isinstance(failure, BridgeBroken | ChildGone | LocalProtocolError), failure
            assert self.server.ended
        call.answer = failure

    def check_notification(self, call: Call, message: Json) -> None:
        params = message["params"]
        if message["method"] == "notifications/progress":
            assert params["message"] == call.tag
            assert params["progressToken"] == call.token
        else:
            assert params["data"] == call.tag
            assert call.level is not None
            assert LEVELS.index(params["level"]) >= LEVELS.index(call.level)

    def check_answer(self, call: Call, message: Json) -> None:
        assert str(message["id"]).encode() == call.request.id
        result = message.get("result")
        if result is None:
            self.check_error(call, message["error"])
            call.answer = message
        elif result["resultType"] == "input_required":
            self.check_questions(call, result)
        else:
            assert result["x-answer"] == call.tag, "the answer of another call"
            call.answer = message

    def check_error(self, call: Call, error: Json) -> None:
        if error["code"] == -32000:
            assert error["message"] == call.tag
        elif error["code"] == MISSING_CAPABILITY:
            assert call.capabilities != EVERYTHING
        else:
            assert error["code"] == INTERNAL_ERROR
            if error["data"]["reason"] == "too many parked calls":
                assert self.plan.max_parked < 64
            else:
                assert self.server.ended
                # The second where the call's turn came before the end was noticed.
                assert error["data"] in (
                    {"reason": "server process ended", "retryable": True, "exitCode": 3},
                    {"reason": "server is gone"},
                )

    def check_questions(self, call: Call, result: Json) -> None:
        questions: dict[str, Json] = result["inputRequests"]
        assert call.method in MAY_ASK
        for question in questions.values():
            if question["method"] != "roots/list":
                assert f"<{call.tag}/" in json.dumps(question), "the question of another call"
            assert call.capabilities == EVERYTHING or question["method"] == "roots/list"
        claims = self.rig.owner.seal.open(
            result["requestState"], owner=self.rig.owner.binding, request=call.request, now=-1.0
        )
        call.asked = Asked(result["requestState"], questions, claims.expires)

    async def see_through(self) -> None:
        """Let everything come to its end: what is asked is answered, or nobody is there any more."""
        self.server.child.stdin.drain()
        leave = self.chance.random() < 0.2
        for _ in range(200):
            self.bring_on(leave=leave)
            await self.pause(self.chance.choice([0.02, 0.02, PATIENCE + 1]))
            if all(call.done for call in self.calls):
                break
        assert all(call.done for call in self.calls), "a call was never answered"
        await self.pause(PARK_TIMEOUT + 1)
        self.check_ends()

    def bring_on(self, *, leave: bool) -> None:
        for work in [] if self.server.ended else self.server.executing():
            self.server.answer(work)
        for call in self.calls:
            if leave:
                self.hang_up(call)
            elif call.asked is not None:
                self.bring(call, all_of_them=True)

    def check_ends(self) -> None:
        """Nothing is left, here or at the child."""
        assert self.rig.is_empty()
        assert not len(self.rig.shared.turns)
        assert self.rig.idle
        assert all(exchange.complete for exchange in self.ended_exchanges), "something came after the answer"
        if not self.server.ended:
            assert not self.server.open_works(), "the child works for nobody"
            assert not self.server.open_questions(), "the child waits for an answer for ever"
        if self.plan.exact:
            assert self.rig.shared.ambiguous_questions == 0


@contextlib.asynccontextmanager
async def scheduled(number: int, plan: Plan | None = None) -> AsyncIterator[Schedule]:
    """Make a schedule from its number."""
    chance = Random(number)  # noqa: S311 - it only has to be the same every time
    plan = plan or Plan.by(chance)
    server = Server(chance, one_at_a_time=plan.one_at_a_time)
    async with initialized_by_test(
        child=server.child,
        takes_turns=plan.exact or chance.random() < 0.5,
        max_parked=plan.max_parked,
        max_calls=plan.max_calls,
        park_timeout=PARK_TIMEOUT,
        turn_patience=1e9 if plan.exact else PATIENCE,
    ) as rig:
        assert await rig.shared.initialize("broker", "9") is None
        yield Schedule(rig, server, plan, chance)


def numbers(share: int) -> Iterator[int]:
    """Return the numbers of a share of the schedules, or the one that is asked for."""
    return iter(range(max(1, SCHEDULES // share)) if ONE is None else [int(ONE)])


async def run_schedules(share: int, run: Callable[[int], Coroutine[object, object, None]]) -> None:
    for number in numbers(share):
        try:
            await run(number)
        except BaseException as exc:
            exc.add_note(f"STDIO_BROKER_SCHEDULE={number}")
            raise


@pytest.mark.timeout(900)
@in_virtual_time
async def test_no_schedule_mixes_anything_up_or_loses_it() -> None:
    """Issue 4, "Done when" 3; MCP 2026-07-28, basic/patterns/mrtr."""

    async def run(number: int) -> None:
        async with scheduled(number) as schedule:
            await schedule.run(STEPS)

    await run_schedules(1, run)


@pytest.mark.timeout(900)
@in_virtual_time
async def test_thirty_two_calls_in_flight_get_their_own_answers_or_expire() -> None:
    """Issue 4, "Done when" 3: some ask, are resumed in any order, or expire."""

    async def run(number: int) -> None:
        plan = Plan(max_parked=32)
        async with scheduled(number, plan) as schedule:
            for _ in range(32):
                schedule.begin()
            await schedule.pause(0.02)
            asking = [schedule.ask] * 3 + [schedule.repeat] * 3 + [schedule.child_answers]
            await schedule.happen(3 * STEPS, asking)
            await schedule.see_through()

    await run_schedules(20, run)
