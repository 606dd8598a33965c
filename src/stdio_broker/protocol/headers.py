"""The headers that repeat what the body says, so that others can route without reading it. Pure.

`MCP-Protocol-Version`, `Mcp-Method` and `Mcp-Name` must say what the body says: somebody on the way
may have decided by the header, while the child acts on the body. A header that stands twice says
nothing, as readers of its first copy and of its last would disagree.

Source: MCP 2026-07-28, basic/transports/streamable-http, "Request Metadata" (SEP-2243); SEP-2663,
"Streamable HTTP: Routing Headers"; RFC 9110, 5.5.
"""

import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from ..errors import LocalProtocolError
from .jsonrpc import Members, string_member
from .revisions import MODERN_VERSIONS

__all__ = [
    "HEADER_MISMATCH",
    "NAME_MEMBERS",
    "check_no_duplicates",
    "check_standard_headers",
    "decode_value",
    "encode_value",
    "header_mismatch",
    "quoted",
    "repeat_plainly",
]

#: MCP 2026-07-28, basic, "Error Codes".
HEADER_MISMATCH = -32020

#: Which member of params `Mcp-Name` repeats, by method. With any other method it means nothing.
NAME_MEMBERS = MappingProxyType(
    {
        "tools/call": "name",
        "prompts/get": "name",
        "resources/read": "uri",
        "tasks/get": "taskId",
        "tasks/update": "taskId",
        "tasks/cancel": "taskId",
    }
)

#: Characters of a value that a message shows; the peer has the rest.
MAX_SHOWN = 80

_VERSION = "MCP-Protocol-Version"
_METHOD = "Mcp-Method"
_NAME = "Mcp-Name"
_VERSION_FIELD, _METHOD_FIELD, _NAME_FIELD = (
    header.lower().encode() for header in (_VERSION, _METHOD, _NAME)
)
_STANDARD = frozenset({_VERSION_FIELD, _METHOD_FIELD, _NAME_FIELD})

#: Optional white space around a value, which is not part of it (RFC 9110, 5.6.3).
_WHITE_SPACE = " \t"
_SAFE = re.compile(r"[\t -~]*")

_PREFIX = "=?base64?"
_SUFFIX = "?="


def decode_value(value: str) -> str:
    """Return what the value of `Mcp-Name` or `Mcp-Param-*` stands for.

    What is not wholly of the form `=?base64?…?=` stands for itself ("Value Encoding").

    Args:
        value: As received; each character is one byte (ISO 8859-1).

    Raises:
        ValueError: It holds a character that no value may hold, or is of that form, but not the one
            encoding of some text: another alphabet, padding or trailing bits, or no UTF-8.
    """
    text = _literal(value)
    # The length: in "=?base64?=" the two would share a character.
    encoded = len(text) >= len(_PREFIX + _SUFFIX) and _looks_encoded(text)
    return _decode(text[len(_PREFIX) : -len(_SUFFIX)]) if encoded else text


def encode_value(value: str) -> str:
    """Return the value of a header that stands for this text ("Value Encoding")."""
    if _SAFE.fullmatch(value) and value == value.strip(_WHITE_SPACE) and not _looks_encoded(value):
        return value
    return _PREFIX + binascii.b2a_base64(value.encode(), newline=False).decode() + _SUFFIX


def _looks_encoded(text: str) -> bool:
    return text.startswith(_PREFIX) and text.endswith(_SUFFIX)


def _literal(value: str) -> str:
    text = value.strip(_WHITE_SPACE)
    if not _SAFE.fullmatch(text):
        raise ValueError("expected visible ASCII characters, spaces and tabs only")
    return text


def _decode(payload: str) -> str:
    try:
        data = binascii.a2b_base64(payload)
        text = data.decode()
    except ValueError as exc:
        raise ValueError(f"expected canonical base64 of UTF-8: {exc}") from None
    # The decoder overlooks foreign characters, wrong padding and bits beyond the last byte, and its
    # strict mode not all of them.
    if binascii.b2a_base64(data, newline=False).decode() != payload:
        raise ValueError("expected canonical base64 of UTF-8")
    return text


def check_no_duplicates(fields: Sequence[tuple[bytes, bytes]], request_id: bytes) -> None:
    """Refuse a request in which a standard header stands twice, before anything is made of either copy.

    Args:
        fields: All header fields of the request: names in lower case, in their order, none joined.
        request_id: The raw JSON token of the request's id.

    Raises:
        LocalProtocolError: One does (-32020).
    """
    _standard_headers(fields, request_id)


def repeat_plainly(values: Mapping[bytes, bytes], method: str, name: str | None, version: str) -> bool:
    """Tell whether standard headers say what the body says, letter by letter; False: they are to be checked.

    Nearly all do, and to see that takes a tenth of the time that the check takes.

    Args:
        values: The header fields by their names, in lower case; none of them stands twice.
        method: The body's method.
        name: What `Mcp-Name` should repeat, or None; only looked at where the method is in `NAME_MEMBERS`.
        version: The protocol version in the body's `_meta`.
    """
    if values.get(_METHOD_FIELD) != method.encode() or values.get(_VERSION_FIELD) != version.encode():
        return False
    if version not in MODERN_VERSIONS:
        return False
    if method not in NAME_MEMBERS:
        return _is_plain(method)
    return name is not None and values.get(_NAME_FIELD) == name.encode() and _is_plain(name)


def _is_plain(text: str) -> bool:
    """Tell whether a value of these characters stands for itself, and for nothing else."""
    return text.isascii() and text.isprintable() and not text.startswith(_PREFIX) and text == text.strip()


def check_standard_headers(
    fields: Sequence[tuple[bytes, bytes]], method: str, params: Members, version: str, request_id: bytes
) -> None:
    """Refuse a request whose standard headers do not say what its body says ("Server Validation").

    A name that the body lacks is not asked for: its absence is for the child to judge.

    Args:
        fields: All header fields of the request: names in lower case, in their order, none joined.
        method: The body's method.
        params: The body's params.
        version: The protocol version in the body's `_meta`.
        request_id: The raw JSON token of the request's id.

    Raises:
        LocalProtocolError: One is missing, repeated, malformed or different (-32020).
    """
    found = _standard_headers(fields, request_id)
    expected: list[tuple[str, str | None, Callable[[str], str]]] = [
        (_VERSION, version, _literal),
        (_METHOD, method, _literal),
    ]
    if method in NAME_MEMBERS:
        expected.append((_NAME, string_member(params, NAME_MEMBERS[method]), decode_value))
    for header, body_value, read in expected:
        fault = _difference(found.get(header.lower().encode()), body_value, read)
        if fault is not None:
            raise header_mismatch(header, fault, request_id)


def _standard_headers(fields: Sequence[tuple[bytes, bytes]], request_id: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in fields:
        if name not in _STANDARD:
            continue
        if name in found:
            raise header_mismatch(name.decode(), "is there more than once; expected it once", request_id)
        found[name] = value
    return found


def _difference(value: bytes | None, body_value: str | None, read: Callable[[str], str]) -> str | None:
    if value is None:
        return None if body_value is None else f"is missing; expected body value {quoted(body_value)}"
    received = value.decode("latin-1")
    try:
        text = read(received)
    except ValueError as exc:
        return f"value {quoted(received)} is malformed: {exc}"
    if text == body_value:
        return None
    if body_value is None:
        return f"value {quoted(text)} has no counterpart in the body"
    return f"value {quoted(text)} does not match body value {quoted(body_value)}"


def header_mismatch(header: str, fault: str, request_id: bytes) -> LocalProtocolError:
    """Return the error for a header that does not say what the body says.

    Args:
        header: Its name.
        fault: What is wrong with it: the rest of a sentence that begins with the header.
        request_id: The raw JSON token of the request's id.
    """
    return LocalProtocolError(
        f"Header mismatch: {header} header {fault}", code=HEADER_MISMATCH, request_id=request_id
    )


def quoted(value: str) -> str:
    """Return a value for a message: in quotes, control characters escaped, and not too long."""
    return repr(value if len(value) <= MAX_SHOWN else value[: MAX_SHOWN - 1] + "…")
