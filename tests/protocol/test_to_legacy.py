"""What a modern child says, for a legacy client."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.errors import RemoteProtocolError
from stdio_broker.protocol.capabilities import ClientCapabilities
from stdio_broker.protocol.jsonrpc import INTERNAL_ERROR, Members, Notification, Response, parse_line
from stdio_broker.protocol.listen import tag
from stdio_broker.protocol.modern import (
    MAX_ELEMENTS,
    MAX_QUESTIONS,
    META_SERVER_INFO,
    META_SUBSCRIPTION_ID,
    Discovery,
    probe_outcome,
)
from stdio_broker.protocol.revisions import LATEST, MODERN_VERSION, REVISIONS
from stdio_broker.protocol.to_legacy import (
    InputRound,
    Question,
    can_ask,
    initialize_result,
    notification_for_legacy,
    question_for_client,
    read_input_required,
    result_for_legacy,
    result_kind,
    retry_params,
)

from .strategies import json_values, meaning

NEWEST = REVISIONS[LATEST]
METHODS = ["tools/list", "tools/call", "resources/read", "completion/complete", "acme/run"]

unknown = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=3).map("acme/".__add__),
    json_values.map(bytes.strip),
    max_size=3,
)


def _members(value: object) -> Members:
    return msgspec.json.decode(json.dumps(value), type=Members)


def _plain(members: object) -> object:
    return json.loads(msgspec.json.encode(members))


def _discovery(**members: object) -> Discovery:
    result = {"resultType": "complete", "supportedVersions": [MODERN_VERSION]} | members
    (answer,) = parse_line(json.dumps({"jsonrpc": "2.0", "id": 0, "result": result}).encode())
    assert isinstance(answer, Response)
    discovery = probe_outcome(answer)
    assert isinstance(discovery, Discovery)
    return discovery


def test_a_discover_result_becomes_an_initialize_result() -> None:
    """MCP 2025-11-25, schema, InitializeResult; an older client knows no extensions."""
    discovery = _discovery(
        capabilities={"tools": {"listChanged": True}, "extensions": {"a/b": {}}, "acme": {"x": 1}},
        instructions="Use it.",
        ttlMs=5,
        cacheScope="public",
        acme=[1],
        _meta={META_SERVER_INFO: {"name": "s", "version": "1.0", "title": "S"}, "acme/x": 1},
    )
    before = dict(discovery.result)
    assert _plain(initialize_result(discovery, "2025-03-26")) == {
        "protocolVersion": "2025-03-26",
        "capabilities": {"tools": {"listChanged": True}, "acme": {"x": 1}},
        "serverInfo": {"name": "s", "version": "1.0", "title": "S"},
        "instructions": "Use it.",
        "acme": [1],
        "_meta": {"acme/x": 1},
    }
    assert discovery.result == before


@pytest.mark.parametrize("requested", ["2099-01-01", MODERN_VERSION, ""])
def test_an_unknown_version_is_answered_with_the_newest_and_a_name_is_made_up(requested: str) -> None:
    """MCP 2025-11-25, basic/lifecycle, "Version Negotiation"; serverInfo is required."""
    assert _plain(initialize_result(_discovery(), requested)) == {
        "protocolVersion": LATEST,
        "capabilities": {},
        "serverInfo": {"name": "server", "version": "unknown"},
    }


def test_a_child_that_gives_only_its_name_keeps_it() -> None:
    discovery = _discovery(_meta={META_SERVER_INFO: {"name": "s"}})
    result = _plain(initialize_result(discovery, LATEST))
    assert isinstance(result, dict)
    assert result["serverInfo"] == {"name": "s", "version": "unknown"}


def test_a_result_loses_what_is_of_the_modern_revision() -> None:
    """Our rule (matrix, 5): strict peers want an empty result to be exactly that."""
    modern = {
        "resultType": "complete",
        "ttlMs": 1,
        "cacheScope": "public",
        "_meta": {META_SERVER_INFO: {}},
    }
    assert result_for_legacy("resources/read", _members(modern)) == {}


@pytest.mark.parametrize("meta", [{}, {"acme/x": 1}, [], None])
def test_meta_that_names_no_server_stays(meta: object) -> None:
    assert _plain(result_for_legacy("acme/run", _members({"_meta": meta}))) == {"_meta": meta}


@given(members=unknown, meta=unknown, method=st.sampled_from(METHODS))
def test_unknown_members_of_a_result_cross_to_the_letter(
    members: dict[str, bytes], meta: dict[str, bytes], method: str
) -> None:
    """Our rule (design decision 4)."""
    known = {name: msgspec.Raw(value) for name, value in members.items()}
    inner = {name: msgspec.Raw(value) for name, value in meta.items()}
    inner[META_SERVER_INFO] = msgspec.Raw(b"{}")
    before = {"ttlMs": msgspec.Raw(b"1"), "_meta": msgspec.Raw(msgspec.json.encode(inner)), **known}
    copy = dict(before)
    after = result_for_legacy(method, before)
    assert before == copy
    crossed = msgspec.json.decode(after.pop("_meta", msgspec.Raw(b"{}")), type=Members)
    assert {name: meaning(bytes(value)) for name, value in crossed.items()} == {
        name: meaning(value) for name, value in meta.items()
    }
    assert after == known


@pytest.mark.parametrize(
    ("method", "value", "stays"),
    [
        ("tools/call", {"a": 1}, True),
        ("tools/call", [1], False),
        ("tools/call", None, False),
        ("tools/call", "text", False),
        ("acme/run", [1], True),
    ],
)
def test_structured_content_that_is_no_object_is_dropped(
    method: str,
    value: object,
    stays: bool,  # noqa: FBT001
) -> None:
    """MCP 2025-11-25, schema, CallToolResult."""
    result = {"content": [], "structuredContent": value}
    legacy = _plain(result_for_legacy(method, _members(result)))
    assert legacy == (result if stays else {"content": []})


def test_an_output_schema_that_describes_no_object_is_dropped() -> None:
    """MCP 2025-11-25, schema, Tool."""
    tools = (
        b'[{"name":"a","outputSchema":{"type":"object","x":1.00}},{"outputSchema":{"type":"array"},"y":2.0},'
        b'{"outputSchema":{"anyOf":[]}},{"outputSchema":true},{"name" : "b"},7]'
    )
    result = result_for_legacy("tools/list", {"tools": msgspec.Raw(tools)})
    assert bytes(result["tools"]) == (
        b'[{"name":"a","outputSchema":{"type":"object","x":1.00}},{"y":2.0},{},{},{"name" : "b"},7]'
    )


@pytest.mark.parametrize(
    "tools",
    [
        b'[ {"name":"a"} ]',
        b'{"outputSchema":1}',
        b"[" + b'{"outputSchema":1},' * MAX_ELEMENTS + b"1]",
    ],
)
def test_tools_that_need_no_change_or_are_too_many_cross_untouched(tools: bytes) -> None:
    """Our rule: see `modern.MAX_ELEMENTS`."""
    result = result_for_legacy("tools/list", {"tools": msgspec.Raw(tools)})
    assert bytes(result["tools"]) == tools


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        ({}, "complete"),
        ({"resultType": "complete"}, "complete"),
        ({"resultType": "input_required"}, "input_required"),
        ({"resultType": "task"}, "task"),
        ({"resultType": None}, ""),
        ({"resultType": 1}, ""),
    ],
)
def test_a_result_that_does_not_say_its_type_is_complete(result: object, kind: str) -> None:
    """MCP 2026-07-28, basic, "ResultType"."""
    assert result_kind(_members(result)) == kind


FORM: dict[str, object] = {"method": "elicitation/create", "params": {"message": "m"}}


def test_the_questions_and_the_state_of_a_result_are_read() -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "InputRequiredResult"."""
    result = _members({"inputRequests": {"b": FORM, "a": {"method": "roots/list"}}})
    result["requestState"] = msgspec.Raw(b'"\\u0061"')
    assert read_input_required(result) == InputRound(
        requests={
            "b": Question("elicitation/create", {"message": msgspec.Raw(b'"m"')}),
            "a": Question("roots/list", None),
        },
        state=msgspec.Raw(b'"\\u0061"'),
    )


@pytest.mark.parametrize(
    ("result", "questions"),
    [
        ({"requestState": ""}, 0),
        ({"requestState": "s", "inputRequests": {}}, 0),
        ({"inputRequests": {"k": {"method": "roots/list", "params": {}}}}, 1),
        ({"inputRequests": {str(key): FORM for key in range(MAX_QUESTIONS)}}, MAX_QUESTIONS),
    ],
)
def test_one_of_questions_and_state_is_enough(result: object, questions: int) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr: at least one of the two."""
    assert len(read_input_required(_members(result)).requests) == questions


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"inputRequests": {}},
        {"requestState": 1},
        {"requestState": None, "inputRequests": {"k": FORM}},
        {"inputRequests": [], "requestState": "s"},
        {"inputRequests": None, "requestState": "s"},
        {"inputRequests": {"k": 1}},
        {"inputRequests": {"k": {}}},
        {"inputRequests": {"k": {"method": "tools/call", "params": {}}}},
        {"inputRequests": {"k": {"method": "elicitation/create"}}},
        {"inputRequests": {"k": {"method": "sampling/createMessage", "params": []}}},
        {"inputRequests": {"k": {"method": "roots/list", "params": 1}}},
        {"inputRequests": {str(key): FORM for key in range(MAX_QUESTIONS + 1)}},
    ],
)
def test_a_result_that_asks_for_input_in_another_shape_is_the_fault_of_the_child(result: object) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr; the bound is ours."""
    with pytest.raises(RemoteProtocolError, match="asks for input with") as caught:
        read_input_required(_members(result))
    assert caught.value.code == INTERNAL_ERROR


@pytest.mark.parametrize(
    ("method", "params", "expected"),
    [
        ("roots/list", None, None),
        ("elicitation/create", {"message": "m"}, {"message": "m"}),
        ("elicitation/create", {"mode": "form", "acme": 1}, {"mode": "form", "acme": 1}),
        (
            "elicitation/create",
            {"mode": "url", "url": "u", "acme": 1},
            {"mode": "url", "url": "u", "acme": 1, "elicitationId": "e7"},
        ),
        ("sampling/createMessage", {"mode": "url"}, {"mode": "url"}),
    ],
)
def test_a_question_becomes_a_request_and_a_page_gets_an_id(
    method: str, params: object, expected: object
) -> None:
    """MCP 2025-11-25, schema, ElicitRequestURLParams: elicitationId is required."""
    question = Question(method, None if params is None else _members(params))
    message = question_for_client(question, elicitation_id="e7")
    assert _plain(message) == {"method": method} | ({} if expected is None else {"params": expected})
    assert question == Question(method, None if params is None else _members(params))


@pytest.mark.parametrize(
    ("declared", "version", "params", "reason"),
    [
        ({"form": True}, "2025-06-18", {}, None),
        ({"form": True, "url": True}, LATEST, {"mode": "url"}, None),
        ({"form": True}, LATEST, {"mode": "url"}, "the client does not declare elicitation.url"),
        ({}, "2025-06-18", {}, "the client does not declare elicitation.form"),
        (
            {"url": True},
            "2025-06-18",
            {"mode": "url"},
            "the client speaks MCP 2025-06-18, which has no elicitation.url",
        ),
        ({"form": True}, "2025-03-26", {}, "the client speaks MCP 2025-03-26, which has no elicitation.form"),
    ],
)
def test_why_a_client_cannot_be_asked_is_said_in_words(
    declared: dict[str, bool], version: str, params: object, reason: str | None
) -> None:
    """Our rule (matrix, 11): what is impossible is said, never hidden."""
    question = Question("elicitation/create", _members(params))
    assert can_ask(question, ClientCapabilities(**declared), REVISIONS[version]) == reason


def test_all_that_is_missing_is_named() -> None:
    question = Question("sampling/createMessage", _members({"tools": [], "includeContext": "thisServer"}))
    assert can_ask(question, ClientCapabilities(sampling=True), NEWEST) == (
        "the client does not declare sampling.tools and sampling.context"
    )
    assert can_ask(Question("roots/list", None), ClientCapabilities(), NEWEST) == (
        "the client does not declare roots"
    )
    assert can_ask(Question("roots/list", None), ClientCapabilities(roots=True), NEWEST) is None


@given(params=unknown, answer=json_values.map(bytes.strip))
def test_a_repeated_call_has_the_answers_and_all_that_it_had(params: dict[str, bytes], answer: bytes) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr: the exact value of requestState; none if there was none."""
    first = {name: msgspec.Raw(value) for name, value in params.items()}
    state = msgspec.Raw(b'"\\u0061"')
    second = retry_params(first, {"k": msgspec.Raw(answer)}, state)
    assert bytes(second["requestState"]) == b'"\\u0061"'
    assert meaning(bytes(second["inputResponses"])) == meaning(b'{"k":%b}' % answer)
    assert {name: second[name] for name in first} == first
    assert set(second) == {*first, "requestState", "inputResponses"}
    assert retry_params(second, {}, None) == first


def _notification(line: bytes) -> Notification:
    (notification,) = parse_line(line)
    assert isinstance(notification, Notification)
    return notification


@given(params=unknown, meta=unknown)
def test_a_notification_loses_its_tag_and_nothing_else(
    params: dict[str, bytes], meta: dict[str, bytes]
) -> None:
    """Our rule (matrix, 5): a legacy client listens on no stream with an id."""
    inner = {name: msgspec.Raw(value) for name, value in params.items()}
    if meta:
        inner["_meta"] = msgspec.Raw(msgspec.json.encode({n: msgspec.Raw(v) for n, v in meta.items()}))
    untagged: Members = {
        "jsonrpc": msgspec.Raw(b'"2.0"'),
        "method": msgspec.Raw(b'"notifications/x"'),
        "params": msgspec.Raw(msgspec.json.encode(inner)),
    }
    tagged = tag(untagged, b"7")
    before = dict(tagged)
    line = notification_for_legacy(Notification("notifications/x", tagged))
    assert tagged == before
    expected = msgspec.json.encode(untagged).replace(b"\n", b" ").replace(b"\r", b" ")
    assert meaning(line) == meaning(expected)
    assert b"\n" not in line


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b',"params":[1.0]',
        b',"params":{"uri":1.0}',
        b',"params":{ "_meta":1}',
        b',"params":{ "_meta":{"x":1.0 }}',
    ],
)
def test_a_notification_without_a_tag_is_not_touched(rest: bytes) -> None:
    line = b'{"jsonrpc":"2.0","method":"notifications/x"' + rest + b"}"
    assert notification_for_legacy(_notification(line)) == line
    assert META_SUBSCRIPTION_ID.encode() not in line
