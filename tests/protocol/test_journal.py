"""What a session can be told again from: what the server has agreed to, and nothing else."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.protocol import journal as journal_module
from stdio_broker.protocol.journal import MAX_ENTRY_BYTES, MAX_SUBSCRIPTIONS, Entry, Journal, Likeness
from stdio_broker.protocol.jsonrpc import Members, Request, Response, object_members, parse_line

from .strategies import json_objects, permuted, white_space

Answer = dict[str, object]

CAPABILITIES: Answer = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": False},
    "resources": {"listChanged": True, "subscribe": True},
    "logging": {},
}
AGREED: Answer = {
    "protocolVersion": "2025-11-25",
    "capabilities": CAPABILITIES,
    "serverInfo": {"name": "s", "version": "1"},
}


def _request(method: str, params: bytes | None = b"{}") -> Request:
    rest = b"" if params is None else b',"params":' + params
    (message,) = parse_line(b'{"jsonrpc":"2.0","id":1,"method":"' + method.encode() + b'"' + rest + b"}")
    assert isinstance(message, Request)
    return message


def _response(member: bytes) -> Response:
    (message,) = parse_line(b'{"jsonrpc":"2.0","id":1,' + member + b"}")
    assert isinstance(message, Response)
    return message


OK = b'"result":{}'
REFUSED = b'"error":{"code":-1,"message":"no"}'


def _tell(
    journal: Journal, method: str, params: bytes | None = b"{}", answer: bytes = OK
) -> tuple[Entry | None, bool]:
    """Let the client ask for something, and the server answer."""
    entry = journal.entry(_request(method, params))
    return entry, entry is not None and journal.commit(entry, _response(answer))


def _members(value: object) -> Members:
    members = object_members(msgspec.Raw(json.dumps(value).encode()))
    assert members is not None
    return members


def _result(text: bytes) -> Members:
    """Return a result as the child's reader has it."""
    return object_members(_response(b'"result":' + text).members["result"]) or {}


def _agreed(answer: object = None) -> Journal:
    journal = Journal()
    _tell(journal, "initialize", b'{"x":1}', b'"result":' + json.dumps(answer or AGREED).encode())
    return journal


def _asked(journal: Journal) -> list[tuple[str, bytes]]:
    return [(entry.method, entry.params) for entry in journal.entries()]


def _uri(uri: str) -> bytes:
    return json.dumps({"uri": uri}).encode()


@pytest.mark.parametrize("method", ["tools/call", "ping", "initialized", "resources/read", "tasks/get"])
def test_what_is_over_with_its_answer_is_not_kept(method: str) -> None:
    """Design decision 6: calls are never replayed."""
    assert _tell(Journal(), method) == (None, False)


def test_nothing_counts_before_the_server_has_agreed() -> None:
    """Ours: what one child refused no other one is asked."""
    journal = Journal()
    for method, params in (
        ("initialize", b'{"x":1}'),
        ("logging/setLevel", b'{"level":"info"}'),
        ("resources/subscribe", _uri("a")),
    ):
        entry, new = _tell(journal, method, params, REFUSED)
        assert entry is not None
        assert not new
    assert journal.initialize_params is None
    assert (_asked(journal), journal.subscriptions) == ([], 0)
    assert not journal.initialized
    assert journal.complete


@given(params=json_objects)
def test_each_param_of_initialize_is_kept_to_the_letter(params: bytes) -> None:
    """Design decision 2: what the client said is said again as it was."""
    journal, params = Journal(), params.translate(None, b"\r\n")
    _, new = _tell(journal, "initialize", params)
    assert new
    kept = object_members(msgspec.Raw(journal.initialize_params or b"")) or {}
    said = object_members(msgspec.Raw(params)) or {}
    assert {name: bytes(value) for name, value in kept.items()} == {
        name: bytes(value) for name, value in said.items()
    }


def test_the_last_log_level_counts() -> None:
    """MCP 2025-11-25, server/utilities/logging: a level holds until another one is set."""
    journal = _agreed()
    for level in ("info", "debug", "error"):
        _tell(journal, "logging/setLevel", json.dumps({"level": level}).encode())
    _tell(journal, "logging/setLevel", b'{"level":"nonsense"}', REFUSED)
    assert _asked(journal) == [("logging/setLevel", b'{"level":"error"}')]


def test_the_level_comes_first_and_subscriptions_in_their_order() -> None:
    """Ours: as the client asked; a level that comes late would let logs through meanwhile."""
    journal = _agreed()
    for uri in ("b", "a"):
        _tell(journal, "resources/subscribe", _uri(uri))
    _tell(journal, "logging/setLevel", b'{"level":"info"}')
    assert _asked(journal) == [
        ("logging/setLevel", b'{"level":"info"}'),
        ("resources/subscribe", b'{"uri":"b"}'),
        ("resources/subscribe", b'{"uri":"a"}'),
    ]


@given(steps=st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans())))
def test_what_is_subscribed_is_what_the_server_agreed_to_last(steps: list[tuple[str, bool, bool]]) -> None:
    """MCP 2025-11-25, server/resources: subscriptions are a set of resources."""
    journal = _agreed()
    expected: set[str] = set()
    for uri, wanted, agreed in steps:
        method = "resources/subscribe" if wanted else "resources/unsubscribe"
        entry, new = _tell(journal, method, _uri(uri), OK if agreed else REFUSED)
        assert new == agreed
        assert entry is not None
        assert entry.uri == uri
        if agreed:
            (expected.add if wanted else expected.discard)(uri)
    assert {entry.uri for entry in journal.entries()} == expected
    assert journal.subscriptions == len(expected)
    assert sorted(json.loads(update)["params"]["uri"] for update in journal.updates()) == sorted(expected)


@pytest.mark.parametrize("method", ["resources/subscribe", "resources/unsubscribe"])
@pytest.mark.parametrize("params", [b"{}", b'{"uri":7}', b"[]", b'"x"', None])
def test_a_subscription_to_no_resource_is_none(method: str, params: bytes | None) -> None:
    """Ours: whatever a server agrees to there, there is nothing to be said again."""
    journal = _agreed()
    _tell(journal, method, params)
    assert (journal.subscriptions, list(journal.entries())) == (0, [])


def test_what_a_list_is_asked_for_may_change_while_it_is_said_again() -> None:
    """Ours: the client is not stopped for the replay."""
    journal = _agreed()
    _tell(journal, "resources/subscribe", _uri("a"))
    said = journal.entries()
    assert next(said).uri == "a"
    _tell(journal, "resources/subscribe", _uri("b"))
    assert list(said) == []
    assert [entry.uri for entry in journal.entries()] == ["a", "b"]


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        (b'{"uri":"a","_meta":{"progressToken":7}}', b'{"uri":"a","_meta":{}}'),
        (b'{"_meta":{"x":1.0,"progressToken":"t","y":2},"uri":"a"}', b'{"_meta":{"x":1.0,"y":2},"uri":"a"}'),
        (b'{"uri":"a","_meta":{"x":1}}', b'{"uri":"a","_meta":{"x":1}}'),
        (b'{"uri":"a","_meta":7}', b'{"uri":"a","_meta":7}'),
        (b'{"uri":"a","progressToken":7}', b'{"uri":"a","progressToken":7}'),
    ],
)
def test_a_progress_token_is_not_kept(params: bytes, kept: bytes) -> None:
    """Ours: in another child it may be that of another call; nobody waits for its progress any more."""
    request = _request("resources/subscribe", params)
    entry = Journal().entry(request)
    assert entry is not None
    assert entry.params == kept
    # What goes to the child now is not touched.
    assert bytes(request.members["params"]) == params


# Bounds.


def test_a_request_too_long_to_be_kept_makes_the_journal_incomplete() -> None:
    """Ours: what cannot be said again must not be left out in silence."""
    journal = _agreed()
    short = b'{"uri":"' + b"x" * (MAX_ENTRY_BYTES - 10) + b'"}'
    assert len(short) == MAX_ENTRY_BYTES
    assert journal.entry(_request("resources/subscribe", short)) is not None
    assert journal.complete
    assert journal.entry(_request("resources/subscribe", short.replace(b"x", b"xx", 1))) is None
    assert not journal.complete


def test_too_many_subscriptions_make_the_journal_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Style guide, "Data": every table has a bound."""
    assert MAX_SUBSCRIPTIONS == 1024
    monkeypatch.setattr(journal_module, "MAX_SUBSCRIPTIONS", 2)
    journal = _agreed()
    for uri in ("a", "b", "a"):
        _tell(journal, "resources/subscribe", _uri(uri))
    assert (journal.complete, journal.subscriptions) == (True, 2)
    _tell(journal, "resources/subscribe", _uri("c"))
    assert (journal.complete, journal.subscriptions) == (False, 0)
    # It is not known any more what else there was.
    _tell(journal, "resources/unsubscribe", _uri("c"))
    assert (journal.complete, journal.subscriptions) == (False, 0)


def test_an_incomplete_journal_keeps_no_subscriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: a client that goes on subscribing fills nothing."""
    monkeypatch.setattr(journal_module, "MAX_SUBSCRIPTION_BYTES", 100)
    journal = _agreed()
    _tell(journal, "resources/subscribe", _uri("x" * 80))
    assert (journal.complete, journal.subscriptions) == (True, 1)
    for number in range(50):
        _tell(journal, "resources/subscribe", _uri(f"uri {number}"))
    assert (journal.complete, journal.subscriptions) == (False, 0)


# Another process's answer.


@given(members=permuted(*AGREED.items()), capabilities=permuted(*CAPABILITIES.items()), space=white_space)
def test_the_same_answer_is_the_same_however_it_is_written(
    members: list[tuple[str, object]], capabilities: list[tuple[str, object]], space: bytes
) -> None:
    """RFC 8259: the order of members and white space mean nothing."""
    answer = {**dict(members), "capabilities": dict(capabilities)}
    written = json.dumps(answer, separators=("," + space.decode(), ":" + space.decode()))
    assert _agreed().compare(object_members(msgspec.Raw(written.encode())) or {}) is Likeness.SAME


@pytest.mark.parametrize(
    "value",
    [
        b"1e999",  # no number that there is here
        b"123456789012345678901234567890",
        b'"\\ud800"',
        b"[" * 500 + b"]" * 500,
        b"[" + b"[]," * 50_000 + b"[]]",  # would take a hundred times as much memory
    ],
    ids=["too much for a float", "too much for 64 bits", "half a character", "deep", "long"],
)
def test_an_answer_that_is_hard_to_read_is_compared_all_the_same(value: bytes) -> None:
    """Ours: a server writes what it likes, and no answer of one is a mistake of ours."""
    text = b'{"protocolVersion":"2025-11-25","capabilities":{},"instructions":' + value + b"}"
    journal = Journal()
    _tell(journal, "initialize", b"{}", b'"result":' + text)
    assert journal.compare(_result(text)) is Likeness.SAME
    assert journal.compare(_result(text.replace(b"instructions", b"others"))) is Likeness.CHANGED


@pytest.mark.parametrize(
    ("change", "likeness"),
    [
        ({}, Likeness.SAME),
        ({"serverInfo": {"name": "s", "version": "2"}}, Likeness.CHANGED),
        ({"instructions": "new"}, Likeness.CHANGED),
        ({"protocolVersion": "2025-06-18"}, Likeness.INCOMPATIBLE),
        ({"capabilities": {**CAPABILITIES, "tools": {}}}, Likeness.INCOMPATIBLE),
        ({"capabilities": {**CAPABILITIES, "completions": {}}}, Likeness.INCOMPATIBLE),
        ({"capabilities": {}}, Likeness.INCOMPATIBLE),
    ],
)
def test_another_answer_is_bearable_unless_what_was_agreed_is_another(
    change: Answer, likeness: Likeness
) -> None:
    """Issue 5: told by list_changed, or the session ends where that is the only honest answer."""
    assert _agreed().compare(_members({**AGREED, **change})) is likeness


@pytest.mark.parametrize("missing", ["protocolVersion", "capabilities"])
def test_an_answer_without_what_was_agreed_is_incompatible(missing: str) -> None:
    """Ours: that it says nothing is not that it says the same."""
    answer = {name: value for name, value in AGREED.items() if name != missing}
    assert _agreed().compare(_members(answer)) is Likeness.INCOMPATIBLE
    assert _agreed(answer).compare(_members(answer)) is Likeness.SAME


def test_before_anything_was_agreed_no_answer_fits() -> None:
    """Ours."""
    assert Journal().compare(_members(AGREED)) is Likeness.INCOMPATIBLE


def test_a_very_long_answer_is_the_same_only_if_it_is_written_the_same() -> None:
    """Ours: to know what it means takes many times as much memory, and a hostile server has 64 MiB of it."""
    agreed, long = b'"protocolVersion":"2025-11-25","capabilities":{}', b'"x":[' + b"[]," * 30_000 + b"[]]"
    journal = Journal()
    _tell(journal, "initialize", b"{}", b'"result":{' + agreed + b"," + long + b"}")
    assert journal.compare(_result(b"{ " + agreed + b" , " + long + b" }")) is Likeness.SAME
    assert journal.compare(_result(b"{" + long + b"," + agreed + b"}")) is Likeness.CHANGED


# What a client is told.


def test_the_client_is_told_of_those_lists_only_whose_changes_were_announced() -> None:
    """MCP 2025-11-25, lifecycle: both parties MUST use only capabilities that were negotiated."""
    assert [json.loads(change) for change in _agreed().list_changes()] == [
        {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"},
        {"jsonrpc": "2.0", "method": "notifications/resources/list_changed"},
    ]
    assert Journal().list_changes() == []
    assert _agreed({"protocolVersion": "2025-11-25", "capabilities": 7}).list_changes() == []
    assert _agreed({"capabilities": {"tools": {"listChanged": 1}, "prompts": True}}).list_changes() == []


def test_the_client_is_told_that_each_subscribed_resource_may_have_changed() -> None:
    """MCP 2025-11-25, server/resources, "Subscriptions"."""
    journal = _agreed()
    _tell(journal, "resources/subscribe", _uri('a "quoted" é'))
    (update,) = journal.updates()
    assert json.loads(update) == {
        "jsonrpc": "2.0",
        "method": "notifications/resources/updated",
        "params": {"uri": 'a "quoted" é'},
    }


def test_what_is_kept_does_not_hold_the_whole_request() -> None:
    """Ours: a view would keep the buffer that it looks into, for as long as the session lives."""
    journal = Journal()
    big = b'{"uri":"a","_meta":{"progressToken":1}}'
    entry, _ = _tell(journal, "resources/subscribe", big)
    assert entry is not None
    assert type(entry.params) is bytes
    assert type(entry.uri) is str
