"""JSON-RPC envelopes: what crosses, crosses to the letter; what is wrong raises one documented error."""

import contextlib
import json
import re
import time
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stdio_broker.errors import LocalProtocolError, RemoteProtocolError
from stdio_broker.protocol.decoding import (
    MAX_MEMBERS,
    MAX_REPLACED_SURROGATES,
    SMALL_BYTES,
    UTF8_CHECK_BYTES,
)
from stdio_broker.protocol.jsonrpc import (
    INVALID_REQUEST,
    PARSE_ERROR,
    Message,
    Notification,
    Request,
    Response,
    cancellation,
    encode,
    error_response,
    find_response_id,
    object_members,
    parse_body,
    parse_line,
    result_response,
    string_member,
)

from .strategies import ids, json_objects, json_strings, json_values, meaning, rendered, white_space

#: What the supervisor keeps of each end of an over-long line (`supervisor.splitter`, a sibling of protocol).
EDGE_BYTES = 4096

# What no member of the envelope is called, so that it can stand anywhere in one.
_unknown_names = st.sampled_from([b'"_meta"', b'"x"', '"é"'.encode(), b'"result2"', b'""'])


@st.composite
def _envelopes(draw: st.DrawFn, *known: tuple[bytes, st.SearchStrategy[bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the members of an envelope, as written, in any order, unknown ones among them."""
    members = {b'"jsonrpc"': b'"2.0"'}
    members.update({name: draw(values) for name, values in known})
    members.update(draw(st.dictionaries(_unknown_names, json_values, max_size=2)))
    return draw(st.permutations(list(members.items())))


_methods = st.sampled_from([b'"tools/call"', b'"x/unknown"', b'""', '"ü"'.encode()])
_requests = _envelopes((b'"id"', ids), (b'"method"', _methods), (b'"params"', json_objects))
_notifications = _envelopes((b'"method"', _methods), (b'"params"', json_values))
_results = _envelopes((b'"id"', ids), (b'"result"', json_values))
_errors = _envelopes((b'"id"', ids), (b'"error"', json_objects))
_any_envelope = st.one_of(_requests, _notifications, _results, _errors)


def _parse_one(body: bytes) -> Message:
    message = parse_body(body)
    assert not isinstance(message, list)
    return message


def _by_name(members: list[tuple[bytes, bytes]]) -> dict[str, bytes]:
    return {json.loads(name): value for name, value in members}


# What is parsed.


@given(members=_requests, space=white_space)
def test_a_request_keeps_its_id_its_method_and_the_bytes_of_every_member(
    members: list[tuple[bytes, bytes]], space: bytes
) -> None:
    """Our rule (design decision 2): what we do not understand crosses untouched."""
    message = _parse_one(space + rendered(members, space) + space)
    assert isinstance(message, Request)
    written = _by_name(members)
    assert message.id == written["id"]
    assert message.method == json.loads(written["method"])
    assert {name: bytes(value) for name, value in message.members.items()} == written


@given(members=_notifications)
def test_a_message_with_a_method_and_no_id_is_a_notification(members: list[tuple[bytes, bytes]]) -> None:
    """JSON-RPC 2.0, 4.1."""
    message = _parse_one(rendered(members))
    assert isinstance(message, Notification)
    assert message.method == json.loads(_by_name(members)["method"])


@given(members=st.one_of(_results, _errors))
def test_a_message_with_a_result_or_an_error_is_a_response(members: list[tuple[bytes, bytes]]) -> None:
    """JSON-RPC 2.0, 5."""
    message = _parse_one(rendered(members))
    assert isinstance(message, Response)
    assert message.id == _by_name(members)["id"]


@pytest.mark.parametrize("identifier", ["", '"id":null,'])
def test_an_error_may_have_no_id(identifier: str) -> None:
    """JSON-RPC 2.0, 5: the id is null if it could not be detected."""
    message = _parse_one(f'{{"jsonrpc":"2.0",{identifier}"error":{{}}}}'.encode())
    assert isinstance(message, Response)
    assert message.id == b"null"


@given(members=_any_envelope, space=white_space)
def test_a_body_and_a_line_are_read_alike(members: list[tuple[bytes, bytes]], space: bytes) -> None:
    data = rendered(members, space)
    assert [type(message) for message in parse_line(data)] == [type(_parse_one(data))]


def test_a_name_written_with_escapes_is_the_same_name() -> None:
    """RFC 8259, 8.3."""
    message = _parse_one(rb'{"jsonrpc":"2.0","\u0069d":7,"m\u0065thod":"\u0070ing"}')
    assert isinstance(message, Request)
    assert (message.id, message.method) == (b"7", "ping")
    assert encode(message.members) == rb'{"jsonrpc":"2.0","id":7,"method":"\u0070ing"}'


def test_a_member_that_stands_twice_is_forwarded_once_with_the_value_that_we_read() -> None:
    """Our rule (design decision 2): duplicate keys must not mean two things."""
    message = _parse_one(b'{"jsonrpc":"2.0","id":1,"method":"a","id":2,"method":"b"}')
    assert isinstance(message, Request)
    assert (message.id, message.method) == (b"2", "b")
    assert encode(message.members) == b'{"jsonrpc":"2.0","id":2,"method":"b"}'


# What is forwarded.


@given(members=_any_envelope)
def test_a_message_on_one_line_is_forwarded_byte_for_byte(members: list[tuple[bytes, bytes]]) -> None:
    data = rendered([(name, value.translate(None, b"\r\n")) for name, value in members])
    assert encode(_parse_one(data).members) == data


@given(members=_any_envelope, space=white_space)
def test_a_pretty_printed_message_becomes_one_line_with_the_same_meaning(
    members: list[tuple[bytes, bytes]], space: bytes
) -> None:
    """MCP 2025-11-25, basic/transports, "stdio": no newline inside a message."""
    data = rendered(members, b"\r\n  " + space)
    line = encode(_parse_one(data).members)
    assert b"\n" not in line
    assert b"\r" not in line
    assert meaning(line) == meaning(data)


# Surrogates.

_units = st.sampled_from(
    [
        rb"\ud800",
        rb"\uDBff",
        rb"\udc00",
        rb"\uDFff",
        rb"\\",
        rb"\n",
        rb"\"",
        rb"\u0041",
        rb"\uFFFF",
        b"ud800",
        b"x",
        "é".encode(),
        rb"\ud83d\ude00",
    ]
)


def _repaired_by_the_rules(pieces: list[bytes]) -> bytes:
    """Return the pieces with U+FFFD for each half of a pair that has no other half. Unicode, 3.9."""
    escapes = [piece for whole in pieces for piece in re.findall(rb"\\u....|\\.|[^\\]+", whole)]
    high = [re.fullmatch(rb"\\u[dD][89abAB]..", escape) is not None for escape in escapes]
    low = [re.fullmatch(rb"\\u[dD][c-fC-F]..", escape) is not None for escape in escapes]
    repaired = []
    for index, escape in enumerate(escapes):
        lone_high = high[index] and not (index + 1 < len(escapes) and low[index + 1])
        lone_low = low[index] and not (index > 0 and high[index - 1])
        repaired.append(rb"\ufffd" if lone_high or lone_low else escape)
    return b"".join(repaired)


@given(pieces=st.lists(_units, max_size=8))
@example(pieces=[rb"\\", rb"\ud800", rb"\\", b"ud800"])
def test_half_a_pair_of_surrogates_is_replaced_and_nothing_else_is(pieces: list[bytes]) -> None:
    r"""Our rule: JavaScript writes such halves, and strict decoders refuse the whole message for one."""
    text = b'"' + b"".join(pieces) + b'"'
    message = _parse_one(b'{"jsonrpc":"2.0","method":"m","params":{"a":[' + text + b"]}}")
    expected = b'{"a":["' + _repaired_by_the_rules(pieces) + b'"]}'
    assert bytes(message.members["params"]) == expected


def test_half_a_pair_is_replaced_in_names_and_in_batches_too() -> None:
    line = rb'[{"jsonrpc":"2.0","method":"m","\ud800":"\udc00"},{"jsonrpc":"2.0","id":1,"result":"\uDABC"}]'
    assert [encode(message.members) for message in parse_line(line)] == [
        b'{"jsonrpc":"2.0","method":"m","\xef\xbf\xbd":"\\ufffd"}',
        rb'{"jsonrpc":"2.0","id":1,"result":"\ufffd"}',
    ]


def test_replacing_takes_no_longer_for_a_message_full_of_escapes() -> None:
    """Our rule: no message may hold up the loop. One call per escape took ten seconds for 16 MiB."""
    text = rb"\n" * (1024 * 1024) + rb"\ud800"
    started = time.process_time()
    _parse_one(b'{"jsonrpc":"2.0","method":"' + text + b'"}')
    assert time.process_time() - started < 0.5


def test_a_message_with_more_halves_than_anybody_writes_is_refused() -> None:
    """Our bound: each one replaced takes time."""
    text = rb"\ud800" * MAX_REPLACED_SURROGATES
    _parse_one(b'{"jsonrpc":"2.0","method":"' + text + b'"}')
    with pytest.raises(LocalProtocolError, match="not valid JSON"):
        parse_body(b'{"jsonrpc":"2.0","method":"' + text + rb'\ud800"}')


# Batches.


@given(envelopes=st.lists(_any_envelope, min_size=1, max_size=4), space=white_space)
def test_a_batch_is_its_messages_in_their_order(
    envelopes: list[list[tuple[bytes, bytes]]], space: bytes
) -> None:
    """MCP 2025-03-26, basic, "Batching"."""
    data = space + b"[" + (space + b"," + space).join(rendered(each) for each in envelopes) + space + b"]"
    expected = [_parse_one(rendered(each)) for each in envelopes]
    batch = parse_body(data)
    assert isinstance(batch, list)
    for found in (batch, parse_line(data)):
        assert [type(message) for message in found] == [type(message) for message in expected]
        assert [encode(message.members) for message in found] == [
            encode(message.members) for message in expected
        ]


def test_an_empty_batch_of_a_client_is_refused_and_one_of_a_child_says_nothing() -> None:
    """JSON-RPC 2.0, 6."""
    with pytest.raises(LocalProtocolError, match="empty") as caught:
        parse_body(b" [ ] ")
    assert caught.value.code == INVALID_REQUEST
    assert parse_line(b" [ ] ") == []


@pytest.mark.parametrize("wrong", [b"1", b"[]", b"{}", b'{"jsonrpc":"2.0","id":null,"method":"m"}'])
def test_a_wrong_message_costs_a_client_its_batch_and_a_child_that_message(wrong: bytes) -> None:
    """Our rule: a client is told before anything is done; somebody waits for what a child answers."""
    good = b'{"jsonrpc":"2.0","id":1,"result":{}}'
    batch = b"[" + wrong + b"," + good + b"]"
    with pytest.raises(LocalProtocolError):
        parse_body(batch)
    (answer,) = parse_line(batch)
    assert encode(answer.members) == good
    with pytest.raises(RemoteProtocolError):
        parse_line(b"[" + wrong + b"]")


def test_a_batch_that_is_not_utf_8_is_refused_whole() -> None:
    """Our rule: whoever repairs a line must see it, or what could be repaired would be lost."""
    with pytest.raises(RemoteProtocolError, match="not UTF-8"):
        parse_line(b'[{"jsonrpc":"2.0","id":1,"result":"\xff"},{"jsonrpc":"2.0","id":2,"result":1}]')


# What is refused.


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"[", "truncated"),
        (b"{]", "malformed"),
        (b"[{},]", "trailing comma"),
        (b'{"jsonrpc":"2.0","method":"m","params":[1,]}', "trailing comma"),
        (b'{"jsonrpc":"2.0","method":"m","params":"\\ud800}', "malformed|truncated"),
        (b'{"jsonrpc":"2.0","method":"m"}{}', "trailing characters"),
        (b'\xef\xbb\xbf{"jsonrpc":"2.0","method":"m"}', "malformed"),
        (b'{"jsonrpc":"2.0","method":"\xff"}', "not UTF-8"),
        (b'{"jsonrpc":"2.0","method":"m","params":{"a":"\xed\xa0\x80"}}', "not UTF-8"),
        (b'{"\xff":1}', "not UTF-8"),
        (b'{"jsonrpc":"2.0","method":"m"}\xc3', "not UTF-8"),
        (b'[{"jsonrpc":"2.0","method":"\xff"}]', "not UTF-8"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a":"\0\\ud800"}', "malformed"),
    ],
)
def test_what_is_not_json_is_a_parse_error(body: bytes, reason: str) -> None:
    """JSON-RPC 2.0, 5.1: -32700."""
    with pytest.raises(LocalProtocolError, match=reason) as local:
        parse_body(body)
    with pytest.raises(RemoteProtocolError, match=reason) as remote:
        parse_line(body)
    assert local.value.code == remote.value.code == PARSE_ERROR
    assert local.value.request_id is None


@pytest.mark.parametrize("body", [b"1", b"null", b'"text"', b"true", b"[1]", b"[[]]"])
def test_json_that_is_no_object_is_an_invalid_request(body: bytes) -> None:
    """JSON-RPC 2.0, 5.1: -32600."""
    with pytest.raises(LocalProtocolError, match="object") as caught:
        parse_body(body)
    assert caught.value.code == INVALID_REQUEST
    with pytest.raises(RemoteProtocolError):
        parse_line(body)


@pytest.mark.parametrize(
    ("body", "reason", "request_id"),
    [
        (b"{}", '"jsonrpc": "2.0"', None),
        (b'{"id":1,"method":"m"}', '"jsonrpc": "2.0"', b"1"),
        (b'{"jsonrpc":"1.0","id":"a","method":"m"}', '"jsonrpc": "2.0"', b'"a"'),
        (b'{"jsonrpc":2.0,"id":[1],"method":"m"}', '"jsonrpc": "2.0"', None),
        (b'{"jsonrpc":"2.0","id":1,"method":2}', 'a string as "method"', b"1"),
        (b'{"jsonrpc":"2.0","method":null}', 'a string as "method"', None),
        (b'{"jsonrpc":"2.0","id":null,"method":"m"}', 'a string or a number as "id"', None),
        (b'{"jsonrpc":"2.0","id":true,"method":"m"}', 'a string or a number as "id"', None),
        (b'{"jsonrpc":"2.0","id":{},"method":"m"}', 'a string or a number as "id"', None),
        (b'{"jsonrpc":"2.0","id":-7}', '"method", "result" or "error"', b"-7"),
    ],
)
def test_json_that_is_no_json_rpc_is_an_invalid_request_and_keeps_a_legible_id(
    body: bytes, reason: str, request_id: bytes | None
) -> None:
    """JSON-RPC 2.0, 4 and 5.1; MCP 2025-11-25, basic, "Requests": the id must not be null."""
    with pytest.raises(LocalProtocolError, match=re.escape(reason)) as local:
        parse_body(body)
    assert (local.value.code, local.value.request_id) == (INVALID_REQUEST, request_id)
    with pytest.raises(RemoteProtocolError, match=re.escape(reason)) as remote:
        parse_line(body)
    assert remote.value.code == INVALID_REQUEST


def _mutated(text: bytes, at: int, removed: int, inserted: bytes) -> bytes:
    at %= len(text) + 1
    return text[:at] + inserted + text[at + removed :]


_crumbs = st.one_of(
    st.binary(max_size=3),
    st.sampled_from([b"[" * 2000, b'{"":' * 2000, rb"\ud800", rb"\\", b'"', b'"id":', b",", b"\xff"]),
)
_mutants = st.builds(_mutated, _any_envelope.map(rendered), st.integers(0), st.integers(0, 3), _crumbs)


@given(data=st.one_of(st.binary(), _mutants, _mutants.map(lambda mutant: b"[" + mutant + b"]")))
def test_no_input_raises_anything_but_the_documented_errors(data: bytes) -> None:
    with contextlib.suppress(LocalProtocolError):
        parse_body(data)
    try:
        messages = parse_line(data)
    except RemoteProtocolError:
        return
    for message in messages:
        # What was taken can be sent on, whatever it is.
        assert json.loads(encode(message.members)) is not None


@given(depth=st.integers(800, 1100))
def test_any_depth_is_either_taken_or_refused(depth: int) -> None:
    """The interpreter's limit counts our own frames too, so a depth may pass one decoder and not the next."""
    try:
        message = _parse_one(
            b'{"jsonrpc":"2.0","method":"m","params":' + b'{"_meta":' * depth + b"1" + b"}" * depth + b"}"
        )
    except LocalProtocolError:
        return
    encode(message.members)
    object_members(message.members["params"])


# What each message may cost.


def _peak_bytes(body: bytes) -> int:
    tracemalloc.start()
    try:
        parse_body(body)
    except LocalProtocolError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"1," * 1_000_000 + b"1]",
        b"{" + b",".join(b'"%x":1' % number for number in range(200_000)) + b"}",
        b'{"jsonrpc":"2.0","method":"m","a":"' + "é🙂".encode() * 300_000 + b'"}',
    ],
    ids=["elements", "members", "text"],
)
def test_no_body_makes_us_build_more_than_its_own_size(body: bytes) -> None:
    """Our bound: a list of ones took 37 times its size, an object of tiny members 17 times, emoji 5 times."""
    assert _peak_bytes(body) < len(body)


def test_a_large_message_with_too_many_members_is_refused() -> None:
    names = [b'"%d":1' % number for number in range(MAX_MEMBERS - 2)]
    padding = b" " * SMALL_BYTES
    fits = b'{"jsonrpc":"2.0","method":"m",' + b",".join(names) + padding + b"}"
    assert encode(_parse_one(fits).members) == fits.replace(padding, b"")
    with pytest.raises(LocalProtocolError, match=f"at most {MAX_MEMBERS} members") as caught:
        parse_body(fits.replace(padding, b',"x":1' + padding))
    assert caught.value.code == INVALID_REQUEST


def test_a_batch_of_too_many_messages_is_refused() -> None:
    message = b'{"jsonrpc":"2.0","method":"m"}'
    batch = parse_body(b"[" + b",".join([message] * MAX_MEMBERS) + b"]")
    assert isinstance(batch, list)
    assert len(batch) == MAX_MEMBERS
    with pytest.raises(LocalProtocolError, match=f"at most length {MAX_MEMBERS}") as caught:
        parse_body(b"[" + b",".join([message] * (MAX_MEMBERS + 1)) + b"]")
    assert caught.value.code == INVALID_REQUEST


@given(length=st.integers(UTF8_CHECK_BYTES - 4, UTF8_CHECK_BYTES + 4))
def test_a_character_across_the_border_of_two_checks_is_one_character(length: int) -> None:
    head = b'{"jsonrpc":"2.0","method":"'
    text = b"x" * (length - len(head)) + "🙂".encode()
    message = _parse_one(head + text + b'"}')
    assert bytes(message.members["method"]) == b'"' + text + b'"'
    with pytest.raises(LocalProtocolError, match="not UTF-8"):
        parse_body(head + text[:-1] + b'"}')


# What we say ourselves.


@given(request_id=st.one_of(st.none(), ids), code=st.integers(-(2**53), 2**53), text=st.text())
def test_an_error_of_our_own_is_valid_and_names_the_request_to_the_letter(
    request_id: bytes | None, code: int, text: str
) -> None:
    """JSON-RPC 2.0, 5.1."""
    text = text.encode(errors="replace").decode()
    line = error_response(request_id, code, text)
    (response,) = parse_line(line)
    assert isinstance(response, Response)
    assert response.id == (request_id or b"null")
    assert json.loads(line)["error"] == {"code": code, "message": text}


def test_facts_about_an_error_stand_in_its_data() -> None:
    line = error_response(b"1", -1, "text", {"reason": "r", "exitCode": 3})
    assert line == (
        b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"text","data":{"reason":"r","exitCode":3}}}'
    )


@given(request_id=ids)
def test_a_result_of_our_own_is_valid_and_names_the_request_to_the_letter(request_id: bytes) -> None:
    assert result_response(request_id, {"a": 1}) == (
        b'{"jsonrpc":"2.0","id":' + request_id + b',"result":{"a":1}}'
    )


@given(request_id=ids)
def test_a_cancellation_of_our_own_names_the_request_to_the_letter(request_id: bytes) -> None:
    """MCP 2025-11-25, basic/utilities/cancellation."""
    assert cancellation(request_id, "why") == (
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":'
        + request_id
        + b',"reason":"why"}}'
    )


# One level deeper.


@given(value=json_values)
def test_only_an_object_has_members(value: bytes) -> None:
    message = _parse_one(b'{"jsonrpc":"2.0","method":"m","params":' + value + b"}")
    members = object_members(message.members["params"])
    if value.startswith(b"{"):
        assert members is not None
        assert set(members) == {name for name, _ in json.loads(value, object_pairs_hook=list)}
    else:
        assert members is None


@given(value=json_values)
def test_only_a_string_member_is_a_string(value: bytes) -> None:
    members = _parse_one(b'{"jsonrpc":"2.0","method":"m","x":' + value + b"}").members
    expected = json.loads(value) if value.startswith(b'"') else None
    assert string_member(members, "x") == expected


def test_what_is_not_there_has_no_members_and_is_no_string() -> None:
    assert object_members(None) is None
    assert string_member(None, "x") is None
    assert string_member({}, "x") is None


# Lines of which only the ends are known.


def _ends(line: bytes) -> tuple[bytes, bytes]:
    return line[:EDGE_BYTES], line[-EDGE_BYTES:]


@st.composite
def _long_lines(draw: st.DrawFn) -> bytes:
    """Return a line of a child, one member of it longer than both ends together."""
    members = draw(_any_envelope)
    longest = draw(st.integers(0, len(members) - 1))
    name, value = members[longest]
    if name not in {b'"id"', b'"jsonrpc"', b'"method"'}:
        filler = draw(
            st.sampled_from([b"1,", b'{"id":7},', b'"\\"id\\":7}",', b'"x","id","y",', b'{"a":[],"id":7},'])
        )
        value = b"[" + filler * (2 * EDGE_BYTES // len(filler) + 1) + value + b"]"
        members = [*members[:longest], (name, value), *members[longest + 1 :]]
    return rendered(members, draw(white_space))


@given(line=_long_lines())
def test_the_ends_of_a_line_never_name_an_answer_that_the_line_is_not(line: bytes) -> None:
    """Our rule: a call must not fail for somebody else's line."""
    found = find_response_id(*_ends(line))
    (message,) = parse_line(line)
    if found is not None:
        assert isinstance(message, Response)
        assert message.id == found


_LONG = b'{"content":[{"type":"text","text":"' + b"x" * 3 * EDGE_BYTES + b'","id":8}],"id":9}'


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":5,"result":' + _LONG + b"}",
        b'{"jsonrpc":"2.0","id":5,"error":' + _LONG + b"}",
        b'{"id":5,"jsonrpc":"2.0","result":' + _LONG + b"}",
        b'{"id":5,"result":' + _LONG + b',"jsonrpc":"2.0"}',
        b'{"result":' + _LONG + b',"jsonrpc":"2.0","id":5}',
        b'{"result":' + _LONG + b',"id":5,"jsonrpc":"2.0"}',
        b'{"jsonrpc":"2.0","result":' + _LONG + b',"id":5}',
        b' { "result" : ' + _LONG + b' , "jsonrpc" : "2.0" , "id" : 5 } \r',
    ],
    ids=[
        "python, go, rust, java",
        "error",
        "id first",
        "id, version last",
        "typescript",
        ".net",
        "c",
        "spaced",
    ],
)
def test_an_answer_is_found_however_the_known_sdks_order_its_members(line: bytes) -> None:
    assert find_response_id(*_ends(line)) == b"5"


@pytest.mark.parametrize(
    "line",
    [
        b'{"method":"sampling/createMessage","params":' + _LONG + b',"jsonrpc":"2.0","id":5}',
        b'{"jsonrpc":"2.0","id":5,"method":"sampling/createMessage","params":' + _LONG + b"}",
        b'{"jsonrpc":"2.0","method":"sampling/createMessage","params":' + _LONG + b',"id":5}',
    ],
    ids=["typescript", "python", "id last"],
)
def test_a_question_of_the_child_is_not_taken_for_the_answer_of_the_same_number(line: bytes) -> None:
    """Our rule: both sides number their requests, so both have a number 5."""
    assert find_response_id(*_ends(line)) is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":"5","result":' + _LONG + b"}",
        b'{"jsonrpc":"2.0","x":1,"id":5,"result":' + _LONG + b',"y":1}',
        b'[{"jsonrpc":"2.0","id":5,"result":' + _LONG + b"}]",
        b'{"jsonrpc":"2.0","result":' + _LONG + b"}",
        b"x" * 3 * EDGE_BYTES,
    ],
    ids=["string", "in the middle", "batch", "none", "no JSON"],
)
def test_where_the_ends_do_not_tell_no_id_is_guessed(line: bytes) -> None:
    assert find_response_id(*_ends(line)) is None


@given(head=st.binary(max_size=200), tail=st.binary(max_size=200))
def test_any_ends_are_looked_at_without_an_error(head: bytes, tail: bytes) -> None:
    find_response_id(head, tail)


@pytest.mark.parametrize("filler", [b" ", b",", b', "id"', b',"id": 1 ', b"1"])
def test_no_ends_take_long_to_look_at(filler: bytes) -> None:
    """Our rule: a regular expression on foreign text must be linear."""
    head = b'{"result":' + filler * (EDGE_BYTES // len(filler))
    tail = (b',"id":' + filler * EDGE_BYTES)[:EDGE_BYTES]
    started = time.process_time()
    for _ in range(10):
        find_response_id(head, tail)
        find_response_id(b"{" + filler * EDGE_BYTES, tail)
    assert time.process_time() - started < 0.5


@given(text=json_strings)
def test_the_strings_of_these_tests_are_what_python_reads_too(text: bytes) -> None:
    assert isinstance(json.loads(text), str)
