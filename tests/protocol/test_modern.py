"""What every modern message carries, and `server/discover`."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.errors import LocalProtocolError
from stdio_broker.protocol.capabilities import ClientCapabilities
from stdio_broker.protocol.jsonrpc import INVALID_PARAMS, Members, Request, Response, encode, parse_line
from stdio_broker.protocol.modern import (
    CACHEABLE,
    LOG_LEVELS,
    MAX_CANONICAL_BYTES,
    MAX_ELEMENTS,
    MAY_ASK,
    META_CLIENT_CAPABILITIES,
    META_CLIENT_INFO,
    META_LOG_LEVEL,
    META_SERVER_INFO,
    META_SUBSCRIPTION_ID,
    META_VERSION,
    REMOVED_METHODS,
    RESERVED_PREFIX,
    Discovery,
    array_elements,
    digest_input,
    discover_request,
    encode_with,
    has_modern_meta,
    modern_meta,
    probe_outcome,
    read_request,
    string_elements,
    with_meta,
)
from stdio_broker.protocol.revisions import KNOWN_VERSIONS, MODERN_VERSION

from .strategies import json_objects, json_values, meaning

META = {META_VERSION: MODERN_VERSION, META_CLIENT_CAPABILITIES: {"roots": {}}}


def _request(params: object, method: str = "tools/call") -> Request:
    text = params if isinstance(params, bytes) else json.dumps(params).encode()
    line = b'{"jsonrpc":"2.0","id":"seven","method":%b,"params":%b}' % (json.dumps(method).encode(), text)
    (request,) = parse_line(line)
    assert isinstance(request, Request)
    return request


def _answer(members: object) -> Response:
    (answer,) = parse_line(json.dumps({"jsonrpc": "2.0", "id": 0} | dict(members)).encode())  # type: ignore[call-overload]
    assert isinstance(answer, Response)
    return answer


def test_the_methods_that_may_ask_are_not_removed_and_the_six_lists_are_cacheable() -> None:
    """MCP 2026-07-28, basic/patterns/mrtr and server/utilities/caching."""
    assert len(CACHEABLE) == 6
    assert len(MAY_ASK) == 3
    assert not REMOVED_METHODS & (CACHEABLE | MAY_ASK)
    assert LOG_LEVELS.index("warning") < LOG_LEVELS.index("error")


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"_meta": {META_VERSION: "x"}}, True),
        ({"_meta": {META_VERSION: None}}, True),
        ({"_meta": {META_CLIENT_CAPABILITIES: {}}}, False),
        ({"_meta": 1}, False),
        ({}, False),
        ([], False),
    ],
)
def test_a_message_that_names_its_version_is_modern(params: object, expected: bool) -> None:  # noqa: FBT001
    """Our rule (matrix, 1): whatever the value is, no older client has the name."""
    assert has_modern_meta(_request(params).members) is expected
    assert not has_modern_meta({})


@given(params=json_objects, name=st.sampled_from(["params", "result", "acme"]))
def test_a_member_is_encoded_with_the_message_as_it_would_be_by_itself(params: bytes, name: str) -> None:
    """Ours: one line, and the same as if the member had been encoded first."""
    members: Members = {
        "id": msgspec.Raw(b"1"),
        "params": msgspec.Raw(b"[\n1]"),
        "method": msgspec.Raw(b'"x"'),
    }
    inner = msgspec.json.decode(params, type=Members)
    line = encode_with(members, b"2", name, inner)
    assert line == encode({**members, "id": msgspec.Raw(b"2"), name: msgspec.Raw(encode(inner))})
    assert not {b"\n"[0], b"\r"[0]} & set(line)


def test_a_request_knows_how_much_memory_it_holds() -> None:
    """Ours: what is long is not kept until the answer."""
    request = _request({"_meta": META, "arguments": {"x": "y" * 1000}})
    assert read_request(request).source_bytes == len(request.source) > 1000


def test_a_request_is_read_with_all_that_it_brings() -> None:
    """MCP 2026-07-28, basic, "_meta"; basic/patterns/mrtr."""
    meta = META | {META_LOG_LEVEL: "info", "progressToken": 1, "acme/x": 2}
    request = _request(
        {"_meta": meta, "name": "add", "uri": "u", "requestState": "s", "inputResponses": {"k": {}}}
    )
    modern = read_request(request)
    assert (modern.id, modern.method, modern.members) == (b'"seven"', "tools/call", request.members)
    assert modern.version == MODERN_VERSION
    assert modern.capabilities == ClientCapabilities(roots=True)
    assert modern.log_level == "info"
    assert modern.progress_token == msgspec.Raw(b"1")
    assert (modern.name, modern.request_state) == ("add", "s")
    assert modern.input_responses == {"k": msgspec.Raw(b"{}")}
    assert set(modern.meta) == set(meta)
    assert set(modern.params) == {"_meta", "name", "uri", "requestState", "inputResponses"}


def test_a_request_needs_no_more_than_a_version_and_capabilities() -> None:
    modern = read_request(_request({"_meta": META}, "tools/list"))
    assert (modern.log_level, modern.progress_token, modern.name) == (None, None, None)
    assert (modern.request_state, modern.input_responses) == (None, None)


def test_a_resource_is_named_by_its_uri() -> None:
    """MCP 2026-07-28, basic/transports/streamable-http: Mcp-Name."""
    assert read_request(_request({"_meta": META, "uri": "u", "name": 1}, "resources/read")).name == "u"


def test_an_unknown_method_may_have_members_of_the_same_names() -> None:
    """Our rule (design decision 4): unknown methods cross untouched."""
    request = _request({"_meta": META, "requestState": 1, "inputResponses": []}, "acme/run")
    modern = read_request(request)
    assert (modern.request_state, modern.input_responses) == (None, None)


@pytest.mark.parametrize(
    ("params", "what"),
    [
        ([], "params._meta"),
        ({}, "params._meta"),
        ({"_meta": 1}, "params._meta"),
        ({"_meta": {META_CLIENT_CAPABILITIES: {}}}, META_VERSION),
        ({"_meta": META | {META_VERSION: 2}}, META_VERSION),
        ({"_meta": {META_VERSION: "x"}}, META_CLIENT_CAPABILITIES),
        ({"_meta": META | {META_CLIENT_CAPABILITIES: []}}, META_CLIENT_CAPABILITIES),
        ({"_meta": META | {META_LOG_LEVEL: 1}}, META_LOG_LEVEL),
        ({"_meta": META, "requestState": None}, "requestState"),
        ({"_meta": META, "inputResponses": []}, "inputResponses"),
    ],
)
def test_a_request_without_what_is_required_is_the_fault_of_the_client(params: object, what: str) -> None:
    """MCP 2026-07-28, basic, "_meta": -32602."""
    with pytest.raises(LocalProtocolError, match=what) as caught:
        read_request(_request(params))
    assert caught.value.code == INVALID_PARAMS
    assert caught.value.request_id == b'"seven"'


def _digest(arguments: bytes, method: str = "tools/call") -> bytes:
    params = b'{"_meta":%b,"name":"n","arguments":%b}' % (json.dumps(META).encode(), arguments)
    return digest_input(read_request(_request(params, method)))


def test_a_repeated_request_has_the_same_digest_however_it_is_written() -> None:
    """Our rule (matrix, 4.3); MCP 2026-07-28, basic/patterns/mrtr: a digest of the salient parameters."""
    digest = _digest(b'{ "b" : [1, 2.50, 123456789012345678901234567890], "a\\u0062": {"y":1,"x":null} }')
    assert digest == _digest(b'{"ab":{"x":null,"y":1},"b":[1,2.50,123456789012345678901234567890]}')
    assert digest == (
        b'["tools/call","n",null,{"ab":{"x":null,"y":1},"b":[1,2.50,123456789012345678901234567890]}]'
    )


@pytest.mark.parametrize(
    "other",
    [
        b'{"a":[1,2]}',
        b'{"a":[2.0,1]}',
        b'{"a":[1,2.0],"b":null}',
        b'{"a":[1,2.00]}',
        b'{"A":[1,2.0]}',
    ],
)
def test_another_request_has_another_digest(other: bytes) -> None:
    assert _digest(b'{"a":[1,2.0]}') != _digest(other)


def test_the_method_the_name_and_the_uri_belong_to_the_digest() -> None:
    params = {"_meta": META, "name": "n", "uri": "u"}
    digests = {
        digest_input(read_request(_request(changed, method)))
        for changed in (params, params | {"name": "m"}, params | {"uri": "v"})
        for method in ("tools/call", "prompts/get")
    }
    assert len(digests) == 6


def test_what_answers_the_questions_does_not_belong_to_the_digest() -> None:
    params = {"_meta": META, "name": "n"}
    repeated = params | {"_meta": META | {"progressToken": 5}, "requestState": "s", "inputResponses": {}}
    assert digest_input(read_request(_request(params))) == digest_input(read_request(_request(repeated)))


def test_arguments_that_we_cannot_write_anew_are_the_same_only_to_the_letter() -> None:
    """Our rule: a number that no machine type holds must not end a call."""
    digits = b"9" * 10_000
    assert _digest(b'{"a":%b}' % digits) == _digest(b'{"a":%b}' % digits)
    assert _digest(b'{"a":%b}' % digits) != _digest(b'{ "a":%b}' % digits)


def test_long_arguments_are_the_same_only_to_the_letter() -> None:
    """Our rule: to write them anew would hold everybody for many milliseconds."""
    longest = b'{"a":"%b"}' % (b"x" * (MAX_CANONICAL_BYTES - len(b'{"a":""}')))
    assert _digest(longest) == _digest(b" " + longest)
    assert _digest(longest) != _digest(longest.replace(b":", b": "))
    longer = longest.replace(b"x", b"xx", 1)
    assert _digest(longer) == _digest(longer)
    assert _digest(longer) != _digest(longer.replace(b"xx", b"yy", 1))


@given(arguments=json_objects)
def test_any_arguments_have_a_digest_that_is_json(arguments: bytes) -> None:
    assert json.loads(_digest(arguments))[:3] == ["tools/call", "n", None]


@given(params=json_objects, value=json_values)
def test_meta_is_added_beside_what_is_there_and_all_else_stays(params: bytes, value: bytes) -> None:
    """Our rule (design decision 4)."""
    members = msgspec.json.decode(params, type=Members)
    before = {**members, "_meta": msgspec.Raw(b'{"acme/x":%b,"%b":1}' % (value, META_VERSION.encode()))}
    after = with_meta(before, {META_VERSION: msgspec.Raw(b'"v"')})
    meta = bytes(after.pop("_meta"))
    assert meaning(meta) == meaning(b'{"acme/x":%b,"%b":"v"}' % (value, META_VERSION.encode()))
    assert after == {name: member for name, member in before.items() if name != "_meta"}


def test_meta_that_is_no_object_is_replaced() -> None:
    assert with_meta({"_meta": msgspec.Raw(b"1")}, {}) == {"_meta": msgspec.Raw(b"{}")}


@pytest.mark.parametrize("log_level", [None, "debug"])
def test_the_meta_that_we_write_can_be_read(log_level: str | None) -> None:
    meta = modern_meta(
        version="v",
        client_info=msgspec.Raw(b'{"name":1.00}'),
        capabilities=msgspec.Raw(b'{"roots":{}}'),
        log_level=log_level,
    )
    assert all(name.startswith(RESERVED_PREFIX) for name in meta)
    modern = read_request(_request(encode(with_meta({}, meta))))
    assert (modern.version, modern.log_level) == ("v", log_level)
    assert modern.capabilities == ClientCapabilities(roots=True)
    assert modern.meta[META_CLIENT_INFO] == msgspec.Raw(b'{"name":1.00}')


def test_a_discover_of_our_own_is_a_valid_modern_request() -> None:
    """MCP 2026-07-28, server/discover, "Request"."""
    request = discover_request("broker", "1.2")
    (parsed,) = parse_line(encode(request.members))
    assert isinstance(parsed, Request)
    assert (parsed.id, parsed.method) == (request.id, request.method) == (b"0", "server/discover")
    modern = read_request(parsed)
    assert (modern.version, modern.capabilities) == (MODERN_VERSION, ClientCapabilities())
    assert json.loads(bytes(modern.meta[META_CLIENT_INFO])) == {"name": "broker", "version": "1.2"}


def test_a_child_that_shares_a_version_with_us_is_modern() -> None:
    """MCP 2026-07-28, basic/transports/stdio, "Backward Compatibility"."""
    result = {
        "supportedVersions": ["2099-01-01", MODERN_VERSION, "2025-11-25"],
        "capabilities": {"tools": {}},
        "instructions": "Use it.",
        "_meta": {META_SERVER_INFO: {"name": "s"}},
        "acme": 1,
    }
    outcome = probe_outcome(_answer({"result": result}))
    assert isinstance(outcome, Discovery)
    assert outcome.versions == ("2099-01-01", MODERN_VERSION, "2025-11-25")
    assert json.loads(bytes(outcome.capabilities)) == {"tools": {}}
    assert outcome.server_info is not None
    assert json.loads(bytes(outcome.server_info)) == {"name": "s"}
    assert outcome.instructions == msgspec.Raw(b'"Use it."')
    assert set(outcome.result) == set(result)


@pytest.mark.parametrize("rest", [{}, {"capabilities": None, "_meta": []}, {"capabilities": [], "_meta": {}}])
def test_a_modern_child_may_leave_out_all_but_its_versions(rest: dict[str, object]) -> None:
    """Our rule (matrix, 6.1): what a sloppy child leaves out is filled in."""
    outcome = probe_outcome(_answer({"result": {"supportedVersions": [MODERN_VERSION]} | rest}))
    assert isinstance(outcome, Discovery)
    assert bytes(outcome.capabilities) == b"{}"
    assert (outcome.server_info, outcome.instructions) == (None, None)


@pytest.mark.parametrize(
    "answer",
    [
        {"result": {"supportedVersions": ["2099-01-01", "2025-11-25"]}},
        {"error": {"code": -32022, "message": "", "data": {"supported": ["2099-01-01", "2025-11-25"]}}},
    ],
)
def test_a_child_that_speaks_only_a_modern_version_of_others_names_it(answer: object) -> None:
    """MCP 2026-07-28, basic/transports/stdio: modern, do not fall back to `initialize`."""
    assert probe_outcome(_answer(answer)) == ("2099-01-01", "2025-11-25")


@pytest.mark.parametrize("data", [None, 1, {}, {"supported": "x"}, {"supported": [1]}])
def test_a_child_that_refuses_our_version_and_names_none_is_modern(data: object) -> None:
    """MCP 2026-07-28, basic/transports/stdio: the error is recognised, so the child is modern."""
    assert probe_outcome(_answer({"error": {"code": -32022, "message": "", "data": data}})) == ()


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"code": -32601, "message": ""}},
        {"error": {"code": -32602, "message": ""}},
        {"error": {"code": "-32022", "message": ""}},
        {"error": {"message": ""}},
        {"error": None},
        {"error": {"code": -32022, "message": "", "data": {"supported": list(KNOWN_VERSIONS)}}},
        {"result": {"supportedVersions": list(KNOWN_VERSIONS)}},
        {"result": {"supportedVersions": []}},
        {"result": {"supportedVersions": [MODERN_VERSION, 1]}},
        {"result": {"supportedVersions": MODERN_VERSION}},
        {"result": {}},
        {"result": None},
    ],
)
def test_every_other_answer_is_that_of_a_legacy_child(answer: object) -> None:
    """MCP 2026-07-28, basic/transports/stdio: the fallback MUST NOT be keyed to one error code.

    A child that names legacy versions only is one too (our rule): there it can be understood.
    """
    assert probe_outcome(_answer(answer)) is None


@given(elements=st.lists(json_values, max_size=5))
def test_the_elements_of_an_array_are_its_bytes(elements: list[bytes]) -> None:
    found = array_elements(msgspec.Raw(b"[ " + b" , ".join(elements) + b" ]"))
    assert found is not None
    assert [meaning(bytes(element)) for element in found] == [meaning(element) for element in elements]


def test_an_array_of_too_many_elements_is_not_looked_into() -> None:
    """Our rule: each would cost us far more memory than it costs the sender."""
    for text, expected in ((b'"a",', MAX_ELEMENTS), (b"1,", MAX_ELEMENTS)):
        full = b"[" + (text * MAX_ELEMENTS)[:-1] + b"]"
        assert len(array_elements(msgspec.Raw(full)) or ()) == expected
        assert array_elements(msgspec.Raw(b"[" + text + full[1:])) is None
    assert string_elements(msgspec.Raw(b"[" + (b'"a",' * (MAX_ELEMENTS + 1))[:-1] + b"]")) is None


@pytest.mark.parametrize("value", [None, msgspec.Raw(b"{}"), msgspec.Raw(b"1"), msgspec.Raw(b"[" * 100_000)])
def test_what_is_no_array_has_no_elements(value: msgspec.Raw | None) -> None:
    assert array_elements(value) is None
    assert string_elements(value) is None


def test_strings_are_all_the_elements_or_none() -> None:
    assert string_elements(msgspec.Raw(b'["a","\\u0062"]')) == ("a", "b")
    assert string_elements(msgspec.Raw(b'["a",1]')) is None
    assert META_SUBSCRIPTION_ID.startswith(RESERVED_PREFIX)
