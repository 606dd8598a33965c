"""What every message of MCP 2026-07-28 carries, and `server/discover`. Pure.

There is no handshake: each request names its version and what its client can do, in `_meta`. So a
request is read on its own, and a child is told apart by how it answers `server/discover`.

Source: MCP 2026-07-28, basic, "_meta"; basic/patterns/mrtr; server/discover; basic/transports/stdio,
"Backward Compatibility".
"""

from dataclasses import dataclass
from typing import cast

import msgspec

from ..errors import LocalProtocolError
from .capabilities import ClientCapabilities, declared_capabilities
from .jsonrpc import (
    INVALID_PARAMS,
    UNSUPPORTED_PROTOCOL_VERSION,
    Members,
    Request,
    Response,
    encode,
    object_members,
    params_of,
    raw,
    string_member,
)
from .revisions import MODERN_VERSION, MODERN_VERSIONS, REVISIONS

__all__ = [
    "CACHEABLE",
    "COMPLETE",
    "DISCOVER",
    "INPUT_REQUIRED",
    "LISTEN",
    "LOG_LEVELS",
    "MAX_ELEMENTS",
    "MAX_QUESTIONS",
    "MAY_ASK",
    "META_CLIENT_CAPABILITIES",
    "META_CLIENT_INFO",
    "META_LOG_LEVEL",
    "META_SERVER_INFO",
    "META_SUBSCRIPTION_ID",
    "META_VERSION",
    "MISSING_CAPABILITY",
    "REMOVED_METHODS",
    "RESERVED_PREFIX",
    "RESOURCE_NOT_FOUND",
    "URL_ELICITATION_REQUIRED",
    "Discovery",
    "ModernRequest",
    "array_elements",
    "digest_input",
    "discover_request",
    "encode_with",
    "has_modern_meta",
    "modern_meta",
    "probe_outcome",
    "read_request",
    "string_elements",
    "with_meta",
]

#: Keys of `_meta` that begin so are the protocol's own.
RESERVED_PREFIX = "io.modelcontextprotocol/"
META_VERSION = RESERVED_PREFIX + "protocolVersion"
META_CLIENT_INFO = RESERVED_PREFIX + "clientInfo"
META_CLIENT_CAPABILITIES = RESERVED_PREFIX + "clientCapabilities"
META_LOG_LEVEL = RESERVED_PREFIX + "logLevel"
META_SUBSCRIPTION_ID = RESERVED_PREFIX + "subscriptionId"
META_SERVER_INFO = RESERVED_PREFIX + "serverInfo"

#: The request needs a capability that it does not declare.
MISSING_CAPABILITY = -32021
#: Up to 2025-11-25; a modern server must not send these two.
RESOURCE_NOT_FOUND = -32002
URL_ELICITATION_REQUIRED = -32042

DISCOVER = "server/discover"
LISTEN = "subscriptions/listen"

COMPLETE = "complete"
INPUT_REQUIRED = "input_required"

#: What may be answered with `input_required` (MCP 2026-07-28, basic/patterns/mrtr).
MAY_ASK = frozenset({"tools/call", "prompts/get", "resources/read"})

#: Whose complete results say how long they may be kept (MCP 2026-07-28, server/utilities/caching).
CACHEABLE = frozenset(
    {
        DISCOVER,
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
    }
)

#: What older revisions had and this one has not (MCP 2026-07-28, changelog; SEP-2663 for tasks).
REMOVED_METHODS = frozenset(
    {
        "initialize",
        "logging/setLevel",
        "notifications/elicitation/complete",
        "notifications/initialized",
        "notifications/roots/list_changed",
        "notifications/tasks/status",
        "ping",
        "resources/subscribe",
        "resources/unsubscribe",
        "tasks/list",
        "tasks/result",
    }
)

#: From the least severe on (RFC 5424, 6.2.1).
LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

#: Elements of an array that we look into. Each costs us far more memory than it costs the sender.
MAX_ELEMENTS = 1024

#: Longest value that is decoded to be compared however it is written; it takes up to 35 ms for each MiB,
#: and hashing it as it stands takes one.
MAX_CANONICAL_BYTES = 64 * 1024

#: Questions in one round: each of them is put to a person, or costs a model's time.
MAX_QUESTIONS = 64


_RAW_VERSION = raw(MODERN_VERSION)

_DEEP_OR_MALFORMED = (msgspec.DecodeError, RecursionError)

# Digits stay as they are written: 1.0 is not 1.00, and no number is rounded.
_exact_decoder = msgspec.json.Decoder(float_hook=lambda token: msgspec.Raw(token.encode()))
_strings_decoder = msgspec.json.Decoder(list[str])
_integer_decoder = msgspec.json.Decoder(int)
# A list would be built whole before its length is looked at; this refuses what is one too many.
_elements_decoder = msgspec.json.Decoder(
    msgspec.defstruct(
        "_Elements",
        [(f"element_{index}", msgspec.Raw, msgspec.Raw()) for index in range(MAX_ELEMENTS)],
        array_like=True,
        forbid_unknown_fields=True,
    )
)


class ModernRequest(msgspec.Struct, gc=False):
    """A request that says by itself what is needed to answer it.

    A `Struct`, as one is made for every call: that takes a tenth of the time that a dataclass takes.

    Attributes:
        id: The JSON token of its id.
        method: Its method.
        members: All members of the envelope.
        params: All members of its params. Not to be changed.
        meta: All members of its `_meta`.
        version: The version that it is spoken in; not necessarily one of ours.
        capabilities: What its client can be asked while it is answered.
        log_level: From which level on its client wants log messages; None for none at all. Not
            necessarily one of `LOG_LEVELS`.
        progress_token: What its client wants to be told of progress under, or None.
        source_bytes: How long the message was that it was read from, and is held by its members.
        name: The tool or the prompt, or the URI of the resource, that it is about; None for others.
        request_state: What the server gave with its questions, or None.
        input_responses: The answers to the server's questions, or None.
    """

    id: bytes
    method: str
    members: Members
    params: Members
    meta: Members
    version: str
    capabilities: ClientCapabilities
    log_level: str | None
    progress_token: msgspec.Raw | None
    source_bytes: int
    name: str | None = None
    request_state: str | None = None
    input_responses: Members | None = None


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a modern child tells of itself.

    Attributes:
        versions: All that it speaks; one of them is ours.
        capabilities: What it can do.
        server_info: Its name and version, or None.
        instructions: How to use it, or None.
        result: All members of its answer.
    """

    versions: tuple[str, ...]
    capabilities: msgspec.Raw
    server_info: msgspec.Raw | None
    instructions: msgspec.Raw | None
    result: Members


def has_modern_meta(members: Members) -> bool:
    """Return whether a request or a notification names its version by itself."""
    params = object_members(members.get("params")) or {}
    return META_VERSION in (object_members(params.get("_meta")) or {})


def read_request(request: Request) -> ModernRequest:
    """Read what every modern request must carry, and what a repeated one brings.

    Raises:
        LocalProtocolError: Its `_meta`, version or capabilities are missing, or something here is of
            another type than the specification says (-32602).
    """
    params = cast("Members", params_of(request) or {})
    meta = object_members(params.get("_meta"))
    if meta is None:
        raise _refusal(request.id, "expected an object as params._meta")
    ours = meta.get(META_VERSION) == _RAW_VERSION  # nearly always
    version = MODERN_VERSION if ours else string_member(meta, META_VERSION)
    if version is None:
        raise _refusal(request.id, f"expected a string as {META_VERSION!r} in params._meta")
    declared = meta.get(META_CLIENT_CAPABILITIES)
    capabilities = None if declared is None else declared_capabilities(declared)
    if capabilities is None:
        raise _refusal(request.id, f"expected an object as {META_CLIENT_CAPABILITIES!r} in params._meta")
    modern = ModernRequest(
        id=request.id,
        method=request.method,
        members=request.members,
        params=params,
        meta=meta,
        version=version,
        capabilities=capabilities,
        log_level=_optional_string(request.id, meta, META_LOG_LEVEL),
        progress_token=meta.get("progressToken"),
        source_bytes=len(request.source),
        name=string_member(params, "uri" if request.method == "resources/read" else "name"),
    )
    # To any other method, members of these names may mean anything.
    if request.method in MAY_ASK:
        modern.request_state = _optional_string(request.id, params, "requestState")
        modern.input_responses = _optional_object(request.id, params, "inputResponses")
    return modern


def digest_input(request: ModernRequest) -> bytes:
    """Return what makes a request and its repetition the same one, as canonical JSON, to be hashed.

    Names are sorted and white space is gone, so a client may write it anew. Numbers stay as they are
    written, and so does what is longer than `MAX_CANONICAL_BYTES`.
    """
    params = request.params
    subject = [_canonical(params.get(name)) for name in ("name", "uri", "arguments")]
    return msgspec.json.encode([request.method, *subject])


def encode_with(members: Members, message_id: bytes, name: str, inner: Members) -> bytes:
    """Return a message on one line, under another id and with an object in it: in one pass of the encoder.

    Args:
        members: The others, and what is replaced.
        message_id: The JSON token of the id.
        name: What the object is called.
        inner: Its members.
    """
    return encode(cast("Members", {**members, "id": msgspec.Raw(message_id), name: inner}))


def with_meta(params: Members, meta: Members) -> Members:
    """Return params with these in their `_meta`, beside what else is there."""
    present = object_members(params.get("_meta")) or {}
    return {**params, "_meta": msgspec.Raw(encode({**present, **meta}))}


def modern_meta(
    *, version: str, client_info: msgspec.Raw, capabilities: msgspec.Raw, log_level: str | None
) -> Members:
    """Return what `_meta` of a modern request must hold.

    Args:
        version: The version that it is spoken in.
        client_info: Name and version of the client.
        capabilities: What the client can be asked.
        log_level: From which level on log messages are wanted; None for none at all.
    """
    meta: Members = {
        META_VERSION: raw(version),
        META_CLIENT_INFO: client_info,
        META_CLIENT_CAPABILITIES: capabilities,
    }
    if log_level is not None:
        meta[META_LOG_LEVEL] = raw(log_level)
    return meta


def discover_request(client_name: str, client_version: str) -> Request:
    """Return a `server/discover` of our own, to find out what a server is."""
    meta = modern_meta(
        version=MODERN_VERSION,
        client_info=raw({"name": client_name, "version": client_version}),
        capabilities=msgspec.Raw(b"{}"),
        log_level=None,
    )
    members: Members = {
        "jsonrpc": raw("2.0"),
        "id": msgspec.Raw(b"0"),
        "method": raw(DISCOVER),
        "params": msgspec.Raw(encode(with_meta({}, meta))),
    }
    return Request(b"0", DISCOVER, members, b"")


def probe_outcome(answer: Response) -> Discovery | tuple[str, ...] | None:
    """Tell from the answer to `server/discover` what a child speaks.

    Returns:
        What it tells of itself, if it speaks a modern version of ours. All versions that it named (none
        if it named none), if it speaks only modern ones of others: do not try `initialize` then. None
        if it is legacy, which is every other case: it may refuse with any code, and a server that
        speaks both may name legacy versions only.
    """
    result = object_members(answer.members.get("result"))
    if result is None:
        return _refused_versions(object_members(answer.members.get("error")))
    versions = string_elements(result.get("supportedVersions"))
    if not versions or _all_legacy(versions):
        return None
    if not any(version in MODERN_VERSIONS for version in versions):
        return versions
    meta = object_members(result.get("_meta")) or {}
    capabilities = result.get("capabilities")
    return Discovery(
        versions=versions,
        # Sloppy, but what it speaks is beyond doubt.
        capabilities=msgspec.Raw(b"{}")
        if capabilities is None or object_members(capabilities) is None
        else capabilities,
        server_info=meta.get(META_SERVER_INFO),
        instructions=result.get("instructions"),
        result=result,
    )


def array_elements(value: msgspec.Raw | None) -> list[msgspec.Raw] | None:
    """Return the elements of a JSON array, raw; None if it is something else, or has too many.

    See `MAX_ELEMENTS`.
    """
    if value is None:
        return None
    try:
        elements = _elements_decoder.decode(value)
    except _DEEP_OR_MALFORMED:
        return None
    # What the array is too short for is left at its default, which is empty; no element is.
    return [element for element in msgspec.structs.astuple(elements) if element]


def string_elements(value: msgspec.Raw | None) -> tuple[str, ...] | None:
    """Return the strings of a JSON array; None if it holds something else, or `array_elements` is None."""
    if value is None or array_elements(value) is None:
        return None
    try:
        return tuple(_strings_decoder.decode(value))
    except msgspec.DecodeError:
        return None


def _refused_versions(error: Members | None) -> tuple[str, ...] | None:
    if error is None or _integer(error.get("code")) != UNSUPPORTED_PROTOCOL_VERSION:
        return None
    data = object_members(error.get("data")) or {}
    versions = string_elements(data.get("supported")) or ()
    return None if versions and _all_legacy(versions) else versions


def _all_legacy(versions: tuple[str, ...]) -> bool:
    return all(version in REVISIONS for version in versions)


def _integer(value: msgspec.Raw | None) -> int | None:
    try:
        return None if value is None else _integer_decoder.decode(value)
    except _DEEP_OR_MALFORMED:
        return None


def _canonical(value: msgspec.Raw | None) -> msgspec.Raw:
    if value is None:
        return msgspec.Raw(b"null")
    if len(value) > MAX_CANONICAL_BYTES:
        return value
    try:
        return msgspec.Raw(msgspec.json.encode(_exact_decoder.decode(value), order="sorted"))
    except _DEEP_OR_MALFORMED:
        # A number that no machine type holds, or nested too deeply: then it must come back to the letter.
        return value


def _optional_string(request_id: bytes, members: Members, name: str) -> str | None:
    if name not in members:
        return None
    value = string_member(members, name)
    if value is None:
        raise _refusal(request_id, f"expected a string as {name!r}")
    return value


def _optional_object(request_id: bytes, members: Members, name: str) -> Members | None:
    if name not in members:
        return None
    value = object_members(members[name])
    if value is None:
        raise _refusal(request_id, f"expected an object as {name!r}")
    return value


def _refusal(request_id: bytes, message: str) -> LocalProtocolError:
    return LocalProtocolError(message, code=INVALID_PARAMS, request_id=request_id)
