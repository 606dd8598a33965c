"""JSON-RPC 2.0 envelopes. Sans-IO; everything inside an envelope stays raw bytes.

A message is decoded once, one level deep: its members keep the very bytes they came in, so what
we do not understand crosses untouched (unknown members, methods, params, `_meta`, big numbers).
What was read is what is forwarded: a member that stands twice is forwarded once, with the value
that we read.

Source: JSON-RPC 2.0; MCP 2025-11-25, basic, "Messages"; design decision 2.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from ..errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "UNSUPPORTED_PROTOCOL_VERSION",
    "Members",
    "Message",
    "Notification",
    "Request",
    "Response",
    "cancelled",
    "encode",
    "error_response",
    "find_response_id",
    "object_members",
    "parse_body",
    "parse_line",
    "result_response",
    "string_member",
]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
#: MCP 2026-07-28, basic, "Error Codes".
UNSUPPORTED_PROTOCOL_VERSION = -32022

Members = dict[str, msgspec.Raw]

_members_decoder = msgspec.json.Decoder(Members)
_batch_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_string_decoder = msgspec.json.Decoder(str)
_encoder = msgspec.json.Encoder()

_VERSION = b'"2.0"'

# RecursionError: nesting deeper than the interpreter allows. UnicodeDecodeError: a name that is
# not UTF-8.
_MALFORMED = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

# Any escape in a string. A pair of surrogates is one character; half of one is none, though
# JavaScript writes it, and strict decoders refuse the whole message for it.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(slots=True)
class Request:
    """A message that wants an answer.

    Attributes:
        id: The JSON token of its id, to the letter: "1" is not 1.
        method: Its method.
        members: All members of the envelope, raw.
        source: The bytes it was decoded from, which its members are views of.
    """

    id: bytes
    method: str
    members: Members
    source: bytes


@dataclass(slots=True)
class Notification:
    """A message that wants no answer."""

    method: str
    members: Members


@dataclass(slots=True)
class Response:
    """The answer to a request: a result or an error."""

    id: bytes
    members: Members


Message = Request | Notification | Response


def parse_body(body: bytes) -> Message | list[Message]:
    """Parse what a client POSTed: one message, or a batch (which only 2025-03-26 allows).

    Raises:
        LocalProtocolError: It is not JSON (-32700), or not JSON-RPC (-32600).
    """
    try:
        if body.lstrip()[:1] != b"[":
            return _parse(body)
        batch = [_parse(bytes(element)) for element in _batch_decoder.decode(body)]
    except msgspec.ValidationError:
        raise LocalProtocolError("expected a JSON object", code=INVALID_REQUEST) from None
    except _MALFORMED as exc:
        raise LocalProtocolError(f"the body is not valid JSON: {_reason(exc)}", code=PARSE_ERROR) from None
    if not batch:
        raise LocalProtocolError("expected a batch of messages, found an empty one", code=INVALID_REQUEST)
    return batch


def parse_line(line: bytes) -> list[Message]:
    """Parse what a child wrote on one line: a message, or a batch of them (2025-03-26).

    Raises:
        RemoteProtocolError: It is not JSON, or not JSON-RPC.
    """
    try:
        if line.lstrip()[:1] == b"[":
            return [_parse(bytes(element)) for element in _batch_decoder.decode(line)]
        return [_parse(line)]
    except _MALFORMED as exc:
        raise RemoteProtocolError(f"not valid JSON: {_reason(exc)}", code=PARSE_ERROR) from None
    except LocalProtocolError as exc:
        raise RemoteProtocolError(str(exc), code=exc.code) from None


def _parse(data: bytes) -> Message:
    if not data.isascii():
        # msgspec does not look inside what it leaves raw, so ask for the error here.
        data.decode()
    try:
        members = _members_decoder.decode(data)
    except _MALFORMED:
        if not _SURROGATE.search(data):
            raise
        data = _ESCAPE.sub(_replace_lone_surrogate, data)
        members = _members_decoder.decode(data)
    return _classify(members, data)


def _replace_lone_surrogate(match: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if match[1] else match[0]


def _classify(members: Members, source: bytes) -> Message:
    token = bytes(members["id"]) if "id" in members else None
    known_id = token if token is not None and _is_id(token) else None
    if "jsonrpc" not in members or bytes(members["jsonrpc"]) != _VERSION:
        raise LocalProtocolError('expected "jsonrpc": "2.0"', code=INVALID_REQUEST, request_id=known_id)
    raw_method = members.get("method")
    if raw_method is not None:
        try:
            method = _string_decoder.decode(raw_method)
        except msgspec.DecodeError:
            raise LocalProtocolError(
                'expected a string as "method"', code=INVALID_REQUEST, request_id=known_id
            ) from None
        if token is None:
            return Notification(method, members)
        if known_id is None:
            raise LocalProtocolError('expected a string or a number as "id"', code=INVALID_REQUEST)
        return Request(token, method, members, source)
    if "result" not in members and "error" not in members:
        raise LocalProtocolError(
            'expected "method", "result" or "error"', code=INVALID_REQUEST, request_id=known_id
        )
    # The id of an error may be null: the peer could not tell what it was about.
    return Response(token or b"null", members)


def _is_id(token: bytes) -> bool:
    return token[:1] in b'"-0123456789'


def _reason(exc: BaseException) -> str:
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    if isinstance(exc, UnicodeDecodeError):
        return "it is not UTF-8"
    return str(exc)


def encode(members: Mapping[str, msgspec.Raw]) -> bytes:
    """Return a message on one line.

    A client may send pretty-printed JSON, but a line may not contain a newline. In valid JSON
    one can only stand between tokens, so a space does as well.
    """
    line = _encoder.encode(members)
    if b"\n" in line or b"\r" in line:
        line = line.replace(b"\n", b" ").replace(b"\r", b" ")
    return line


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
    return _encoder.encode({"jsonrpc": "2.0", "id": identifier, "error": error})


def result_response(request_id: bytes, result: Mapping[str, object]) -> bytes:
    """Return a result, encoded."""
    return _encoder.encode({"jsonrpc": "2.0", "id": msgspec.Raw(request_id), "result": result})


def cancelled(request_id: bytes, reason: str) -> bytes:
    """Return a cancellation of a request, encoded (MCP 2025-11-25, basic/utilities/cancellation)."""
    params = {"requestId": msgspec.Raw(request_id), "reason": reason}
    return _encoder.encode({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})


def object_members(value: msgspec.Raw | None) -> Members | None:
    """Return the members of a JSON object, raw; None if the value is anything else."""
    if value is None:
        return None
    try:
        return _members_decoder.decode(value)
    except _MALFORMED:
        return None


def string_member(members: Members | None, name: str) -> str | None:
    """Return a member that is a string; None if it is missing or anything else."""
    if members is None or name not in members:
        return None
    try:
        return _string_decoder.decode(members[name])
    except msgspec.DecodeError:
        return None


# Anchored to the ends of the line, so neither can match inside a value: the first member stands
# behind the first brace, and what stands before the last brace is a member of the envelope.
_ID_IN_HEAD = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(\d+)\s*,')
_ID_IN_TAIL = re.compile(rb',\s*"id"\s*:\s*(\d+)\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z')


def find_response_id(head: bytes, tail: bytes) -> bytes | None:
    """Return the id of an answer of which only the ends are known; None if they do not tell.

    Only numbers are looked for: they are what we send to children.
    """
    match = _ID_IN_HEAD.match(head) or _ID_IN_TAIL.search(tail)
    return match[1] if match else None
