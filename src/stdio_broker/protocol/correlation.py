"""Whose message is this? Ids and progress tokens, out and back. Pure.

Between a client and its child every id is ours: clients reuse ids across sessions and some
within one, and an id that crossed as it is could answer the wrong request. The child sees
numbers that count up; what a child asks gets an id that nobody can guess. A client's progress
token becomes the number of its request, so that progress finds its exchange without a table of
its own. Everything else in a message stays as it is.

Source: MCP 2025-11-25, basic/utilities/{progress,cancellation}; JSON-RPC 2.0, 4 and 5.
"""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import msgspec

from .encoding import Pieces, encode, encode_message
from .jsonrpc import Members, Notification, Request, Response, object_members, params_of, raw

__all__ = ["Correlation"]

Owner = TypeVar("Owner")


class _Call(msgspec.Struct, Generic[Owner]):
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
        return encode(self.open(request, owner))

    def open(self, request: Request, owner: Owner) -> Mapping[str, msgspec.Raw | Pieces]:
        """Open a call of the client's; return the members of the request for the child."""
        child_id = self.new_id()
        raw_id = msgspec.Raw(child_id)
        members: Mapping[str, msgspec.Raw | Pieces] = request.members
        request.members["id"] = raw_id
        token = None
        params = params_of(request)
        if params is not None and "_meta" in params:
            token, members = _with_token(request.members, params, raw_id)
        self._calls[child_id] = _Call(request.id, token, owner)
        self._by_client_id[request.id] = child_id
        return members

    def query(self, method: str, params: bytes, owner: Owner) -> bytes:
        """Open a call of our own; return the line for the child. Its answer comes under the id null."""
        child_id = self.new_id()
        self._calls[child_id] = _Call(b"null", None, owner)
        return _own_request(child_id, method, params)

    def statement(self, method: str, params: bytes) -> bytes:
        """Return the line of a call of our own that nobody waits for: its answer is always late."""
        return _own_request(self.new_id(), method, params)

    def new_id(self) -> bytes:
        """Return an id that the child has not seen."""
        self._last_id += 1
        return b"%d" % self._last_id

    def answer(self, response: Response) -> tuple[Owner, bytes] | None:
        """Close the call that the child has answered; return its owner and the answer for the client.

        None if nobody waits for it (any more).
        """
        owner = self.settle(response)
        return None if owner is None else (owner, encode(response.members))

    def settle(self, response: Response) -> Owner | None:
        """Close the call that the child has answered; return its owner, and give the answer the client's id.

        None if nobody waits for it (any more).
        """
        call = self._close(response.id)
        if call is None:
            return None
        response.members["id"] = msgspec.Raw(call.client_id)
        return call.owner

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

    def cancel(self, notification: Notification) -> tuple[bytes, Owner, bytes] | None:
        """Close the call that a client cancels; return the line for the child, the owner, the client's id.

        None if it is not open. Whoever is told must not answer any more, so nothing else closes it
        (MCP 2025-11-25, basic/utilities/cancellation). A child that does answer is too late.
        """
        params = _cancellation(notification)
        child_id = None if params is None else self._by_client_id.get(bytes(params["requestId"]))
        call = None if child_id is None else self._close(child_id)
        if params is None or child_id is None or call is None:
            return None
        return _renamed(notification, params, child_id), call.owner, call.client_id

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
        """Close a question that the child takes back; return its cancellation under our id.

        None if it is not open. Whoever is told must not answer any more, so nothing else closes it
        (MCP 2025-11-25, basic/utilities/cancellation).
        """
        params = _cancellation(notification)
        question_id = None if params is None else self._close_question(bytes(params["requestId"]))
        if params is None or question_id is None:
            return None
        return _renamed(notification, params, question_id)

    def abandon_questions(self) -> list[bytes]:
        """Close all questions; return the ids that the client knows them by."""
        questions = list(self._questions)
        self._questions.clear()
        return questions

    def _close(self, child_id: bytes) -> _Call[Owner] | None:
        call = self._calls.pop(child_id, None)
        # A client that reused the id meanwhile has a newer call under it.
        if call is not None and self._by_client_id.get(call.client_id) == child_id:
            del self._by_client_id[call.client_id]
        return call

    def _close_question(self, child_id: bytes) -> bytes | None:
        for question_id, asked_as in self._questions.items():
            if asked_as == child_id:
                del self._questions[question_id]
                return question_id
        return None


def _with_token(
    members: Members, params: Mapping[str, msgspec.Raw], token: msgspec.Raw
) -> tuple[msgspec.Raw | None, Mapping[str, msgspec.Raw | Pieces]]:
    """Return the client's progress token, and the members with ours in its place; None if it has none."""
    meta = object_members(params["_meta"])
    if meta is None or "progressToken" not in meta:
        return None, members
    # A copy: what was decoded is a view that would keep the whole request until it is answered.
    theirs = meta["progressToken"].copy()
    meta["progressToken"] = token
    changed = encode_message({**params, "_meta": msgspec.Raw(encode(meta))}, members["params"])
    value = changed if isinstance(changed, Pieces) else msgspec.Raw(changed)
    return theirs, {**members, "params": value}


def _own_request(child_id: bytes, method: str, params: bytes) -> bytes:
    members = {
        "jsonrpc": raw("2.0"),
        "id": msgspec.Raw(child_id),
        "method": raw(method),
        "params": msgspec.Raw(params),
    }
    return encode(members)


def _cancellation(notification: Notification) -> Members | None:
    """Return the params of a cancellation that names a request."""
    params = object_members(notification.members.get("params"))
    return params if params is not None and "requestId" in params else None


def _renamed(notification: Notification, params: Members, request_id: bytes) -> bytes:
    """Return the cancellation with another request's id in it, encoded."""
    params["requestId"] = msgspec.Raw(request_id)
    notification.members["params"] = msgspec.Raw(encode(params))
    return encode(notification.members)
