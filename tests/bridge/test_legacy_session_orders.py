"""A legacy client's session over a modern child, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stdio_broker.bridge import (
    Exchange,
)
from tests.bridge.session_rig import (
    FORM,
    Rig,
    cancelled,
    request,
    session,
    settle,
    waiting,
)
from tests.support.clock import run_in_virtual_time
from tests.support.fake_servers import (
    Message,
    answer_line,
)

# Whatever happens, in whatever order.

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["call", "ask", "answer", "reply", "refuse", "cancel", "leave", "poll", "crash"]),
        st.integers(0, 5),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(events=EVENTS, runs=st.booleans())
def test_every_answer_comes_once_and_with_its_own_request(
    *, events: list[tuple[str, int]], runs: bool
) -> None:
    """Ours: whatever the order of calls, questions, answers, cancellations, disconnects and crashes."""
    run_in_virtual_time(_play(events, runs=runs))


async def _play(events: list[tuple[str, int]], *, runs: bool) -> None:
    async with session(max_stream_bytes=10_000_000, runs=runs) as rig:
        play = _Play(rig)
        for event, index in events:
            await getattr(play, event)(index)
            await play.look()
        await play.end()
        assert rig.session.statistics().calls == rig.session.statistics().questions == 0
        play.check()


class _Play:
    """One session, with a child and a client that do what they are told."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.exchanges: list[Exchange] = []
        self.taken: list[list[Message]] = []
        self.left: set[int] = set()
        self.questions: dict[str, Message] = {}
        self.get = rig.session.listen()
        self.heard: list[Message] = []
        self.answered: set[tuple[int, int]] = set()

    async def call(self, index: int) -> None:
        # Ids come again, as with careless clients.
        params = {"arguments": {"number": len(self.exchanges)}}
        self.exchanges.append(await self.rig.session.call(request("tools/call", params, index)))
        self.taken.append([])

    async def ask(self, index: int) -> None:
        await self._answer(index, inputRequests=FORM)

    async def poll(self, index: int) -> None:
        await self._answer(index, requestState="")

    async def answer(self, index: int) -> None:
        await self._answer(index)

    async def reply(self, index: int, **error: object) -> None:
        if self.questions:
            question = list(self.questions.values())[index % len(self.questions)]
            await self.rig.reply(question, {"action": "accept"}, **error)

    async def refuse(self, index: int) -> None:
        await self.reply(index, code=1, message="no")

    async def cancel(self, index: int) -> None:
        await self.rig.session.notify(cancelled(index))

    async def leave(self, index: int) -> None:
        if self.exchanges:
            number = index % len(self.exchanges)
            if number not in self.left:
                self.left.add(number)
                self.rig.session.release(self.exchanges[number])

    async def crash(self, _index: int) -> None:
        if self.rig.servers.children:
            self.heard += self.rig.heard()
            await self.rig.crash()

    async def look(self) -> None:
        """Let everybody go on, and take what has come."""
        await settle(0.3)
        told = await waiting(self.get)
        for number, exchange in enumerate(self.exchanges):
            if number not in self.left:
                self.taken[number] += await waiting(exchange)
                told += self.taken[number]
        self.questions |= {one["id"]: one for one in told if one.get("method") == FORM["method"]}

    def _open(self) -> list[Message]:
        """Return what the child has not answered, and was not told to forget."""
        if not self.rig.servers.children or self.rig.modern.ending is not None:
            return []
        cancelled = {one["params"]["requestId"] for one in self.rig.heard("notifications/cancelled")}
        done = {request for child, request in self.answered if child == id(self.rig.child)} | cancelled
        return [one for one in self.rig.heard() if one["id"] not in done]

    async def _answer(self, index: int, **required: object) -> None:
        if one := self._open():
            request = one[index % len(one)]
            number = str(request["params"]["arguments"]["number"])
            result: Message = {"resultType": "complete", "content": [], "number": number}
            if required:
                result = {"resultType": "input_required", "requestState": number}
            if "inputRequests" in required:
                result["inputRequests"] = {number: FORM}
            self.answered.add((id(self.rig.child), request["id"]))
            await self.rig.child.says(answer_line(request["id"], result))

    async def end(self) -> None:
        """Answer all that is open, on both sides, until nothing is."""
        for _ in range(3):
            for index in range(len(self.questions)):
                await self.reply(index)
            await self.look()
            while self._open():
                await self._answer(0)
            await self.look()
        self.heard += self.rig.heard() if self.rig.servers.children else []

    def check(self) -> None:
        """Every call has its own answer, once; and every retry the state and the answers of its own call."""
        for number, exchange in enumerate(self.exchanges):
            assert exchange.answered
            answers = [one for one in self.taken[number] if "method" not in one]
            assert len(answers) == 1 or (number in self.left and not answers)
            for answer in answers:
                assert answer.get("result", {}).get("number", str(number)) == str(number)
        for one in self.heard:
            number_ = str(one["params"]["arguments"]["number"])
            assert one["params"].get("requestState", number_) == number_
            assert one["params"].get("inputResponses", {}).keys() <= {number_}
