"""JSON-RPC 2.0 envelopes. Sans-IO; everything inside an envelope stays raw bytes.

A message is decoded once, one level deep: its members keep the very bytes they came in, so what
we do not understand crosses untouched (unknown members, methods, params, `_meta`, big numbers).
What was read is what is forwarded: a member that stands twice is forwarded once, with the value
that we read.

Source: JSON-RPC 2.0; MCP 2025-11-25, basic, "Messages"; design decision 2.
"""

import codecs
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from ..errors import LocalProtocolError, RemoteProtocolError

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
    "cancellation",
    "encode",
    "error_response",
    "find_response_id",
    "object_members",
    "parse_body",
    "parse_line",
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

#: Members of one object, where there may be many, and messages in one batch. Each costs us far more
#: memory than it costs the sender bytes, so what is built before anybody looks must be bounded.
MAX_MEMBERS = 1024

#: An object up to this size cannot hold so many members that they matter.
SMALL_BYTES = 64 * 1024

#: Lone surrogates replaced in one message, which takes time; one with more of them is refused.
MAX_REPLACED_SURROGATES = 64 * 1024

#: Bytes that are checked for UTF-8 at a time. All at once would need up to five times as many.
UTF8_CHECK_BYTES = 64 * 1024

Members = dict[str, msgspec.Raw]

Decoded = TypeVar("Decoded")

_members_decoder = msgspec.json.Decoder(Members)
# A list would be built whole before its length is looked at; this refuses what is one too many.
_batch_decoder = msgspec.json.Decoder(
    msgspec.defstruct(
        "_Batch",
        [(f"element_{index}", msgspec.Raw, msgspec.Raw()) for index in range(MAX_MEMBERS)],
        array_like=True,
        forbid_unknown_fields=True,
    )
)
_string_decoder = msgspec.json.Decoder(str)
_encoder = msgspec.json.Encoder()

_VERSION = b'"2.0"'

# RecursionError: nesting deeper than the interpreter allows. UnicodeDecodeError: a name that is
# not UTF-8.
_MALFORMED = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

# Half of a pair of surrogates is no character, though JavaScript writes it, and strict decoders
# refuse the whole message for it. A high one without a low one behind it, or the other way round.
_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
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
        batch = [_parse(element) for element in _elements(body)]
    except msgspec.ValidationError as exc:
        raise LocalProtocolError(f"expected a JSON-RPC message: {exc}", code=INVALID_REQUEST) from None
    except _MALFORMED as exc:
        raise LocalProtocolError(f"the body is not valid JSON: {_reason(exc)}", code=PARSE_ERROR) from None
    if not batch:
        raise LocalProtocolError("expected a batch of messages, found an empty one", code=INVALID_REQUEST)
    return batch


def parse_line(line: bytes) -> list[Message]:
    """Parse what a child wrote on one line: a message, or a batch of them (2025-03-26).

    A batch loses what is no JSON-RPC in it and no more: somebody waits for each of its answers.

    Raises:
        RemoteProtocolError: It is not JSON, or not JSON-RPC.
    """
    try:
        if line.lstrip()[:1] != b"[":
            return [_parse(line)]
        elements = _elements(line)
    except (*_MALFORMED, LocalProtocolError) as exc:
        raise _fault_of_child(exc) from None
    messages, faults = [], []
    for element in elements:
        try:
            messages.append(_parse(element))
        except (*_MALFORMED, LocalProtocolError) as exc:
            faults.append(exc)
    if faults and not messages:
        raise _fault_of_child(faults[0])
    return messages


def _fault_of_child(exc: Exception) -> RemoteProtocolError:
    if isinstance(exc, LocalProtocolError):
        return RemoteProtocolError(str(exc), code=exc.code)
    return RemoteProtocolError(f"not valid JSON: {_reason(exc)}", code=PARSE_ERROR)


def _elements(data: bytes) -> list[bytes]:
    batch, _ = _decode(_batch_decoder.decode, data)
    # What the batch is too short for is left at its default, which is empty; no element is.
    return [bytes(element) for element in msgspec.structs.astuple(batch) if element]


def _parse(data: bytes) -> Message:
    return _classify(*_decode(_decode_members, data))


def _decode(decode: Callable[[bytes], Decoded], data: bytes) -> tuple[Decoded, bytes]:
    """Return what was decoded, and from which bytes: lone surrogates are replaced if it takes that."""
    if not data.isascii():
        # msgspec does not look inside what it leaves raw, so ask for the error here.
        _check_utf8(data)
    try:
        return decode(data), data
    except _MALFORMED:
        if not _SURROGATE.search(data):
            raise
        data = _replace_lone_surrogates(data)
        return decode(data), data


def _decode_members(data: bytes | msgspec.Raw) -> Members:
    if len(data) <= SMALL_BYTES:
        return _members_decoder.decode(data)
    members = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=_NameCounter()).decode(data)
    return dict(members.items())


class _Name(str):
    """The name of a member, of a type of its own so that msgspec asks us for each."""

    __slots__ = ()


class _NameCounter:
    """Takes so many names and no more, while the object is still being decoded."""

    def __init__(self) -> None:
        self._names = 0

    def __call__(self, kind: type[_Name], name: str) -> _Name:
        self._names += 1
        if self._names > MAX_MEMBERS:
            raise ValueError(f"expected at most {MAX_MEMBERS} members in an object of this size")
        return kind(name)


def _check_utf8(data: bytes) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(data)
    for start in range(0, len(data), UTF8_CHECK_BYTES):
        decoder.decode(view[start : start + UTF8_CHECK_BYTES])
    decoder.decode(b"", final=True)


def _replace_lone_surrogates(data: bytes) -> bytes:
    # Escaped backslashes are out of the way meanwhile, or the second half of one would seem to begin
    # an escape. No JSON text holds a NUL. Without a call per escape: a body can hold millions.
    if b"\0" in data:
        return data
    without = data.replace(rb"\\", b"\0")
    repaired = _LONE_SURROGATE.sub(rb"\\ufffd", without, count=MAX_REPLACED_SURROGATES)
    return repaired.replace(b"\0", rb"\\")


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


def raw(value: object) -> msgspec.Raw:
    """Return a value of ours as a member."""
    return msgspec.Raw(_encoder.encode(value))


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


def cancellation(request_id: bytes, reason: str) -> bytes:
    """Return a cancellation of a request, encoded (MCP 2025-11-25, basic/utilities/cancellation)."""
    params = {"requestId": msgspec.Raw(request_id), "reason": reason}
    return _encoder.encode({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})


def object_members(value: msgspec.Raw | None) -> Members | None:
    """Return the members of a JSON object, raw; None if the value is anything else."""
    if value is None:
        return None
    try:
        return _decode_members(value)
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
