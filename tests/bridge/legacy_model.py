"""A legacy server that does what chance says, and remembers what it may expect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from stdio_broker.supervisor import ExitStatus
from stdio_broker.testing import FakeChild
from tests.bridge.legacy_rig import SERVER, Json, message_bytes, question_of

__all__ = ["MAY_ASK", "Question", "Server", "Work"]

METHODS = [*["elicitation/create", "sampling/createMessage"] * 4, "roots/list"]
MAY_ASK = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


@dataclass
class Question:
    """A question of the server.

    Attributes:
        text: What it asks; it names the call that it is about.
        replies: How many answers have come.
        withdrawn: Whether the server has taken it back.
    """

    id: str
    text: str
    method: str
    replies: int = 0
    withdrawn: bool = False


@dataclass
class Work:
    """A call, as the server sees it.

    Attributes:
        id: The id that the server knows it by.
        tag: What tells it from every other one.
        token: Its progress token, if it has one.
        waits_for: The questions that must be answered before it goes on.
        answered: Whether the server has answered it.
        cancelled: Whether the server was told to give it up.
    """

    id: int
    tag: str
    may_ask: bool
    token: object
    waits_for: set[str] = field(default_factory=set)
    answered: bool = False
    cancelled: bool = False

    @property
    def open(self) -> bool:
        return not (self.answered or self.cancelled)


class Server:
    """What a legacy server remembers. It fails the test when it is told what it must not be told.

    Args:
        chance: What it does is up to.
        one_at_a_time: It works on one call until that is answered, though it reads on.
    """

    def __init__(self, chance: Random, *, one_at_a_time: bool) -> None:
        self.child = FakeChild(answer=self._hear)
        self.works: dict[int, Work] = {}
        self.questions: dict[str, Question] = {}
        self.ended = False
        self._chance = chance
        self._one_at_a_time = one_at_a_time

    # What it is told.

    def _hear(self, line: bytes) -> Iterator[bytes]:
        message: Json = json.loads(line)
        method = message.get("method")
        if method == "initialize":
            yield message_bytes(id=message["id"], result=SERVER)
        elif method == "notifications/cancelled":
            self._cancel(self.works[message["params"]["requestId"]])
        elif method in {"logging/setLevel", "ping"}:
            yield message_bytes(id=message["id"], result={})
        elif method is None:
            self._take(message)
        elif "id" in message:
            self._begin(message, method)

    def _begin(self, message: Json, method: str) -> None:
        assert message["id"] not in self.works, "a call was sent twice"
        params = message["params"]
        tag = params[MAY_ASK.get(method, "cursor")]
        token = params.get("_meta", {}).get("progressToken")
        self.works[message["id"]] = Work(message["id"], tag, method in MAY_ASK, token)

    def _cancel(self, work: Work) -> None:
        assert not work.cancelled, "a call was cancelled twice"
        work.cancelled = True

    def _take(self, message: Json) -> None:
        question = self.questions[message["id"]]
        question.replies += 1
        assert question.replies == 1, "a question was answered twice"
        answer = message.get("result")
        if answer is not None and answer.get("action") != "cancel" and question.method != "roots/list":
            assert question.text in json.dumps(answer), "an answer came to another question"
        for work in self.works.values():
            work.waits_for.discard(question.id)

    # What it does.

    def executing(self, *, asking: bool = False) -> list[Work]:
        """Return the calls that it works on; only those that may ask, if it shall ask."""
        works = [work for work in self.works.values() if work.open]
        if self._one_at_a_time:
            works = works[:1]
        return [work for work in works if not work.waits_for and (work.may_ask or not asking)]

    def open_works(self) -> list[Work]:
        return [work for work in self.works.values() if work.open]

    def open_questions(self) -> list[Question]:
        return [
            question
            for question in self.questions.values()
            if not question.replies and not question.withdrawn
        ]

    def ask(self, work: Work, count: int) -> None:
        """Ask several things at once, for one call."""
        lines = []
        for _ in range(count):
            identifier = f"q{len(self.questions)}"
            text = f"<{work.tag}/{identifier}>"
            method = self._chance.choice(
                ["elicitation/create"] * 4 + ["sampling/createMessage"] * 4 + ["roots/list"]
            )
            self.questions[identifier] = Question(identifier, text, method)
            work.waits_for.add(identifier)
            lines.append(message_bytes(id=identifier, **question_of(text, method)))
        self.child.stdout.feed(*lines)

    def withdraw(self, question: Question) -> None:
        """Take a question back."""
        question.withdrawn = True
        for work in self.works.values():
            work.waits_for.discard(question.id)
        self._say(method="notifications/cancelled", params={"requestId": question.id})

    def answer(self, work: Work) -> None:
        """Answer a call, whatever it waits for; also one that was cancelled."""
        work.answered = True
        if self._chance.random() < 0.1:
            self._say(id=work.id, error={"code": -32000, "message": work.tag})
        else:
            self._say(id=work.id, result={"x-answer": work.tag})

    def progress(self, work: Work) -> None:
        """Tell how far a call is."""
        if work.token is not None:
            params = {"progressToken": work.token, "progress": 1, "message": work.tag}
            self._say(method="notifications/progress", params=params)

    def log(self, work: Work) -> None:
        """Log something about a call."""
        level = self._chance.choice(["debug", "info", "error"])
        self._say(method="notifications/message", params={"level": level, "data": work.tag})

    def ping(self) -> None:
        """Ask whether anybody is there."""
        identifier = f"ping{len(self.questions)}"
        self.questions[identifier] = Question(identifier, "", "roots/list")
        self._say(id=identifier, method="ping")

    def end(self) -> None:
        """End the process."""
        self.ended = True
        self.child.exit(ExitStatus(code=3, signal=None))

    def _say(self, **members: object) -> None:
        self.child.stdout.feed(message_bytes(**members))
