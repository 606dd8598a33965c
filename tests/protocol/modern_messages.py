"""Messages of 2026-07-28 for the tests of this package."""

import json

import msgspec
from hypothesis import strategies as st

from stdio_broker.protocol.jsonrpc import Members, Request, parse_line
from stdio_broker.protocol.modern import (
    META_CLIENT_CAPABILITIES,
    META_VERSION,
    ModernRequest,
    read_request,
)
from stdio_broker.protocol.revisions import MODERN_VERSION

from .strategies import json_values

__all__ = ["INFO", "META", "members_of", "modern_of", "plain", "request_of", "unknown"]

INFO = msgspec.Raw(b'{"name":"s","version":"1.0"}')
META = {META_VERSION: MODERN_VERSION, META_CLIENT_CAPABILITIES: {}}

unknown = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=3).map("acme/".__add__),
    json_values.map(bytes.strip),
    max_size=3,
)


def members_of(value: object) -> Members:
    return msgspec.json.decode(json.dumps(value), type=Members)


def plain(members: object) -> object:
    return json.loads(msgspec.json.encode(members))


def request_of(params: object, method: str = "tools/call") -> Request:
    message = {"jsonrpc": "2.0", "id": "q1", "method": method, "params": params}
    (request,) = parse_line(json.dumps(message).encode())
    assert isinstance(request, Request)
    return request


def modern_of(params: dict[str, object], method: str = "tools/call") -> ModernRequest:
    return read_request(request_of({"_meta": META} | params, method))
