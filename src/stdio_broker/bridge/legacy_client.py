"""A legacy client before a modern child: what it said of itself, how it is asked, why it gets no answer.

It said once what a modern request says each time. What a modern child asks in a result becomes
requests to the client, all at once, on the stream of the call that they are about.

Source: protocol matrix, sections 5 and 13.9; MCP 2026-07-28, basic/patterns/mrtr.
"""

import asyncio
import secrets
from dataclasses import dataclass

import msgspec

from ..errors import BridgeBroken
from ..protocol.capabilities import ClientCapabilities, modern_capabilities, read_legacy
from ..protocol.jsonrpc import (
    INTERNAL_ERROR,
    Members,
    Request,
    Response,
    cancellation,
    encode,
    object_members,
    parse_line,
    string_member,
)
from ..protocol.modern import modern_meta
from ..protocol.revisions import MODERN_VERSION, Revision
from ..protocol.to_legacy import Question, can_ask, question_for_client
from .client_streams import ClientStreams
from .settings import Settings
from .streams import Exchange

__all__ = ["ChildEnded", "ClientQuestions", "LegacyClient", "Refused"]

_UNKNOWN_CLIENT = msgspec.Raw(b'{"name":"unknown","version":"unknown"}')


class ChildEnded(Exception):
    """The child ended under a request.

    Attributes:
        ending: How.
    """

    def __init__(self, ending: BridgeBroken) -> None:
        super().__init__(str(ending))
        self.ending = ending


class Refused(Exception):
    """A request cannot be answered; says why.

    Attributes:
        reason: The same as a constant that programs can compare.
        code: The JSON-RPC error code that fits.
    """

    def __init__(self, message: str, reason: str, *, code: int = INTERNAL_ERROR) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code


@dataclass(frozen=True, slots=True)
class LegacyClient:
    """What a client said in `initialize`.

    Attributes:
        revision: What was agreed on with it.
        capabilities: What it can be asked.
        declared: The same, as a modern request declares it.
        info: Its name and version.
    """

    revision: Revision
    capabilities: ClientCapabilities
    declared: msgspec.Raw
    info: msgspec.Raw

    @classmethod
    def read(cls, initialize: Request, revision: Revision) -> "LegacyClient":
        """Read an `initialize`."""
        params = object_members(initialize.members.get("params")) or {}
        declared = params.get("capabilities", msgspec.Raw(b"{}"))
        info = params.get("clientInfo", _UNKNOWN_CLIENT)
        if object_members(info) is None:
            info = _UNKNOWN_CLIENT
        # Copies: what was decoded is a view that would keep the whole request.
        return cls(
            revision,
            read_legacy(declared, revision),
            modern_capabilities(declared, revision).copy(),
            info.copy(),
        )

    def meta(self, log_level: str | None = None) -> Members:
        """Return what a modern request of this client has in its `_meta`.

        Args:
            log_level: From which level on log messages are wanted; None for none at all.
        """
        return modern_meta(
            version=MODERN_VERSION, client_info=self.info, capabilities=self.declared, log_level=log_level
        )


class ClientQuestions:
    """The questions that a client has not answered; at most `max_questions`.

    Args:
        client: Who is asked.
        streams: What leads to it.
        settings: Bounds.
    """

    def __init__(self, client: LegacyClient, streams: ClientStreams, settings: Settings) -> None:
        self._client = client
        self._streams = streams
        self._settings = settings
        self._open: dict[bytes, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def ask(self, questions: dict[str, Question], exchange: Exchange) -> dict[str, msgspec.Raw]:
        """Put questions to the client, all at once; return its results, by the keys of the questions.

        Args:
            questions: What to ask.
            exchange: The stream of the call that they are about.

        Raises:
            Refused: It cannot be asked, gives an error, or nothing at all in time. The questions that are
                open then are withdrawn.
        """
        self._check(questions)
        asked: dict[bytes, _Waiting] = {}
        try:
            for question in questions.values():
                question_id = msgspec.json.encode(secrets.token_urlsafe(16))
                waiting = asked[question_id] = self._open[question_id] = _Waiting(question)
                self._put(_encoded(question_id, waiting.question), exchange)
            async with asyncio.timeout(self._settings.park_timeout):
                results = await asyncio.gather(*(waiting.result for waiting in asked.values()))
        except TimeoutError:
            text = "the client did not answer the server's questions in time"
            raise Refused(text, "client did not answer") from None
        finally:
            for question_id in asked:
                if self._open.pop(question_id, None) is not None:
                    self._put(cancellation(question_id, "the call that this belongs to is over"), exchange)
        return dict(zip(questions, results, strict=True))

    def reply(self, response: Response) -> None:
        """Take the client's answer to a question; an answer to nothing is dropped."""
        waiting = self._open.pop(response.id, None)
        if waiting is not None:
            error = object_members(response.members.get("error"))
            waiting.take(response.members.get("result"), string_member(error, "message"))

    def refuse(self, messages: list[bytes]) -> None:
        """Note which messages have reached nobody: questions among them will have no answer."""
        for message in messages:
            for lost in parse_line(message):
                waiting = self._open.pop(lost.id, None) if isinstance(lost, Request) else None
                if waiting is not None:
                    waiting.take(None, "no client took this request")

    def _check(self, questions: dict[str, Question]) -> None:
        for question in questions.values():
            problem = can_ask(question, self._client.capabilities, self._client.revision)
            if problem is not None:
                text = f"the server asks for what this client cannot do: {problem}"
                raise Refused(text, "client cannot be asked")
        if len(self._open) + len(questions) > self._settings.max_questions:
            raise Refused("too many questions wait for the client's answer", "too many questions")

    def _put(self, message: bytes, exchange: Exchange) -> None:
        if exchange.open:
            self._streams.put(message, exchange)
        elif not exchange.answered:
            # The client has lost the stream of its POST; what it must answer still finds it.
            self._streams.send_related(message)


class _Waiting:
    """A question that has no answer yet."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.result: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()

    def take(self, result: msgspec.Raw | None, problem: str | None) -> None:
        """Take the answer. There is no way to tell a modern server of an error, so its call ends with it."""
        if self.result.done():
            return
        if result is not None and object_members(result) is not None:
            self.result.set_result(result)
            return
        text = f"the client did not answer {self.question.method}: {problem or 'an error without a message'}"
        self.result.set_exception(Refused(text, "client refused"))


def _encoded(question_id: bytes, question: Question) -> bytes:
    members: Members = {
        "jsonrpc": msgspec.Raw(b'"2.0"'),
        "id": msgspec.Raw(question_id),
        **question_for_client(question, elicitation_id=secrets.token_urlsafe(16)),
    }
    return encode(members)
