"""What a modern client listens for, and the messages of its stream."""

import json

import msgspec
import pytest
from hypothesis import given

from stdio_broker.errors import LocalProtocolError
from stdio_broker.protocol.jsonrpc import (
    INVALID_PARAMS,
    Members,
    Notification,
    encode,
    parse_line,
)
from stdio_broker.protocol.listen import (
    ListenFilter,
    acknowledgement,
    graceful_result,
    read_filter,
    supported_by,
    tag,
    tag_result,
)
from stdio_broker.protocol.modern import (
    MAX_ELEMENTS,
    META_SERVER_INFO,
    META_SUBSCRIPTION_ID,
    ModernRequest,
)

from .modern_messages import INFO, members_of, modern_of, plain, unknown
from .strategies import meaning

EVERYTHING = ListenFilter(tools=True, prompts=True, resources=True, uris=("file:///a", "file:///d/"))
NOTHING = ListenFilter(tools=False, prompts=False, resources=False, uris=())


def _listen(wanted: object) -> ModernRequest:
    return modern_of({"notifications": wanted}, "subscriptions/listen")


def test_a_filter_is_what_it_was_read_from() -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions, "Notification Filter"."""
    assert read_filter(_listen({})) == NOTHING
    assert NOTHING.as_json() == {}
    assert read_filter(_listen(EVERYTHING.as_json())) == EVERYTHING
    assert EVERYTHING.as_json() == {
        "toolsListChanged": True,
        "promptsListChanged": True,
        "resourcesListChanged": True,
        "resourceSubscriptions": ("file:///a", "file:///d/"),
    }


def test_a_filter_names_each_resource_once_and_unknown_kinds_ask_for_nothing() -> None:
    wanted = {"resourceSubscriptions": ["b", "a", "b"], "toolsListChanged": False, "taskIds": [1]}
    assert read_filter(_listen(wanted)) == ListenFilter(
        tools=False, prompts=False, resources=False, uris=("b", "a")
    )


@pytest.mark.parametrize(
    "wanted",
    [
        None,
        [],
        {"toolsListChanged": 1},
        {"promptsListChanged": None},
        {"resourcesListChanged": "true"},
        {"resourceSubscriptions": "a"},
        {"resourceSubscriptions": None},
        {"resourceSubscriptions": ["a", 1]},
        {"resourceSubscriptions": ["a"] * (MAX_ELEMENTS + 1)},
    ],
)
def test_a_filter_of_another_shape_is_the_fault_of_the_client(wanted: object) -> None:
    """MCP 2026-07-28, schema, SubscriptionFilter; the bound is ours."""
    with pytest.raises(LocalProtocolError, match=r"params\.notifications") as caught:
        read_filter(_listen(wanted))
    assert caught.value.code == INVALID_PARAMS
    assert caught.value.request_id == b'"q1"'


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, NOTHING),
        ({"tools": {}, "prompts": {"listChanged": False}, "resources": 1}, NOTHING),
        (
            {"tools": {"listChanged": True}, "prompts": {"listChanged": True}, "resources": {}},
            ListenFilter(tools=True, prompts=True, resources=False, uris=()),
        ),
        (
            {"resources": {"subscribe": True}},
            ListenFilter(tools=False, prompts=False, resources=False, uris=EVERYTHING.uris),
        ),
        (
            {"resources": {"listChanged": True}},
            ListenFilter(tools=False, prompts=False, resources=True, uris=()),
        ),
    ],
)
def test_only_what_the_child_can_do_is_promised(capabilities: object, expected: ListenFilter) -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions, "Acknowledgment"."""
    assert supported_by(EVERYTHING, members_of(capabilities)) == expected
    assert supported_by(NOTHING, members_of(capabilities)) == NOTHING


@pytest.mark.parametrize(
    ("method", "uri", "expected"),
    [
        ("notifications/tools/list_changed", None, True),
        ("notifications/prompts/list_changed", None, True),
        ("notifications/resources/list_changed", None, True),
        ("notifications/resources/updated", "file:///a", True),
        ("notifications/resources/updated", "file:///a/b", True),
        ("notifications/resources/updated", "file:///d/e", True),
        ("notifications/resources/updated", "file:///ab", False),
        ("notifications/resources/updated", "file:///", False),
        ("notifications/resources/updated", None, False),
        ("notifications/message", None, False),
        ("notifications/progress", "file:///a", False),
    ],
)
def test_only_what_was_asked_for_is_delivered(
    method: str,
    uri: str | None,
    expected: bool,  # noqa: FBT001
) -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions: MUST NOT send what was not requested."""
    assert EVERYTHING.wants(method, uri) is expected
    assert not NOTHING.wants(method, uri)


@given(params=unknown, meta=unknown)
def test_a_tagged_notification_keeps_all_else(params: dict[str, bytes], meta: dict[str, bytes]) -> None:
    """Our rule (design decision 4); MCP 2026-07-28, basic/patterns/subscriptions: MUST carry the id."""
    inner = {name: msgspec.Raw(value) for name, value in params.items()}
    inner_meta = {name: msgspec.Raw(value) for name, value in meta.items()}
    inner["_meta"] = msgspec.Raw(msgspec.json.encode(inner_meta))
    message: Members = {"method": msgspec.Raw(b'"m"'), "params": msgspec.Raw(msgspec.json.encode(inner))}
    inner_meta[META_SUBSCRIPTION_ID] = msgspec.Raw(b'"seven"')
    inner["_meta"] = msgspec.Raw(msgspec.json.encode(inner_meta))
    expected = {"method": msgspec.Raw(b'"m"'), "params": msgspec.Raw(msgspec.json.encode(inner))}
    assert meaning(encode(tag(message, b'"seven"'))) == meaning(encode(expected))


def test_a_notification_without_params_is_tagged_and_a_foreign_tag_replaced() -> None:
    assert plain(tag({}, b"7")) == {"params": {"_meta": {META_SUBSCRIPTION_ID: 7}}}
    foreign = members_of({"params": {"_meta": {META_SUBSCRIPTION_ID: 1}}})
    assert plain(tag(foreign, b"7")) == {"params": {"_meta": {META_SUBSCRIPTION_ID: 7}}}


def test_a_result_is_tagged_in_its_own_meta() -> None:
    result = members_of({"resultType": "complete", "_meta": {"acme/x": 1}})
    assert plain(tag_result(result, b"7")) == {
        "resultType": "complete",
        "_meta": {"acme/x": 1, META_SUBSCRIPTION_ID: 7},
    }


def test_the_first_message_of_a_listen_stream_says_what_will_come() -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions, "Acknowledgment"."""
    (message,) = parse_line(acknowledgement(b'"seven"', EVERYTHING))
    assert isinstance(message, Notification)
    assert message.method == "notifications/subscriptions/acknowledged"
    assert plain(message.members["params"]) == {
        "_meta": {META_SUBSCRIPTION_ID: "seven"},
        "notifications": plain(EVERYTHING.as_json()),
    }


@pytest.mark.parametrize("server_info", [None, INFO])
def test_the_last_message_of_a_listen_stream_is_a_result(server_info: msgspec.Raw | None) -> None:
    """MCP 2026-07-28, basic/patterns/subscriptions, "Graceful Closure"."""
    meta = {META_SUBSCRIPTION_ID: 7} | ({META_SERVER_INFO: plain(INFO)} if server_info else {})
    assert json.loads(graceful_result(b"7", server_info)) == {
        "jsonrpc": "2.0",
        "id": 7,
        "result": {"resultType": "complete", "_meta": meta},
    }
