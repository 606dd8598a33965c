"""`initialize`, both ways: what is asked of the child, and what its answer agrees to."""

import contextlib
import json

import pytest
from hypothesis import given

from stdio_broker.errors import LocalProtocolError, RemoteProtocolError
from stdio_broker.protocol.handshake import Agreement, agree, clamp_request, error_text, initialize_request
from stdio_broker.protocol.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, Request, encode, parse_line
from stdio_broker.protocol.revisions import KNOWN_VERSIONS, LATEST, REVISIONS

from .strategies import json_values


def _initialize(params: bytes | None) -> Request:
    rest = b"" if params is None else b',"params":' + params
    (request,) = parse_line(b'{"jsonrpc":"2.0","id":"one","method":"initialize"' + rest + b"}")
    assert isinstance(request, Request)
    return request


@pytest.mark.parametrize("version", KNOWN_VERSIONS)
def test_an_initialize_for_a_version_that_we_speak_is_not_touched(version: str) -> None:
    """Our rule (design decision 4): same-era bridging is faithful to the byte."""
    params = b'{ "x" : 1.0 , "protocolVersion" : "%s" }' % version.encode()
    request = _initialize(params)
    clamp_request(request)
    assert bytes(request.members["params"]) == params


def test_an_initialize_for_an_unknown_version_asks_for_the_newest_and_keeps_all_else() -> None:
    """MCP 2025-11-25, basic/lifecycle: a version is answered with one that the receiver supports."""
    request = _initialize(b'{"a":1.0,"protocolVersion":"2099-01-01","capabilities":{ }}')
    clamp_request(request)
    assert encode(request.members) == (
        b'{"jsonrpc":"2.0","id":"one","method":"initialize",'
        b'"params":{"a":1.0,"protocolVersion":"%s","capabilities":{ }}}' % LATEST.encode()
    )


@pytest.mark.parametrize("params", [None, b"[]", b"1", b"{}", b'{"protocolVersion":20251125}'])
def test_an_initialize_without_a_version_is_the_fault_of_the_client(params: bytes | None) -> None:
    """MCP 2025-11-25, schema, InitializeRequestParams: protocolVersion is required."""
    with pytest.raises(LocalProtocolError, match="protocolVersion") as caught:
        clamp_request(_initialize(params))
    assert caught.value.code == INVALID_PARAMS
    assert caught.value.request_id == b'"one"'


def test_an_initialize_of_our_own_is_a_valid_one_for_the_newest_version() -> None:
    line = encode(initialize_request("broker", "1.2").members)
    assert json.loads(line) == {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": LATEST,
            "capabilities": {},
            "clientInfo": {"name": "broker", "version": "1.2"},
        },
    }


@pytest.mark.parametrize("version", KNOWN_VERSIONS)
def test_what_the_child_chose_is_agreed_on_if_we_speak_it(version: str) -> None:
    answer = (
        b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"%s","serverInfo":{"name":"S","version":"7"}}}'
        % version.encode()
    )
    assert agree(answer) == Agreement(REVISIONS[version], "S", "7")


@pytest.mark.parametrize("info", [b"", b',"serverInfo":7', b',"serverInfo":{"name":1,"version":null}'])
def test_a_child_without_a_name_is_agreed_with_all_the_same(info: bytes) -> None:
    answer = b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25"' + info + b"}}"
    assert agree(answer) == Agreement(REVISIONS["2025-11-25"], None, None)


def test_a_child_that_refuses_has_agreed_to_nothing_and_says_why() -> None:
    answer = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"not today"}}'
    assert agree(answer) is None
    assert error_text(answer) == "not today"


@pytest.mark.parametrize("error", [b"{}", b'{"message":1}', b"null", b'"text"'])
def test_an_error_without_a_message_has_a_text_too(error: bytes) -> None:
    assert error_text(b'{"jsonrpc":"2.0","id":1,"error":' + error + b"}") == "an error without a message"


@pytest.mark.parametrize("version", ["2099-01-01", "2026-07-28", ""])
def test_a_version_that_we_do_not_speak_ends_it_and_is_named(version: str) -> None:
    """MCP 2025-11-25, basic/lifecycle: what is negotiated must be a version that both sides speak."""
    answer = b'{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"%s"}}' % version.encode()
    with pytest.raises(RemoteProtocolError, match=f"chose MCP '{version}'") as caught:
        agree(answer)
    assert caught.value.code == INTERNAL_ERROR


@pytest.mark.parametrize("result", [b"null", b"[]", b"{}", b'{"protocolVersion":1}'])
def test_a_result_without_a_version_is_the_fault_of_the_child(result: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="has no protocolVersion") as caught:
        agree(b'{"jsonrpc":"2.0","id":1,"result":' + result + b"}")
    assert caught.value.code == INTERNAL_ERROR


@given(result=json_values)
def test_no_answer_raises_anything_but_the_fault_of_the_child(result: bytes) -> None:
    line = b'{"jsonrpc":"2.0","id":1,"result":' + result.replace(b"\n", b" ") + b"}"
    with contextlib.suppress(RemoteProtocolError):
        agree(line)


@given(params=json_values)
def test_no_initialize_raises_anything_but_the_fault_of_the_client(params: bytes) -> None:
    with contextlib.suppress(LocalProtocolError):
        clamp_request(_initialize(params))
