"""Whose message is this? Ids and progress tokens, out and back. Pure.

Between a client and its child every id is ours: clients reuse ids across sessions and some
within one, and an id that crossed as it is could answer the wrong request. The child sees
numbers that count up; what a child asks gets an id that nobody can guess. A client's progress
token becomes the number of its request, so that progress finds its exchange without a table of
its own. Everything else in a message stays as it is.

Source: MCP 2025-11-25, basic/utilities/{progress,cancellation}; JSON-RPC 2.0, 4 and 5.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from .jsonrpc import Members, Notification, Request, Response, encode, object_members

__all__ = ["Correlation"]

Owner = TypeVar("Owner")


@dataclass(slots=True)
class _Call(Generic[Owner]):
    client_id: bytes
    client_token: msgspec.Raw | None
    owner: Owner


class Correlation(Generic[Owner]):
    """The open requests between one client and one child, in both directions.

    The tables are bounded by whoever opens calls and asks questions; `calls` and `questions` say
    how many are open.

    Args:
        new_question_id: Makes an unguessable id for a child's question.
    """

    def __init__(self, new_question_id: Callable[[], str]) -> None:
        self._new_question_id = new_question_id
        self._last_id = 0
        self._calls: dict[bytes, _Call[Owner]] = {}
        self._by_client_id: dict[bytes, bytes] = {}
        self._questions: dict[bytes, bytes] = {}

    @property
    def calls(self) -> int:
        """Requests of the client that the child has not answered."""
        return len(self._calls)

    @property
    def questions(self) -> int:
        """Requests of the child that the client has not answered."""
        return len(self._questions)

    def call(self, request: Request, owner: Owner) -> bytes:
        """Open a call of the client's; return the line for the child."""
        self._last_id += 1
        child_id = b"%d" % self._last_id
        members = request.members
        token = None
        # Looking for the word first keeps a message without one from being decoded any deeper;
        # its letters may be escaped.
        if b"progressToken" in request.source or b"\\u" in request.source:
            token = self._swap_token(members, child_id)
        members["id"] = msgspec.Raw(child_id)
        self._calls[child_id] = _Call(request.id, token, owner)
        self._by_client_id[request.id] = child_id
        return encode(members)

    def answer(self, response: Response) -> tuple[Owner, bytes] | None:
        """Close the call that the child has answered; return its owner and the answer for the client.

        None if nobody waits for it (any more).
        """
        call = self._close(response.id)
        if call is None:
            return None
        response.members["id"] = msgspec.Raw(call.client_id)
        return call.owner, encode(response.members)

    def abandon(self, child_id: bytes) -> tuple[Owner, bytes] | None:
        """Close a call that will not be answered; return its owner and the client's id."""
        call = self._close(child_id)
        return None if call is None else (call.owner, call.client_id)

    def abandon_all(self) -> list[tuple[Owner, bytes]]:
        """Close all calls, oldest first; return the owner and the client's id of each."""
        calls = [(call.owner, call.client_id) for call in self._calls.values()]
        self._calls.clear()
        self._by_client_id.clear()
        return calls

    def close(self, owner: Owner) -> tuple[bytes, bytes] | None:
        """Close the call of an owner; return the child's and the client's id of it. None if it has none."""
        for child_id, call in self._calls.items():
            if call.owner is owner:
                self._close(child_id)
                return child_id, call.client_id
        return None

    def progress(self, notification: Notification) -> tuple[Owner, bytes] | None:
        """Return the owner of a child's progress, and the notification under the client's token.

        None for a token that is unknown, or whose call is over: it must not be passed on.
        """
        params = object_members(notification.members.get("params"))
        if params is None or "progressToken" not in params:
            return None
        call = self._calls.get(bytes(params["progressToken"]))
        if call is None or call.client_token is None:
            return None
        params["progressToken"] = call.client_token
        notification.members["params"] = msgspec.Raw(encode(params))
        return call.owner, encode(notification.members)

    def cancel(self, notification: Notification) -> bytes | None:
        """Return a client's cancellation under the child's id; None if that request is not open.

        The call stays open: the child may have answered already, or refuse.
        """
        return self._translate(notification, self._by_client_id)

    def ask(self, request: Request) -> bytes:
        """Open a question of the child's; return the message for the client."""
        question_id = msgspec.json.encode(self._new_question_id())
        self._questions[question_id] = request.id
        request.members["id"] = msgspec.Raw(question_id)
        return encode(request.members)

    def reply(self, response: Response) -> bytes | None:
        """Close the question that the client has answered; return the line for the child, or None."""
        child_id = self._questions.pop(response.id, None)
        if child_id is None:
            return None
        response.members["id"] = msgspec.Raw(child_id)
        return encode(response.members)

    def withdraw(self, notification: Notification) -> bytes | None:
        """Return a child's cancellation of its question under our id; None if it is not open."""
        by_child_id = {child_id: question_id for question_id, child_id in self._questions.items()}
        return self._translate(notification, by_child_id)

    def _close(self, child_id: bytes) -> _Call[Owner] | None:
        call = self._calls.pop(child_id, None)
        # A client that reused the id meanwhile has a newer call under it.
        if call is not None and self._by_client_id.get(call.client_id) == child_id:
            del self._by_client_id[call.client_id]
        return call

    @staticmethod
    def _translate(notification: Notification, table: dict[bytes, bytes]) -> bytes | None:
        params = object_members(notification.members.get("params"))
        if params is None or "requestId" not in params:
            return None
        other = table.get(bytes(params["requestId"]))
        if other is None:
            return None
        params["requestId"] = msgspec.Raw(other)
        notification.members["params"] = msgspec.Raw(encode(params))
        return encode(notification.members)

    @staticmethod
    def _swap_token(members: Members, token: bytes) -> msgspec.Raw | None:
        params = object_members(members.get("params"))
        meta = None if params is None else object_members(params.get("_meta"))
        if params is None or meta is None or "progressToken" not in meta:
            return None
        old = meta["progressToken"]
        meta["progressToken"] = msgspec.Raw(token)
        params["_meta"] = msgspec.Raw(encode(meta))
        members["params"] = msgspec.Raw(encode(params))
        return old
