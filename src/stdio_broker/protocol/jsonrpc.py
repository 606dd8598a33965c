"""JSON-RPC 2.0 envelopes. Sans-IO; everything inside an envelope stays raw bytes.

A message is decoded once, one level deep: its members keep the very bytes they came in, so what
we do not understand crosses untouched (unknown members, methods, params, `_meta`, big numbers).
What was read is what is forwarded: a member that stands twice is forwarded once, with the value
that we read.

Source: JSON-RPC 2.0; MCP 2025-11-25, basic, "Messages"; design decision 2.
"""

import re
from collections.abc import Mapping

import msgspec

from ..errors import LocalProtocolError, RemoteProtocolError
from .decoding import (
    MALFORMED,
    SMALL_BYTES,
    Members,
    Steps,
    decode_elements,
    decode_in_steps,
    decode_members,
    decode_short,
    finish,
)
from .encoding import encode

__all__ = [
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "REQUEST_CANCELLED",
    "UNSUPPORTED_PROTOCOL_VERSION",
    "Members",
    "Message",
    "Notification",
    "Request",
    "Response",
    "Steps",
    "cancellation",
    "encode",
    "error_response",
    "find_response_id",
    "object_members",
    "params_of",
    "parse_body",
    "parse_body_in_steps",
    "parse_line",
    "parse_line_in_steps",
    "raw",
    "result_response",
    "string_member",
]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
#: Nobody waits for the answer any more. Not of JSON-RPC or MCP, so outside their reserved range; the
#: official SDKs, and the Language Server Protocol, use the same.
REQUEST_CANCELLED = -32800
#: MCP 2026-07-28, basic, "Error Codes".
UNSUPPORTED_PROTOCOL_VERSION = -32022

_decode_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode

_VERSION = msgspec.Raw(b'"2.0"')

# The first byte of a string, or of a number.
_ID_STARTS = b'"-0123456789'

# An array: nothing but white space before it.
_BATCH = re.compile(rb"[ \t\n\r]*\[")

# What is wrong with one message.
_FAULTS = (*MALFORMED, LocalProtocolError)


# Messages are made twice per call, and a struct is made in a third of the time of a dataclass. What they
# hold refers to no message, so none is ever part of a cycle, and the garbage collector need not look.


class Request(msgspec.Struct, gc=False):
    """A message that wants an answer.

    Attributes:
        id: The JSON token of its id, to the letter: "1" is not 1.
        method: Its method.
        members: All members of the envelope, raw.
        source: The bytes it was decoded from, which its members are views of.
        read_params: What `params_of` has read, behind what it has read it from.
    """

    id: bytes
    method: str
    members: Members
    source: bytes = b""
    read_params: tuple[msgspec.Raw, Members | None] | None = None


class Notification(msgspec.Struct, gc=False):
    """A message that wants no answer. Its attributes are those of a request."""

    method: str
    members: Members
    source: bytes = b""
    read_params: tuple[msgspec.Raw, Members | None] | None = None


class Response(msgspec.Struct, gc=False):
    """The answer to a request: a result or an error. Its attributes are those of a request."""

    id: bytes
    members: Members
    source: bytes = b""


Message = Request | Notification | Response


def parse_body(body: bytes) -> Message | list[Message]:
    """Parse what a client POSTed: one message, or a batch (which only 2025-03-26 allows).

    Raises:
        LocalProtocolError: It is not JSON (-32700), or not JSON-RPC (-32600).
    """
    if len(body) > SMALL_BYTES or body[:1] != b"{":
        return finish(parse_body_in_steps(body))
    try:
        members, source = decode_short(body)
        return _message(members, source)
    except MALFORMED as exc:
        raise _fault_of_client(exc) from None


def parse_body_in_steps(body: bytes) -> Steps[Message | list[Message]]:
    """Parse the same in steps; see `decoding`. For a body over `SMALL_BYTES`: a short one is one step.

    Raises:
        LocalProtocolError: As above.
    """
    try:
        if not _is_batch(body):
            return (yield from _parse(body))
        batch = []
        for element in (yield from decode_elements(body)):
            batch.append((yield from _parse(element)))  # noqa: PERF401 - no comprehension can yield
    except MALFORMED as exc:
        raise _fault_of_client(exc) from None
    if not batch:
        raise LocalProtocolError("expected a batch of messages, found an empty one", code=INVALID_REQUEST)
    return batch


def parse_line(line: bytes) -> list[Message]:
    """Parse what a child wrote on one line: a message, or a batch of them (2025-03-26).

    A batch loses what is no JSON-RPC in it and no more: somebody waits for each of its answers.

    Raises:
        RemoteProtocolError: It is not JSON, or not JSON-RPC.
    """
    if len(line) > SMALL_BYTES or line[:1] != b"{":
        return finish(parse_line_in_steps(line))
    try:
        members, source = decode_short(line)
        return [_message(members, source)]
    except _FAULTS as exc:
        raise _fault_of_child(exc) from None


def parse_line_in_steps(line: bytes) -> Steps[list[Message]]:
    """Parse the same in steps; see `decoding`. For a line over `SMALL_BYTES`: a short one is one step.

    Raises:
        RemoteProtocolError: As above.
    """
    try:
        if not _is_batch(line):
            return [(yield from _parse(line))]
        elements = yield from decode_elements(line)
    except _FAULTS as exc:
        raise _fault_of_child(exc) from None
    messages, faults = [], []
    for element in elements:
        try:
            messages.append((yield from _parse(element)))
        except _FAULTS as exc:
            faults.append(exc)
    if faults and not messages:
        raise _fault_of_child(faults[0])
    return messages


def _is_batch(text: bytes) -> bool:
    return _BATCH.match(text) is not None


def _parse(text: bytes) -> Steps[Message]:
    members, source = yield from decode_in_steps(text)
    message = _message(members, source)
    if len(message.source) > SMALL_BYTES and not isinstance(message, Response):
        params_of(
            message
        )  # a step of its own, now: whoever asks next does so in the middle of something else
        yield
    return message


def _fault_of_client(exc: Exception) -> LocalProtocolError:
    if isinstance(exc, msgspec.ValidationError):
        return LocalProtocolError(f"expected a JSON-RPC message: {exc}", code=INVALID_REQUEST)
    return LocalProtocolError(f"the body is not valid JSON: {_reason(exc)}", code=PARSE_ERROR)


def _fault_of_child(exc: Exception) -> RemoteProtocolError:
    if isinstance(exc, LocalProtocolError):
        return RemoteProtocolError(str(exc), code=exc.code)
    return RemoteProtocolError(f"not valid JSON: {_reason(exc)}", code=PARSE_ERROR)


def _message(members: Members, source: bytes) -> Message:
    """Tell what a message is by its members."""
    token = members.get("id")
    if members.get("jsonrpc") != _VERSION:
        raise _invalid('expected "jsonrpc": "2.0"', token)
    name = members.get("method")
    if name is not None:
        try:
            method = _decode_string(name)
        except msgspec.DecodeError:
            raise _invalid('expected a string as "method"', token) from None
        if token is None:
            return Notification(method, members, source)
        identifier = _encode(token)  # to bytes, in half the time of `bytes`
        if identifier[0] not in _ID_STARTS:
            raise _invalid('expected a string or a number as "id"', None)
        return Request(identifier, method, members, source)
    if "result" not in members and "error" not in members:
        raise _invalid('expected "method", "result" or "error"', token)
    # The id of an error may be null: the peer could not tell what it was about.
    return Response(b"null" if token is None else _encode(token), members, source)


def _invalid(text: str, token: msgspec.Raw | None) -> LocalProtocolError:
    identifier = b"null" if token is None else bytes(token)
    known_id = identifier if identifier[0] in _ID_STARTS else None
    return LocalProtocolError(text, code=INVALID_REQUEST, request_id=known_id)


def _reason(exc: BaseException) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    if isinstance(exc, UnicodeDecodeError):
        return "it is not UTF-8"
    return str(exc)


def raw(value: object) -> msgspec.Raw:
    """Return a value of ours as a member."""
    return msgspec.Raw(_encode(value))


def error_response(
    request_id: bytes | None, code: int, message: str, data: Mapping[str, object] | msgspec.Raw | None = None
) -> bytes:
    """Return an error, encoded.

    Args:
        request_id: The raw token of the request's id; None if there is none, or it is unknown.
        code: JSON-RPC error code.
        message: What was expected and what was found; no secrets, no stderr.
        data: Facts for programs.
    """
    error: dict[str, object] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    identifier = msgspec.Raw(b"null" if request_id is None else request_id)
    return _encode({"jsonrpc": "2.0", "id": identifier, "error": error})


def result_response(request_id: bytes, result: Mapping[str, object]) -> bytes:
    """Return a result, encoded."""
    return _encode({"jsonrpc": "2.0", "id": msgspec.Raw(request_id), "result": result})


def cancellation(request_id: bytes, reason: str) -> bytes:
    """Return a cancellation of a request, encoded (MCP 2025-11-25, basic/utilities/cancellation)."""
    params = {"requestId": msgspec.Raw(request_id), "reason": reason}
    return _encode({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})


def object_members(value: msgspec.Raw | None) -> Members | None:
    """Return the members of a JSON object, raw; None if the value is anything else."""
    if value is None:
        return None
    try:
        return decode_members(value)
    except MALFORMED:
        return None


def params_of(message: Request | Notification) -> Mapping[str, msgspec.Raw] | None:
    """Return the members of a message's params, raw; None if they are no object. Not to be changed.

    They are read once. That takes no longer than to look first whether what one wants is there at all,
    under a name that may be written with escapes.
    """
    params = message.members.get("params")
    if params is None:
        return None
    read = message.read_params
    if read is None or read[0] is not params:
        read = message.read_params = params, object_members(params)
    return read[1]


def string_member(members: Members | None, name: str) -> str | None:
    """Return a member that is a string; None if it is missing or anything else."""
    if members is None or name not in members:
        return None
    try:
        return _decode_string(members[name])
    except msgspec.DecodeError:
        return None


_VERSION_MEMBER = rb'"jsonrpc"\s*:\s*"2\.0"\s*'
_ANSWER_MEMBER = rb'"(?:result|error)"\s*:'
# Anchored to the ends of the line, so none can match inside a value: the first members stand behind
# the first brace, and what stands before the last brace is a member of the envelope. A result or an
# error must be there too: a child numbers its own requests as we number ours.
_ID_IN_HEAD = re.compile(
    rb'\s*\{\s*(?:%b,\s*)?"id"\s*:\s*(\d+)\s*,\s*(?:%b,\s*)?%b'
    % (_VERSION_MEMBER, _VERSION_MEMBER, _ANSWER_MEMBER)
)
_ANSWER_IN_HEAD = re.compile(rb"\s*\{\s*(?:%b,\s*)?%b" % (_VERSION_MEMBER, _ANSWER_MEMBER))
_ID_IN_TAIL = re.compile(rb',\s*"id"\s*:\s*(\d+)\s*(?:,\s*%b)?\}\s*\Z' % _VERSION_MEMBER)


def find_response_id(head: bytes, tail: bytes) -> bytes | None:
    """Return the id of an answer of which only the ends are known; None if they do not tell.

    Only numbers are looked for: they are what we send to children.
    """
    match = _ID_IN_HEAD.match(head)
    if match is None and _ANSWER_IN_HEAD.match(head):
        match = _ID_IN_TAIL.search(tail)
    return match[1] if match else None
