"""`initialize`: which version was asked for, and which was agreed on. Pure.

The message itself passes through; only a version that our side does not speak is replaced.
Source: MCP 2025-11-25, basic/lifecycle, "Version Negotiation".
"""

from dataclasses import dataclass

import msgspec

from ..errors import LocalProtocolError, RemoteProtocolError
from .jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    Members,
    Request,
    Response,
    encode,
    object_members,
    parse_line,
    raw,
    string_member,
)
from .revisions import KNOWN_VERSIONS, LATEST, REVISIONS, Revision, clamp

__all__ = ["Agreement", "agree", "clamp_request", "error_text", "initialize_request"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a child answered to `initialize`.

    Attributes:
        revision: What both sides speak from now on.
        name: The child's own name, or None.
        server_version: The child's own version, or None.
    """

    revision: Revision
    name: str | None
    server_version: str | None


def clamp_request(request: Request) -> None:
    """Replace the version that a client asks for, in place, if we do not speak it.

    Raises:
        LocalProtocolError: The request has no params, or no version in them.
    """
    params = object_members(request.members.get("params"))
    version = string_member(params, "protocolVersion")
    if params is None or version is None:
        raise LocalProtocolError(
            "initialize: expected params with a protocolVersion", code=INVALID_PARAMS, request_id=request.id
        )
    if clamp(version) != version:
        params["protocolVersion"] = raw(clamp(version))
        request.members["params"] = msgspec.Raw(encode(params))


def initialize_request(client_name: str, client_version: str) -> Request:
    """Return an `initialize` of our own, to find out what a server is."""
    params = {
        "protocolVersion": LATEST,
        "capabilities": {},
        "clientInfo": {"name": client_name, "version": client_version},
    }
    members: Members = {
        "jsonrpc": raw("2.0"),
        "id": msgspec.Raw(b"0"),
        "method": raw("initialize"),
        "params": raw(params),
    }
    return Request(b"0", "initialize", members, b"")


def agree(answer: bytes) -> Agreement | None:
    """Read the child's answer to `initialize`; None if it is an error.

    Raises:
        RemoteProtocolError: The answer is no InitializeResult, or names a version we do not speak.
    """
    (message,) = parse_line(answer)
    if not isinstance(message, Response) or "error" in message.members:
        return None
    result = object_members(message.members.get("result"))
    version = string_member(result, "protocolVersion")
    if result is None or version is None:
        raise RemoteProtocolError(
            "the server's answer to `initialize` has no protocolVersion", code=INTERNAL_ERROR
        )
    if version not in REVISIONS:
        raise RemoteProtocolError(
            f"the server chose MCP {version!r}; this broker speaks {', '.join(KNOWN_VERSIONS)}",
            code=INTERNAL_ERROR,
        )
    info = object_members(result.get("serverInfo"))
    return Agreement(REVISIONS[version], string_member(info, "name"), string_member(info, "version"))


def error_text(answer: bytes) -> str:
    """Return the message of a child's error."""
    (message,) = parse_line(answer)
    error = object_members(message.members.get("error"))
    return string_member(error, "message") or "an error without a message"
