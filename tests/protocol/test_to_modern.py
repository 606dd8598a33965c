"""What a legacy child says, for a modern client; and what a sloppy modern child left out."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.errors import LocalProtocolError
from stdio_broker.protocol.capabilities import QUESTION_METHODS
from stdio_broker.protocol.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    Members,
    Request,
    parse_line,
)
from stdio_broker.protocol.modern import (
    CACHEABLE,
    MAX_ELEMENTS,
    MAX_QUESTIONS,
    MAY_ASK,
    META_SERVER_INFO,
    RESERVED_PREFIX,
)
from stdio_broker.protocol.revisions import LATEST, MODERN_VERSION, REVISIONS
from stdio_broker.protocol.to_modern import (
    MAX_REMEMBERED_BYTES,
    check_input_responses,
    check_response,
    discover_result,
    error_for_modern,
    fill_result,
    input_request,
    input_required,
    params_for_child,
    result_for_modern,
    url_elicitations,
)

from .modern_messages import INFO, META, members_of, modern_of, plain, request_of, unknown
from .strategies import meaning

NEWEST = REVISIONS[LATEST]
METHODS = sorted(CACHEABLE | MAY_ASK | {"completion/complete", "acme/run"})


def test_an_initialize_result_becomes_a_discover_result() -> None:
    """MCP 2026-07-28, server/discover; tasks of 2025-11-25 are not those of the extension (SEP-2663)."""
    initialize = {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {"listChanged": True}, "tasks": {"list": {}}, "acme": {"x": 1}},
        "serverInfo": {"name": "s", "version": "1.0", "title": "S"},
        "instructions": "Use it.",
        "_meta": {"acme/x": 1},
        "acme": [1],
    }
    before = members_of(initialize)
    assert plain(discover_result(before)) == {
        "resultType": "complete",
        "supportedVersions": [MODERN_VERSION],
        "capabilities": {"tools": {"listChanged": True}, "acme": {"x": 1}},
        "instructions": "Use it.",
        "_meta": {"acme/x": 1, META_SERVER_INFO: initialize["serverInfo"]},
        "acme": [1],
        "ttlMs": 0,
        "cacheScope": "private",
    }
    assert before == members_of(initialize)


def test_an_initialize_result_may_lack_what_it_should_have() -> None:
    assert plain(discover_result(members_of({"capabilities": 1}))) == {
        "resultType": "complete",
        "supportedVersions": [MODERN_VERSION],
        "capabilities": {},
        "ttlMs": 0,
        "cacheScope": "private",
    }


def test_a_legacy_child_gets_params_without_what_is_of_the_modern_revision() -> None:
    """MCP 2026-07-28, basic, "_meta" and basic/patterns/mrtr; SEP-2663: `task` is ignored."""
    params: dict[str, object] = {
        "name": "add",
        "arguments": {"context": 1, "task": 2},
        "context": {},
        "requestState": "s",
        "inputResponses": {},
        "task": {"ttl": 1},
        "_meta": META
        | {"progressToken": 1, "io.modelcontextprotocol/x": 1, "traceparent": "t", "acme/x": [1]},
    }
    assert plain(params_for_child(modern_of(params), NEWEST)) == {
        "name": "add",
        "arguments": {"context": 1, "task": 2},
        "context": {},
        "_meta": {"traceparent": "t", "acme/x": [1]},
    }


@pytest.mark.parametrize(("version", "keeps"), [("2025-03-26", False), ("2025-06-18", True)])
def test_only_a_child_that_may_know_it_gets_the_context_of_a_completion(
    version: str,
    keeps: bool,  # noqa: FBT001
) -> None:
    """MCP 2025-06-18, changelog: `context` is new there."""
    request = modern_of({"context": {"arguments": {}}, "task": 1}, "completion/complete")
    params = params_for_child(request, REVISIONS[version])
    assert ("context" in params) is keeps
    # Whatever a member of this name means to another method.
    assert "task" in params
    assert "_meta" not in params


@given(members=unknown, meta=unknown)
def test_unknown_params_cross_to_the_letter(members: dict[str, bytes], meta: dict[str, bytes]) -> None:
    """Our rule (design decision 4)."""
    raw = {name: msgspec.Raw(value) for name, value in members.items()}
    raw_meta = {name: msgspec.Raw(value) for name, value in meta.items()}
    request = modern_of({})
    request.params |= raw
    request.meta |= raw_meta
    params = params_for_child(request, NEWEST)
    crossed = msgspec.json.decode(params.pop("_meta", msgspec.Raw(b"{}")), type=Members)
    assert {name: meaning(bytes(value)) for name, value in crossed.items()} == {
        name: meaning(value) for name, value in meta.items()
    }
    assert params == raw


def test_no_name_of_the_protocol_crosses_to_a_child_that_knows_none_of_them() -> None:
    """Our rule (matrix, 3): also what a later revision has there."""
    later = RESERVED_PREFIX + "later"
    assert params_for_child(modern_of({"name": "t", "_meta": {**META, later: 1}}), NEWEST).keys() == {"name"}
    crossed = params_for_child(modern_of({"_meta": {**META, later: 1, "acme": 2}}), NEWEST)
    assert plain(crossed) == {"_meta": {"acme": 2}}


@pytest.mark.parametrize("method", METHODS)
def test_a_result_is_filled_with_what_every_result_of_its_method_has(method: str) -> None:
    """MCP 2026-07-28, basic, "Responses"; server/utilities/caching."""
    expected: dict[str, object] = {"resultType": "complete", "_meta": {META_SERVER_INFO: plain(INFO)}}
    if method in CACHEABLE:
        expected |= {"ttlMs": 0, "cacheScope": "private"}
    assert plain(fill_result(method, {}, INFO)) == expected
    del expected["_meta"]
    assert plain(fill_result(method, {}, None)) == expected


@pytest.mark.parametrize("length", [0, 1, MAX_REMEMBERED_BYTES, 10 * MAX_REMEMBERED_BYTES])
def test_a_server_may_say_as_much_of_itself_as_it_likes(length: int) -> None:
    """Ours: only what is short is remembered as it goes out."""
    info = {"name": "s" * length, "version": "1"}
    raw_info = msgspec.Raw(msgspec.json.encode(info))
    for _ in range(2):
        assert plain(fill_result("tools/call", {}, raw_info)) == {
            "resultType": "complete",
            "_meta": {META_SERVER_INFO: info},
        }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "result",
    [
        {"resultType": "complete", "ttlMs": 5, "cacheScope": "public", "_meta": {META_SERVER_INFO: 1}},
        {"resultType": "input_required", "_meta": {META_SERVER_INFO: {}}},
        {"resultType": "acme/later", "_meta": []},
        {"resultType": 7, "_meta": None},
        {"resultType": "complete", "ttlMs": -1, "cacheScope": "team", "_meta": {META_SERVER_INFO: None}},
    ],
)
def test_what_a_result_says_is_never_overwritten(method: str, result: dict[str, object]) -> None:
    """Our rule (matrix, 6.1); what asks for input is not cacheable (server/utilities/caching)."""
    assert plain(fill_result(method, members_of(result), INFO)) == result


def test_a_result_with_one_caching_hint_gets_the_other() -> None:
    """Our rule: never make private what is private already, or public what is not."""
    filled = plain(fill_result("tools/list", members_of({"cacheScope": "public"}), None))
    assert filled == {"resultType": "complete", "cacheScope": "public", "ttlMs": 0}
    filled = plain(fill_result("tools/list", members_of({"ttlMs": 9}), None))
    assert filled == {"resultType": "complete", "cacheScope": "private", "ttlMs": 9}


@given(members=unknown, meta=unknown, method=st.sampled_from(METHODS))
def test_unknown_members_of_a_result_cross_to_the_letter(
    members: dict[str, bytes], meta: dict[str, bytes], method: str
) -> None:
    """Our rule (design decision 4)."""
    before = {name: msgspec.Raw(value) for name, value in members.items()}
    before["_meta"] = msgspec.Raw(msgspec.json.encode({n: msgspec.Raw(v) for n, v in meta.items()}))
    copy = dict(before)
    after = result_for_modern(method, before, INFO)
    assert before == copy
    crossed = msgspec.json.decode(after["_meta"], type=Members)
    del crossed[META_SERVER_INFO]
    assert {name: meaning(bytes(value)) for name, value in crossed.items()} == {
        name: meaning(value) for name, value in meta.items()
    }
    assert {name: after[name] for name in members} == {name: before[name] for name in members}


def test_tools_do_not_say_how_they_run_as_tasks() -> None:
    """Our rule (matrix, 4.2): MCP 2026-07-28 has no `execution`."""
    tools = b'[{"name":"a","execution":{"taskSupport":"required"},"x":1.00},{"name":"b" , "y":2.0},3]'
    result = result_for_modern("tools/list", {"tools": msgspec.Raw(tools)}, None)
    assert bytes(result["tools"]) == b'[{"name":"a","x":1.00},{"name":"b" , "y":2.0},3]'
    elsewhere = result_for_modern("acme/run", {"tools": msgspec.Raw(tools)}, None)
    assert bytes(elsewhere["tools"]) == tools


@pytest.mark.parametrize(
    "tools",
    [
        b'[ {"name":"a"} ]',
        b'{"execution":1}',
        b'["execution", {"x":{"execution":1}}]',
        b"[" + b'{"execution":1},' * MAX_ELEMENTS + b"1]",
    ],
)
def test_tools_that_need_no_change_or_are_too_many_cross_untouched(tools: bytes) -> None:
    """Our rule: a member that the client does not know harms nobody."""
    result = result_for_modern("tools/list", {"tools": msgspec.Raw(tools)}, None)
    assert meaning(bytes(result["tools"])) == meaning(tools)
    assert "tools" not in result_for_modern("tools/list", {}, None)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (-32002, INVALID_PARAMS),
        (-32042, INTERNAL_ERROR),
        (-32601, -32601),
        (-32000, -32000),
        (7, 7),
        ("-32002", "-32002"),
    ],
)
def test_a_modern_client_never_sees_the_old_codes(code: object, expected: object) -> None:
    """MCP 2026-07-28, basic, "Error Codes": MUST NOT emit -32002 and -32042."""
    error = {"code": code, "message": "m", "data": {"uri": "u"}, "acme": 1}
    assert plain(error_for_modern(members_of(error))) == error | {"code": expected}
    assert error_for_modern({}) == {}


def test_a_question_is_embedded_without_what_only_a_legacy_client_knows() -> None:
    """MCP 2026-07-28, changelog (elicitationId, tasks); matrix, 4.3."""
    params = {"mode": "url", "url": "u", "elicitationId": "e", "task": {}, "_meta": {}, "acme": 1}
    embedded = input_request(request_of(params, "elicitation/create"))
    assert plain(embedded) == {
        "method": "elicitation/create",
        "params": {"mode": "url", "url": "u", "acme": 1},
    }


def test_a_question_for_roots_has_no_params() -> None:
    """MCP 2026-07-28, client/roots."""
    assert plain(input_request(request_of({"_meta": {}}, "roots/list"))) == {"method": "roots/list"}


@pytest.mark.parametrize("line", [b"", b',"params":[ 1.0]'])
def test_params_of_a_question_that_are_no_object_are_left_to_the_client(line: bytes) -> None:
    (question,) = parse_line(b'{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage"%b}' % line)
    assert isinstance(question, Request)
    embedded = input_request(question)
    assert embedded.pop("method") == msgspec.Raw(b'"sampling/createMessage"')
    assert [bytes(value) for value in embedded.values()] == ([b"[ 1.0]"] if line else [])


def test_a_result_that_asks_for_input_holds_questions_and_state() -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "InputRequiredResult"."""
    question = members_of({"method": "roots/list"})
    assert plain(input_required({"k": question}, "sealed", INFO)) == {
        "resultType": "input_required",
        "inputRequests": {"k": {"method": "roots/list"}},
        "requestState": "sealed",
        "_meta": {META_SERVER_INFO: plain(INFO)},
    }
    assert plain(input_required({}, "s", None)) == {"resultType": "input_required", "requestState": "s"}
    assert "requestState" not in input_required({"k": question}, None, None)


def _url_error(*elicitations: object) -> Members:
    return members_of({"code": -32042, "message": "m", "data": {"elicitations": elicitations}})


URL = {"mode": "url", "url": "https://a", "message": "m"}


def test_an_error_that_wants_the_user_at_a_page_stands_for_questions() -> None:
    """MCP 2025-11-25, client/elicitation, "URL Elicitation Required Error"."""
    other = {"url": "https://b", "message": "n", "acme": 1}
    questions = url_elicitations(_url_error(URL | {"elicitationId": "e"}, other))
    assert plain(questions) == [
        {"method": "elicitation/create", "params": URL},
        {"method": "elicitation/create", "params": other | {"mode": "url"}},
    ]


@pytest.mark.parametrize(
    "error",
    [
        members_of({"code": -32602, "data": {"elicitations": [URL]}}),
        members_of({"code": -32042}),
        members_of({"code": -32042, "data": {"elicitations": URL}}),
        _url_error(),
        _url_error(1),
        _url_error(URL | {"mode": "form"}),
        _url_error(URL | {"mode": 1}),
        _url_error(URL, {"url": "https://b"}),
        _url_error({"message": "m"}),
        _url_error(*([URL] * (MAX_QUESTIONS + 1))),
    ],
)
def test_an_error_that_stands_for_no_questions_is_an_error(error: Members) -> None:
    """Our rule: one page that the user cannot be sent to makes the others useless."""
    assert url_elicitations(error) is None


GOOD: list[tuple[str, object]] = [
    ("elicitation/create", {"action": "accept", "content": {"a": 1}}),
    ("elicitation/create", {"action": "decline"}),
    ("elicitation/create", {"action": "cancel", "acme": 1}),
    ("sampling/createMessage", {"role": "assistant", "content": {"type": "text"}, "model": "m"}),
    ("sampling/createMessage", {"role": "user", "content": [], "model": "m", "stopReason": 1}),
    ("roots/list", {"roots": []}),
]
BAD: list[tuple[str, object]] = [
    ("elicitation/create", {}),
    ("elicitation/create", {"action": "maybe"}),
    ("elicitation/create", {"action": 1}),
    ("elicitation/create", {"action": "accept", "content": []}),
    ("elicitation/create", {"action": "accept", "content": None}),
    ("sampling/createMessage", {"content": {}, "model": "m"}),
    ("sampling/createMessage", {"role": "system", "content": {}, "model": "m"}),
    ("sampling/createMessage", {"role": "user", "content": {}, "model": 1}),
    ("sampling/createMessage", {"role": "user", "content": "text", "model": "m"}),
    ("sampling/createMessage", {"role": "user", "model": "m"}),
    ("roots/list", {}),
    ("roots/list", {"roots": {}}),
]


@pytest.mark.parametrize(("method", "response"), GOOD)
def test_the_answer_to_a_question_passes(method: str, response: object) -> None:
    """MCP 2026-07-28, schema, ElicitResult, CreateMessageResult, ListRootsResult."""
    assert method in QUESTION_METHODS
    check_response(method, members_of(response))
    check_input_responses(members_of({"k": response}))


@pytest.mark.parametrize(("method", "response"), BAD)
def test_an_answer_of_another_shape_is_the_fault_of_the_client(method: str, response: object) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "Error Handling"."""
    with pytest.raises(LocalProtocolError) as caught:
        check_response(method, members_of(response))
    assert caught.value.code == INVALID_PARAMS


@pytest.mark.parametrize(
    "response", [None, 1, [], "accept", {"action": 1}, {"action": "accept", "content": []}]
)
def test_answers_whose_questions_are_not_known_yet_must_have_the_shape_of_one(response: object) -> None:
    """Our rule (matrix, 4.3): the shape is looked at before the state is used up."""
    with pytest.raises(LocalProtocolError) as caught:
        check_input_responses(members_of({"good": {"roots": []}, "bad": response}))
    assert caught.value.code == INVALID_PARAMS


def test_an_answer_to_something_else_is_not_ours_to_check() -> None:
    check_response("acme/ask", {})
