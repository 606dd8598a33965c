"""The standard headers of 2026-07-28: how a value is written, and that headers say what the body says."""

import base64
import json
from collections.abc import Sequence
from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.errors import LocalProtocolError
from stdio_broker.protocol.headers import (
    HEADER_MISMATCH,
    MAX_SHOWN,
    NAME_MEMBERS,
    check_no_duplicates,
    check_standard_headers,
    decode_value,
    encode_value,
    quoted,
    repeat_plainly,
)
from stdio_broker.protocol.jsonrpc import Members, object_members
from stdio_broker.protocol.revisions import MODERN_VERSION

Fields = list[tuple[bytes, bytes]]

STANDARD = ["mcp-protocol-version", "mcp-method", "mcp-name"]

#: Few characters, so that two of them are often nearly the same.
_NAMES = st.one_of(st.text("aA =?\té", max_size=3), st.sampled_from(["=?base64?YQ==?=", "=?base64??="]))

#: Values as the specification encodes them ("Value Encoding", examples).
EXAMPLES = [
    ("us-west1", "us-west1"),
    ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
    (" padded ", "=?base64?IHBhZGRlZCA=?="),
    ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
    ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
]


def _params(members: dict[str, object]) -> Members:
    params = object_members(msgspec.Raw(json.dumps(members).encode()))
    assert params is not None
    return params


def _fields(method: str, name: str | None = None, version: str = MODERN_VERSION) -> Fields:
    fields = [(b"host", b"x"), (b"mcp-protocol-version", version.encode()), (b"mcp-method", method.encode())]
    return fields if name is None else [*fields, (b"mcp-name", name.encode("latin-1"))]


def _replaced(fields: Sequence[tuple[bytes, bytes]], header: str, value: bytes) -> Fields:
    return [(name, value if name == header.encode() else old) for name, old in fields]


def _refusal(fields: Fields, method: str = "tools/call", params: dict[str, object] | None = None) -> str:
    """Return the message of the error that this request gets; the rest of the error is checked here."""
    body: dict[str, object] = {"name": "add"} if params is None else params
    with pytest.raises(LocalProtocolError) as caught:
        check_standard_headers(fields, method, _params(body), MODERN_VERSION, b'"seven"')
    assert caught.value.code == HEADER_MISMATCH == -32020
    assert caught.value.request_id == b'"seven"'
    return str(caught.value)


@pytest.mark.parametrize(("text", "value"), EXAMPLES)
def test_values_are_written_as_in_the_examples_of_the_specification(text: str, value: str) -> None:
    """MCP 2026-07-28, "Value Encoding"."""
    assert encode_value(text) == value
    assert decode_value(value) == text


@given(text=st.text())
def test_any_text_comes_back_from_its_encoding(text: str) -> None:
    """MCP 2026-07-28, "Value Encoding"."""
    assert decode_value(encode_value(text)) == text


@given(
    text=st.sampled_from(
        ["=?base64?", "?=", "=?base64?=", "=?base64??=", "=?base64?YQ==?=", "\t", "a\tb", ""]
    )
)
def test_text_that_looks_like_an_encoding_comes_back_too(text: str) -> None:
    """MCP 2026-07-28, "Value Encoding": to avoid ambiguity it is encoded."""
    assert decode_value(encode_value(text)) == text


@given(text=st.text())
def test_an_encoded_value_may_stand_in_a_header(text: str) -> None:
    """RFC 9110, 5.5: no control characters, and what is at the ends is not white space."""
    value = encode_value(text)
    assert all(character == "\t" or " " <= character <= "~" for character in value)
    assert value == value.strip()


@given(payload=st.one_of(st.text("ABab01+/=-_ ", max_size=9), st.binary(max_size=6).map(base64.b64encode)))
def test_no_two_encodings_mean_the_same(payload: str | bytes) -> None:
    """Ours (section 8 of the matrix): strict base64, or two headers could mean the same name."""
    value = f"=?base64?{payload if isinstance(payload, str) else payload.decode()}?="
    try:
        text = decode_value(value)
    except ValueError:
        return
    assert value == f"=?base64?{base64.b64encode(text.encode()).decode()}?="


@pytest.mark.parametrize(
    "payload",
    [
        "YQ",  # no padding
        "YQ=",  # half of it
        "YQ===",  # too much of it
        "=YQ=",  # in the wrong place
        "YR==",  # bits beyond the last byte
        "Y Q=",  # a space
        "a-_b",  # the alphabet for URLs
        "YQ==YQ==",  # two in one
        "/w==",  # no UTF-8
        "7aCA",  # half of a pair of surrogates
    ],
)
def test_a_malformed_encoding_is_an_error(payload: str) -> None:
    """MCP 2026-07-28, "Server Validation": malformed headers are refused."""
    with pytest.raises(ValueError, match="expected canonical base64 of UTF-8"):
        decode_value(f"=?base64?{payload}?=")


@pytest.mark.parametrize(
    "value",
    [
        "=?base64?YQ==",
        "YQ==?=",
        "=?BASE64?YQ==?=",
        "x=?base64?YQ==?=",
        "=?base64?YQ==?=x",
        "=?base64?=",
        "?=",
    ],
)
def test_what_is_not_an_encoding_as_a_whole_is_literal(value: str) -> None:
    """MCP 2026-07-28, "Value Encoding": the markers are case-sensitive, prefix and suffix."""
    assert decode_value(value) == value


def test_an_empty_encoding_is_empty_text() -> None:
    assert decode_value("=?base64??=") == ""


@pytest.mark.parametrize("value", ["name", "=?base64?bmFtZQ==?="])
def test_white_space_around_a_value_is_not_part_of_it(value: str) -> None:
    """RFC 9110, 5.5; white space inside is."""
    assert decode_value(f" \t{value}\t ") == "name"
    assert decode_value(" a \tb ") == "a \tb"


@pytest.mark.parametrize("character", ["\0", "\n", "\r", "\x1f", "\x7f", "\x85", "\xa0", "é"])
def test_a_value_with_other_characters_is_an_error(character: str) -> None:
    """MCP 2026-07-28, "Server Validation": a header value that contains invalid characters."""
    for value in (f"a{character}b", character, f"=?base64?YQ=={character}?="):
        with pytest.raises(ValueError, match="visible ASCII"):
            decode_value(value)


def test_methods_that_have_a_name_are_those_of_the_specifications() -> None:
    """MCP 2026-07-28, "Standard Request Headers"; SEP-2663, "Streamable HTTP: Routing Headers"."""
    tasks = dict.fromkeys(("tasks/get", "tasks/update", "tasks/cancel"), "taskId")
    assert {"tools/call": "name", "prompts/get": "name", "resources/read": "uri", **tasks} == NAME_MEMBERS


@pytest.mark.parametrize(("method", "member"), NAME_MEMBERS.items())
def test_headers_that_say_what_the_body_says_pass(method: str, member: str) -> None:
    """MCP 2026-07-28, "Standard Request Headers"; SEP-2663 for tasks."""
    for name in ("add", "file:///a b", "größe"):
        fields = _fields(method, encode_value(name))
        check_standard_headers(fields, method, _params({member: name}), MODERN_VERSION, b"1")
    assert "does not match" in _refusal(_fields(method, "sub"), method, {member: "add"})
    assert "is missing" in _refusal(_fields(method), method, {member: "add"})


@pytest.mark.parametrize("header", STANDARD)
def test_white_space_around_a_standard_header_is_accepted(header: str) -> None:
    """RFC 9110, 5.5."""
    fields = [
        (name, b" \t" + value + b"\t" if name == header.encode() else value)
        for name, value in _fields("tools/call", "add")
    ]
    check_standard_headers(fields, "tools/call", _params({"name": "add"}), MODERN_VERSION, b"1")


def test_a_version_is_compared_with_that_of_the_body_whatever_it_is() -> None:
    """Section 8 of the matrix, 5: whether it is supported is asked later."""
    check_standard_headers(_fields("x", version="2099-01-01"), "x", {}, "2099-01-01", b"1")


@pytest.mark.parametrize("header", STANDARD)
def test_a_missing_standard_header_is_refused(header: str) -> None:
    """MCP 2026-07-28, "Server Validation"."""
    fields = [(name, value) for name, value in _fields("tools/call", "add") if name != header.encode()]
    message = _refusal(fields)
    assert message.lower().startswith(f"header mismatch: {header} header is missing; expected body value ")


@pytest.mark.parametrize("header", STANDARD)
def test_a_standard_header_that_stands_twice_is_refused_even_if_both_are_right(header: str) -> None:
    """Section 8 of the matrix, 1: readers of the first copy and of the last copy may differ."""
    fields = _fields("tools/call", "add")
    fields += [(name, value) for name, value in fields if name == header.encode()]
    assert "more than once" in _refusal(fields)
    with pytest.raises(LocalProtocolError, match=f"{header} header is there more than once") as caught:
        check_no_duplicates(fields, b"7")
    assert (caught.value.code, caught.value.request_id) == (HEADER_MISMATCH, b"7")


def test_other_headers_may_stand_twice() -> None:
    """RFC 9110, 5.3; ours is only what the body repeats."""
    check_no_duplicates([*_fields("tools/call", "add"), (b"accept", b"a"), (b"accept", b"b")], b"1")


@pytest.mark.parametrize("header", STANDARD)
@pytest.mark.parametrize("value", [b"", b"other", b"caf\xe9", b"a\0", b"add, add", b"tools/call,tools/call"])
def test_a_standard_header_that_says_something_else_is_refused(header: str, value: bytes) -> None:
    """MCP 2026-07-28, "Server Validation"."""
    message = _refusal(_replaced(_fields("tools/call", "add"), header, value))
    assert message.lower().startswith(f"header mismatch: {header} header value ")
    assert quoted(value.decode("latin-1")) in message


@pytest.mark.parametrize(
    ("header", "value"), [("mcp-method", b"Tools/call"), ("mcp-name", b"Add"), ("mcp-name", b"ADD")]
)
def test_values_are_case_sensitive(header: str, value: bytes) -> None:
    """MCP 2026-07-28, "Case Sensitivity"."""
    assert "does not match" in _refusal(_replaced(_fields("tools/call", "add"), header, value))


def test_the_message_is_that_of_the_specification() -> None:
    """MCP 2026-07-28, "Server Validation", example."""
    message = _refusal(_fields("tools/call", "foo"), params={"name": "bar"})
    assert message == "Header mismatch: Mcp-Name header value 'foo' does not match body value 'bar'"


def test_a_long_value_is_shown_in_part() -> None:
    """Ours: the answer is not an echo of what was sent."""
    message = _refusal(_fields("tools/call", "f" * 5000), params={"name": "b" * 5000})
    assert len(message) < 100 + 2 * MAX_SHOWN
    assert "f" * (MAX_SHOWN - 1) + "…" in message


@pytest.mark.parametrize("header", ["mcp-protocol-version", "mcp-method"])
def test_only_names_may_be_encoded(header: str) -> None:
    """MCP 2026-07-28, "Server Validation": Mcp-Name and Mcp-Param-* permit the encoding."""
    fields = _fields("tools/call", "add")
    (value,) = [value for name, value in fields if name == header.encode()]
    encoded = b"=?base64?" + base64.b64encode(value) + b"?="
    assert "does not match" in _refusal(_replaced(fields, header, encoded))


def test_a_malformed_encoding_of_a_name_is_refused() -> None:
    """MCP 2026-07-28, "Server Validation"."""
    assert "is malformed: expected canonical base64" in _refusal(_fields("tools/call", "=?base64?YWRk=?="))


def test_a_name_that_looks_like_an_encoding_has_to_be_encoded() -> None:
    """MCP 2026-07-28, "Value Encoding": to avoid ambiguity."""
    name = "=?base64?YWRk?="
    fields = _fields("tools/call", encode_value(name))
    check_standard_headers(fields, "tools/call", _params({"name": name}), MODERN_VERSION, b"1")
    assert "'add' does not match" in _refusal(_fields("tools/call", name), params={"name": name})


@pytest.mark.parametrize("params", [{}, {"name": 7}, {"name": None}])
def test_a_name_that_the_body_lacks_is_not_asked_for_but_may_not_be_invented(
    params: dict[str, object],
) -> None:
    """Ours: its absence is for the child to judge; a header must have a counterpart."""
    check_standard_headers(_fields("tools/call"), "tools/call", _params(params), MODERN_VERSION, b"1")
    assert "'add' has no counterpart in the body" in _refusal(_fields("tools/call", "add"), params=params)


@pytest.mark.parametrize("method", ["tools/list", "server/discover", "tasks/list", "vendor/call"])
def test_a_name_means_nothing_with_a_method_that_has_none(method: str) -> None:
    """MCP 2026-07-28, "Standard Request Headers": Mcp-Name is for some methods."""
    params = _params({"name": "add", "taskId": "1", "uri": "x:"})
    check_standard_headers(_fields(method), method, params, MODERN_VERSION, b"1")
    check_standard_headers(_fields(method, "=?base64?no?="), method, params, MODERN_VERSION, b"1")


@pytest.mark.parametrize("name", ["", "add", "tool-1.x", "a b", "~!", "Q" * 5000])
def test_a_plain_name_is_seen_to_be_repeated_without_being_read(name: str) -> None:
    """Ours: that is nearly every request."""
    values = dict(_fields("tools/call", name))
    assert repeat_plainly(values, "tools/call", name, MODERN_VERSION)
    assert not repeat_plainly(values, "tools/call", name + "x", MODERN_VERSION)
    assert not repeat_plainly(values, "tools/call", None, MODERN_VERSION)
    assert not repeat_plainly(values, "prompts/get", name, MODERN_VERSION)
    assert not repeat_plainly(values, "tools/call", name, "2025-11-25")
    assert repeat_plainly(dict(_fields("vendor/x", name)), "vendor/x", None, MODERN_VERSION)


@pytest.mark.parametrize("missing", STANDARD)
def test_what_is_missing_is_not_repeated(missing: str) -> None:
    """MCP 2026-07-28, "Server Validation"."""
    values = dict(_fields("tools/call", "add"))
    del values[missing.encode()]
    assert not repeat_plainly(values, "tools/call", "add", MODERN_VERSION)


def test_a_version_that_is_none_of_ours_is_left_to_the_check() -> None:
    """Ours: it is refused later, for what it is."""
    values = dict(_fields("tools/list", version="2099-01-01"))
    assert not repeat_plainly(values, "tools/list", None, "2099-01-01")


@given(
    method=st.one_of(st.sampled_from(["tools/call", "tools/list", "x"]), _NAMES),
    name=_NAMES,
    sent=st.one_of(st.none(), _NAMES),
    written=st.sampled_from(["utf-8", "latin-1"]),
)
def test_what_is_seen_to_be_repeated_would_pass_the_check(
    method: str, name: str, sent: str | None, written: str
) -> None:
    """Ours: the quick look takes nothing that the check refuses. See below for what that takes."""
    fields = [
        (b"mcp-protocol-version", MODERN_VERSION.encode()),
        (b"mcp-method", method.encode(written)),
        (b"mcp-name", (name if sent is None else sent).encode(written)),
    ]
    if repeat_plainly(dict(fields), method, name, MODERN_VERSION):
        check_standard_headers(fields, method, _params({"name": name}), MODERN_VERSION, b"1")


@given(names=st.one_of(st.tuples(_NAMES, _NAMES), _NAMES.map(lambda name: (name, name))))
def test_a_request_passes_if_and_only_if_its_header_stands_for_the_name_in_its_body(
    names: tuple[str, str],
) -> None:
    """MCP 2026-07-28, "Server Validation"."""
    sent, body = names
    check = partial(
        check_standard_headers,
        _fields("tools/call", encode_value(sent)),
        "tools/call",
        _params({"name": body}),
        MODERN_VERSION,
        b"1",
    )
    if sent == body:
        check()
    else:
        with pytest.raises(LocalProtocolError, match="Mcp-Name"):
            check()
