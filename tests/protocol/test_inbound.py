"""Which era a client's message is spoken in: the table of protocol.md, section 1, row by row."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.protocol.inbound import era_of
from stdio_broker.protocol.jsonrpc import Message, Response, parse_body
from stdio_broker.protocol.modern import META_VERSION
from stdio_broker.protocol.revisions import KNOWN_VERSIONS, MODERN_VERSION, Era

from .strategies import json_values, rendered

#: What a POST may name in its header: nothing, each legacy revision, the modern one, and nonsense.
VERSIONS = [None, *KNOWN_VERSIONS, MODERN_VERSION, "2099-01-01", ""]


def _message(text: str | bytes) -> Message | list[Message]:
    return parse_body(text.encode() if isinstance(text, str) else text)


def _request(method: str = "tools/call", /, **params: object) -> Message | list[Message]:
    return _message(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))


def _modern(method: str = "tools/call", version: object = MODERN_VERSION) -> Message | list[Message]:
    return _request(method, _meta={META_VERSION: version})


RESPONSE = _message('{"jsonrpc":"2.0","id":1,"result":{}}')
NOTIFICATION = _message('{"jsonrpc":"2.0","method":"notifications/initialized"}')
BATCH = _message('[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]')
LEGACY_BODIES = [_request(), _request("initialize"), _request(_meta={}), RESPONSE, NOTIFICATION, BATCH]


@pytest.mark.parametrize("version", [None, *KNOWN_VERSIONS, MODERN_VERSION])
@pytest.mark.parametrize("body", LEGACY_BODIES)
def test_in_a_live_session_a_body_without_modern_meta_is_legacy(
    body: Message | list[Message], version: str | None
) -> None:
    """Row 0, and peers.md, 1: claude.ai names 2026-07-28 in a session that negotiated 2025-11-25."""
    assert era_of(body, version, in_session=True) is Era.LEGACY


@pytest.mark.parametrize("version", [MODERN_VERSION, "2099-01-01", "2025-11-25, 2025-11-25", "latest", ""])
@pytest.mark.parametrize("body", LEGACY_BODIES)
def test_without_a_session_a_header_that_names_no_legacy_revision_is_modern(
    body: Message | list[Message], version: str
) -> None:
    """Row 1: also of a revision that nobody knows, so that the answer is -32022 with what is served."""
    assert era_of(body, version, in_session=False) is Era.MODERN


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("in_session", [False, True])
@pytest.mark.parametrize("method", ["tools/call", "initialize", "ping", "x/y"])
@pytest.mark.parametrize("named", [MODERN_VERSION, "2025-11-25", "2099-01-01", 7, None])
def test_a_body_that_names_its_version_is_modern_whatever_the_header_says(
    version: str | None, method: str, named: object, *, in_session: bool
) -> None:
    """Row 2: what then is wrong with the header, or with the version, is told in the modern way."""
    assert era_of(_modern(method, named), version, in_session=in_session) is Era.MODERN


def test_a_notification_that_names_its_version_is_modern_too() -> None:
    """Row 2."""
    body = {"jsonrpc": "2.0", "method": "notifications/x", "params": {"_meta": {META_VERSION: "x"}}}
    assert era_of(_message(json.dumps(body)), None, in_session=True) is Era.MODERN


@pytest.mark.parametrize("version", [None, *KNOWN_VERSIONS])
@pytest.mark.parametrize("body", LEGACY_BODIES)
def test_without_any_modern_mark_it_is_legacy(body: Message | list[Message], version: str | None) -> None:
    """Rows 3 and 4."""
    assert era_of(body, version, in_session=False) is Era.LEGACY


@pytest.mark.parametrize(
    "params",
    [
        {"arguments": {"_meta": {META_VERSION: MODERN_VERSION}}},
        {"_meta": {"x": {META_VERSION: MODERN_VERSION}}},
        {"_meta": {META_VERSION + "s": MODERN_VERSION, "text": META_VERSION}},
        {"_meta": META_VERSION},
        {"_meta": [META_VERSION]},
        {META_VERSION: MODERN_VERSION},
        {"text": "\\u0000 \\/"},
    ],
)
def test_the_mark_counts_only_where_it_belongs(params: dict[str, object]) -> None:
    """MCP 2026-07-28, basic, "_meta": a member of params._meta; else the name is a text like any other."""
    assert era_of(_request(**params), None, in_session=False) is Era.LEGACY


def _spellings(text: str) -> st.SearchStrategy[str]:
    """Return every way to write a string in JSON."""

    def written(character: str) -> st.SearchStrategy[str]:
        code = f"{ord(character):04x}"
        ways = [character, "\\u" + code, "\\u" + code.upper(), *(["\\/"] if character == "/" else [])]
        return st.sampled_from(ways)

    return st.tuples(*map(written, text)).map("".join)


@given(name=_spellings(META_VERSION), value=json_values)
def test_the_mark_may_be_written_in_any_way_that_json_has(name: str, value: bytes) -> None:
    r"""RFC 8259, 7: a name means what it decodes to; PHP writes every slash as \/."""
    meta = rendered([(f'"{name}"'.encode(), value)])
    body = rendered(
        [(b'"jsonrpc"', b'"2.0"'), (b'"method"', b'"x"'), (b'"params"', rendered([(b'"_meta"', meta)]))]
    )
    for text in (body, rendered([(b'"id"', b"1")])[:-1] + b"," + body[1:]):
        assert era_of(_message(text), None, in_session=False) is Era.MODERN


def test_a_slash_may_be_escaped_and_nothing_else() -> None:
    r"""RFC 8259, 7: as PHP writes it; the one escape that has no \u in it."""
    name = META_VERSION.replace("/", r"\/")
    text = '{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"%s":"x"}}}' % name  # noqa: UP031 - braces
    assert era_of(_message(text), None, in_session=False) is Era.MODERN


@given(params=json_values)
def test_whatever_the_params_are_there_is_an_era(params: bytes) -> None:
    """Ours: they are a client's, and may be anything."""
    body = _message(b'{"jsonrpc":"2.0","id":1,"method":"x","params":%b}' % params)
    assert not isinstance(body, Response)
    assert era_of(body, None, in_session=False) is Era.LEGACY
