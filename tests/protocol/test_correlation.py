"""Every answer to its own request, under its own id, once: whatever the order of what is said."""

import gc
import itertools
import json
import tracemalloc
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from stdio_broker.protocol.correlation import Correlation
from stdio_broker.protocol.encoding import LONG_BYTES, Pieces, encode_message
from stdio_broker.protocol.jsonrpc import Message, Notification, Request, Response, parse_line

from .strategies import ids, json_objects, json_values, meaning, rendered

# Ids that are easily taken for one another. Few, so that they meet.
_ALIKE = [b"1", b'"1"', b"1.0", b"2", b'"2"', b"18446744073709551617", b'"\\u0031"', b"null"]


@dataclass(frozen=True, slots=True, eq=False)
class _Exchange:
    """Whoever waits for an answer; only itself."""


def _correlation() -> Correlation[_Exchange]:
    numbers = itertools.count(1)
    return Correlation(lambda: f"q{next(numbers)}")


def _request(text: bytes) -> Request:
    (message,) = parse_line(text)
    assert isinstance(message, Request)
    return message


def _notification(text: bytes) -> Notification:
    (message,) = parse_line(text)
    assert isinstance(message, Notification)
    return message


def _response(text: bytes) -> Response:
    (message,) = parse_line(text)
    assert isinstance(message, Response)
    return message


def _call(identifier: bytes, token: bytes | None = None) -> Request:
    params = b"{}" if token is None else b'{"_meta":{"progressToken":' + token + b"}}"
    return _request(b'{"jsonrpc":"2.0","id":' + identifier + b',"method":"m","params":' + params + b"}")


def _answer(identifier: bytes, result: bytes = b"{}") -> Response:
    return _response(b'{"jsonrpc":"2.0","id":' + identifier + b',"result":' + result + b"}")


def _progress(token: bytes) -> Notification:
    return _notification(
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":' + token + b"}}"
    )


def _cancel(identifier: bytes) -> Notification:
    return _notification(
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":' + identifier + b"}}"
    )


def _id_of(line: bytes) -> bytes:
    (message,) = parse_line(line)
    assert isinstance(message, (Request, Response))
    return message.id


# One call.


@given(identifier=ids, result=json_values)
def test_an_answer_comes_back_under_the_id_that_the_client_wrote(identifier: bytes, result: bytes) -> None:
    """JSON-RPC 2.0, 5: the id "MUST be the same". To the letter: "1" is not 1, and 1.0 is neither."""
    correlation, owner = _correlation(), _Exchange()
    line = correlation.call(_call(identifier), owner)
    one_line = result.translate(None, b"\r\n")
    assert correlation.answer(_answer(_id_of(line), one_line)) == (
        owner,
        b'{"jsonrpc":"2.0","id":' + identifier + b',"result":' + one_line + b"}",
    )


@given(identifier=ids, token=ids, params=json_objects)
def test_a_call_crosses_with_its_id_and_its_progress_token_changed_and_nothing_else(
    identifier: bytes, token: bytes, params: bytes
) -> None:
    """Our rule (design decision 2): only ids and progress tokens are rewritten."""

    def written(identifier: bytes, token: bytes) -> bytes:
        meta = rendered([(b'"a"', b"1.0"), (b'"progressToken"', token), (b'"b"', params)])
        return (
            b'{"jsonrpc":"2.0","id":' + identifier + b',"method":"m",'
            b'"params":{"name":"x","_meta":' + meta + b',"arguments":' + params + b'},"x":1E5}'
        ).translate(None, b"\r\n")

    correlation = _correlation()
    assert correlation.call(_request(written(identifier, token)), _Exchange()) == written(b"1", b"1")


@given(params=json_values)
def test_a_call_without_a_progress_token_keeps_its_params_to_the_letter(params: bytes) -> None:
    text = b'{"jsonrpc":"2.0","id":1,"method":"m","params":' + params.translate(None, b"\r\n") + b"}"
    assert _correlation().call(_request(text), _Exchange()) == text


@pytest.mark.parametrize(
    "params",
    [
        b'"progressToken"',
        b'["progressToken"]',
        b'{"progressToken":7}',
        b'{"_meta":7,"x":"progressToken"}',
        b'{"_meta":{"x":"progressToken"}}',
        b'{"_meta":{"_meta":{"progressToken":7}}}',
    ],
)
def test_what_only_looks_like_a_progress_token_is_left_alone(params: bytes) -> None:
    """MCP 2025-11-25, basic/utilities/progress: the token stands in `params._meta`."""
    correlation = _correlation()
    text = b'{"jsonrpc":"2.0","id":1,"method":"m","params":' + params + b"}"
    assert correlation.call(_request(text), _Exchange()) == text
    assert correlation.progress(_progress(b"7")) is None
    assert correlation.progress(_progress(b"1")) is None


def test_a_progress_token_whose_name_is_written_with_escapes_is_found() -> None:
    """RFC 8259, 8.3: it is the same name."""
    correlation, owner = _correlation(), _Exchange()
    params = rb'{"_m\u0065ta":{"\u0070rogressToken":"t"}}'
    line = correlation.call(
        _request(b'{"jsonrpc":"2.0","id":7,"method":"m","params":' + params + b"}"), owner
    )
    assert line == b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"progressToken":1}}}'


def test_an_open_call_keeps_its_token_and_not_its_whole_request() -> None:
    """Our bound: a call may be open for hours, and its arguments may be large."""
    tracemalloc.start()
    try:
        argument = b'"' + b"x" * 1024 * 1024 + b'"'
        request = _request(
            b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"x":'
            + argument
            + b',"_meta":{"progressToken":"t"}}}'
        )
        correlation = _correlation()
        correlation.call(request, _Exchange())
        del request, argument
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 64 * 1024


@given(identifier=ids, token=ids, params=json_objects)
def test_a_long_call_crosses_in_pieces_as_it_would_in_one(
    identifier: bytes, token: bytes, params: bytes
) -> None:
    """Ours: only its id and its progress token are copied."""
    meta = b'"_meta":{"progressToken":' + token + b"}"
    text = b'{"jsonrpc":"2.0","id":%b,"method":"m","params":{%b,"a":%b,"b":"%b"}}' % (
        identifier,
        meta,
        params,
        b"x" * LONG_BYTES,
    )
    request, owner, correlation = _request(text), _Exchange(), _correlation()
    line = encode_message(correlation.open(request, owner), request.source)
    assert isinstance(line, Pieces)
    assert bytes(line) == _correlation().call(_request(text), owner)
    assert any(isinstance(piece, memoryview) for piece in line.pieces)
    assert correlation.settle(answer := _answer(b"1")) is owner
    assert bytes(answer.members["id"]) == identifier
    assert correlation.settle(_answer(b"1")) is None


def test_a_call_that_is_opened_once_more_still_has_the_token_of_the_client() -> None:
    """Ours: a request may be sent to the successor of a child that has ended."""
    request, correlation, owner = _call(b"7", b'"t"'), _correlation(), _Exchange()
    for child_id in (b"1", b"2"):
        assert b'"progressToken":' + child_id + b"}" in correlation.call(request, owner)
        progress = correlation.progress(_progress(child_id))
        assert progress is not None
        assert b'"progressToken":"t"' in progress[1]


# Progress.


@given(token=ids)
def test_progress_comes_back_under_the_token_that_the_client_wrote(token: bytes) -> None:
    """MCP 2025-11-25, basic/utilities/progress: the token is "a string or integer value"."""
    correlation, owner = _correlation(), _Exchange()
    child_id = _id_of(correlation.call(_call(b"7", token), owner))
    progress = _notification(
        b'{"jsonrpc":"2.0","method":"notifications/progress",'
        b'"params":{"progress":0.50,"progressToken":' + child_id + b',"x":[ 1]},"y":1}'
    )
    assert correlation.progress(progress) == (
        owner,
        b'{"jsonrpc":"2.0","method":"notifications/progress",'
        b'"params":{"progress":0.50,"progressToken":' + token + b',"x":[ 1]},"y":1}',
    )


@pytest.mark.parametrize("params", [b"7", b"[1]", b"{}", b'{"progressToken":"1"}', b'{"progressToken":2}'])
def test_progress_of_nothing_that_is_open_is_dropped(params: bytes) -> None:
    """MCP 2025-11-25, basic/utilities/progress: tokens of active requests only."""
    correlation = _correlation()
    correlation.call(_call(b"7", b"8"), _Exchange())
    text = b'{"jsonrpc":"2.0","method":"notifications/progress","params":' + params + b"}"
    assert correlation.progress(_notification(text)) is None


# Cancellation.


@pytest.mark.parametrize("params", [b"7", b"[1]", b"{}", b'{"requestId":1}', b'{"requestId":"7"}'])
def test_a_cancellation_of_nothing_that_is_open_is_dropped(params: bytes) -> None:
    """MCP 2025-11-25, basic/utilities/cancellation: unknown ids SHOULD be ignored."""
    correlation = _correlation()
    correlation.call(_call(b"7"), _Exchange())
    text = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":' + params + b"}"
    assert correlation.cancel(_notification(text)) is None
    assert correlation.withdraw(_notification(text)) is None


def test_a_cancellation_without_params_is_dropped() -> None:
    text = b'{"jsonrpc":"2.0","method":"notifications/cancelled"}'
    assert _correlation().cancel(_notification(text)) is None


def test_a_cancellation_keeps_its_reason_and_all_else() -> None:
    correlation = _correlation()
    correlation.call(_call(b'"a"'), _Exchange())
    text = (
        b'{"jsonrpc":"2.0","method":"notifications/cancelled",'
        b'"params":{"reason":"\\u0041","requestId":"a","_meta":{ }},"x":1.0}'
    )
    cancelled = correlation.cancel(_notification(text))
    assert cancelled is not None
    assert cancelled[0] == text.replace(b'"requestId":"a"', b'"requestId":1')


def test_a_call_that_its_client_cancelled_is_no_longer_open() -> None:
    """MCP 2025-11-25, basic/utilities/cancellation: it gets no answer, so nothing else would close it."""
    correlation, exchange = _correlation(), _Exchange()
    correlation.call(_call(b'"a"'), exchange)
    cancelled = correlation.cancel(_cancel(b'"a"'))
    assert cancelled is not None
    assert cancelled[1:] == (exchange, b'"a"')
    assert correlation.calls == 0
    assert correlation.answer(_answer(b"1")) is None
    assert correlation.cancel(_cancel(b'"a"')) is None


def test_a_cancellation_means_the_newest_call_under_its_id() -> None:
    """Our rule: some clients reuse an id while its first call is still open."""
    correlation, first, second = _correlation(), _Exchange(), _Exchange()
    correlation.call(_call(b"7"), first)
    correlation.call(_call(b"7"), second)
    # The end of the first call does not make the second one unknown.
    assert correlation.answer(_answer(b"1")) is not None
    cancelled = correlation.cancel(_cancel(b"7"))
    assert cancelled is not None
    assert b'"requestId":2' in cancelled[0]
    assert cancelled[1] is second


def test_a_question_that_its_child_took_back_is_no_longer_open() -> None:
    """MCP 2025-11-25, basic/utilities/cancellation: it gets no answer, so nothing else would close it."""
    correlation = _correlation()
    correlation.ask(_request(b'{"jsonrpc":"2.0","id":5,"method":"roots/list"}'))
    withdrawn = correlation.withdraw(_cancel(b"5"))
    assert withdrawn is not None
    assert json.loads(withdrawn)["params"] == {"requestId": "q1"}
    assert correlation.questions == 0
    assert correlation.reply(_answer(b'"q1"')) is None
    assert correlation.withdraw(_cancel(b"5")) is None


# Questions.


@given(identifier=ids, params=json_objects)
def test_a_question_goes_out_under_our_id_and_its_answer_comes_back_under_the_childs(
    identifier: bytes, params: bytes
) -> None:
    correlation = _correlation()
    asked = correlation.ask(
        _request(b'{"params":' + params + b',"jsonrpc":"2.0","id":' + identifier + b',"method":"m"}')
    )
    assert meaning(asked) == meaning(b'{"params":' + params + b',"jsonrpc":"2.0","id":"q1","method":"m"}')
    assert correlation.reply(_answer(b'"q1"')) == (b'{"jsonrpc":"2.0","id":' + identifier + b',"result":{}}')


def test_the_answer_to_a_question_may_be_an_error() -> None:
    correlation = _correlation()
    correlation.ask(_request(b'{"jsonrpc":"2.0","id":5,"method":"roots/list"}'))
    error = _response(b'{"jsonrpc":"2.0","id":"q1","error":{"code":-1,"message":"no"}}')
    assert correlation.reply(error) == b'{"jsonrpc":"2.0","id":5,"error":{"code":-1,"message":"no"}}'


def test_questions_that_are_given_up_are_named_as_the_client_knows_them_and_are_closed() -> None:
    """Ours: their child has ended, and an answer to one of them reaches nobody."""
    correlation = _correlation()
    asked = [_id_of(correlation.ask(_call(identifier))) for identifier in (b"1", b'"1"')]
    assert correlation.abandon_questions() == asked
    assert correlation.questions == 0
    assert correlation.reply(_answer(asked[0])) is None
    assert correlation.withdraw(_cancel(b"1")) is None
    assert correlation.abandon_questions() == []


# Calls of our own.


@given(params=json_objects)
def test_a_call_of_our_own_is_answered_to_its_owner_under_no_id(params: bytes) -> None:
    """Design decision 6: what is said again to a fresh child; no client waits for its answer."""
    correlation, owner = _correlation(), _Exchange()
    one_line = params.translate(None, b"\r\n")
    line = correlation.query("logging/setLevel", one_line, owner)
    assert line == b'{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":' + one_line + b"}"
    assert correlation.calls == 1
    assert correlation.answer(_answer(b"1")) == (owner, b'{"jsonrpc":"2.0","id":null,"result":{}}')
    assert correlation.calls == 0


def test_a_call_of_our_own_shares_the_numbers_with_those_of_the_client() -> None:
    """Ours: the child must be able to tell them apart, and an answer to one is none to another."""
    correlation, ours, theirs = _correlation(), _Exchange(), _Exchange()
    lines = [
        correlation.query("a", b"{}", ours),
        correlation.call(_call(b"1"), theirs),
        correlation.statement("b", b"{}"),
        correlation.call(_call(b"2"), theirs),
    ]
    assert [_id_of(line) for line in lines] == [b"1", b"2", b"3", b"4"]
    assert correlation.answer(_answer(b"1")) == (ours, b'{"jsonrpc":"2.0","id":null,"result":{}}')
    assert correlation.answer(_answer(b"2")) == (theirs, b'{"jsonrpc":"2.0","id":1,"result":{}}')


def test_a_call_of_our_own_cannot_be_cancelled_by_the_client_and_has_no_progress() -> None:
    """Ours: the client knows nothing of it, so whatever it names is another one's."""
    correlation, owner = _correlation(), _Exchange()
    correlation.query("a", b"{}", owner)
    for identifier in (b"null", b"1", b'"1"'):
        assert correlation.cancel(_cancel(identifier)) is None
    assert correlation.progress(_progress(b"1")) is None
    assert correlation.close(owner) == (b"1", b"null")
    assert correlation.answer(_answer(b"1")) is None


def test_nobody_waits_for_the_answer_to_a_statement() -> None:
    """Ours: it is said again because the client has asked another child for it, which has answered."""
    correlation = _correlation()
    line = correlation.statement("resources/subscribe", b'{"uri":"a"}')
    assert line == b'{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"a"}}'
    assert correlation.calls == 0
    assert correlation.answer(_answer(b"1")) is None


# Any order of anything.


@dataclass(frozen=True, slots=True)
class _Open:
    child_id: bytes
    client_id: bytes
    token: bytes | None
    owner: _Exchange


@dataclass(frozen=True, slots=True)
class _Asked:
    question_id: bytes
    child_id: bytes


class _AnyInterleaving(RuleBasedStateMachine):
    """Clients that reuse ids, a child that answers anything at any time, and a table that must not care."""

    opened: Bundle[_Open] = Bundle("opened")
    closed: Bundle[_Open] = Bundle("closed")
    asked: Bundle[_Asked] = Bundle("asked")
    replied: Bundle[_Asked] = Bundle("replied")

    def __init__(self) -> None:
        super().__init__()
        self.correlation = _correlation()
        self.open: dict[bytes, _Open] = {}
        self.newest: dict[bytes, _Open] = {}
        self.questions: dict[bytes, _Asked] = {}
        self.child_ids: set[bytes] = set()

    def _opened(self, identifier: bytes, token: bytes | None) -> _Open:
        owner = _Exchange()
        line = self.correlation.call(_call(identifier, token), owner)
        call = _Open(_id_of(line), identifier, token, owner)
        assert call.child_id not in self.child_ids, "an id was used twice"
        if token is not None:
            assert b'"progressToken":' + call.child_id in line
        self.child_ids.add(call.child_id)
        self.open[call.child_id] = call
        self.newest[identifier] = call
        return call

    def _close(self, call: _Open) -> bool:
        """Return whether it was open."""
        return self.open.pop(call.child_id, None) is not None

    @rule(target=opened, identifier=st.sampled_from(_ALIKE[:-1]), token=st.none() | st.sampled_from(_ALIKE))
    def call(self, identifier: bytes, token: bytes | None) -> _Open:
        return self._opened(identifier, token)

    @rule(target=closed, call=consumes(opened))
    def answer(self, call: _Open) -> _Open:
        answered = self.correlation.answer(_answer(call.child_id))
        if self._close(call):
            assert answered is not None
            assert answered[0] is call.owner
            assert answered[1] == b'{"jsonrpc":"2.0","id":' + call.client_id + b',"result":{}}'
        else:
            assert answered is None
        return call

    @rule(target=closed, call=consumes(opened))
    def abandon(self, call: _Open) -> _Open:
        abandoned = self.correlation.abandon(call.child_id)
        assert abandoned == ((call.owner, call.client_id) if self._close(call) else None)
        return call

    @rule(target=closed, call=consumes(opened))
    def close_owner(self, call: _Open) -> _Open:
        closed = self.correlation.close(call.owner)
        assert closed == ((call.child_id, call.client_id) if self._close(call) else None)
        return call

    @rule(call=closed)
    def answer_again(self, call: _Open) -> None:
        assert self.correlation.answer(_answer(call.child_id)) is None
        assert self.correlation.abandon(call.child_id) is None
        assert self.correlation.close(call.owner) is None
        assert self.correlation.progress(_progress(call.child_id)) is None

    @rule(identifier=st.sampled_from([b"0", b"-1", b'"1"', b"null", b"1.0", b"1e0", b"999999"]))
    def answer_to_nothing(self, identifier: bytes) -> None:
        assert self.correlation.answer(_answer(identifier)) is None

    @rule(call=opened)
    def progress(self, call: _Open) -> None:
        routed = self.correlation.progress(_progress(call.child_id))
        if call.child_id in self.open and call.token is not None:
            assert routed is not None
            assert routed[0] is call.owner
            assert b'"progressToken":' + call.token + b"}" in routed[1]
        else:
            assert routed is None

    @rule(identifier=st.sampled_from(_ALIKE))
    def cancel(self, identifier: bytes) -> None:
        cancelled = self.correlation.cancel(_cancel(identifier))
        call = self.newest.get(identifier)
        if call is not None and self._close(call):
            assert cancelled is not None
            assert b'"requestId":' + call.child_id + b"}" in cancelled[0]
            assert cancelled[1:] == (call.owner, call.client_id)
        else:
            assert cancelled is None

    @rule(target=asked, identifier=st.sampled_from(_ALIKE[:-1]))
    def ask(self, identifier: bytes) -> _Asked:
        line = self.correlation.ask(
            _request(b'{"jsonrpc":"2.0","id":' + identifier + b',"method":"roots/list"}')
        )
        question = _Asked(_id_of(line), identifier)
        assert question.question_id not in self.questions
        self.questions[question.question_id] = question
        return question

    @rule(target=replied, question=consumes(asked))
    def reply(self, question: _Asked) -> _Asked:
        line = self.correlation.reply(_answer(question.question_id))
        if self.questions.pop(question.question_id, None) is None:
            assert line is None
        else:
            assert line == b'{"jsonrpc":"2.0","id":' + question.child_id + b',"result":{}}'
        return question

    @rule(question=replied)
    def reply_again(self, question: _Asked) -> None:
        assert self.correlation.reply(_answer(question.question_id)) is None

    @rule(identifier=st.sampled_from(_ALIKE))
    def withdraw(self, identifier: bytes) -> None:
        line = self.correlation.withdraw(_cancel(identifier))
        question = next((each for each in self.questions.values() if each.child_id == identifier), None)
        if question is None:
            assert line is None
        else:
            assert line is not None
            assert b'"requestId":' + question.question_id + b"}" in line
            del self.questions[question.question_id]

    @rule()
    def abandon_all(self) -> None:
        everybody = [(call.owner, call.client_id) for call in self.open.values()]
        assert self.correlation.abandon_all() == everybody
        self.open.clear()

    @invariant()
    def counts_are_right(self) -> None:
        assert self.correlation.calls == len(self.open)
        assert self.correlation.questions == len(self.questions)

    def teardown(self) -> None:
        for call in list(self.open.values()):
            answered = self.correlation.answer(_answer(call.child_id))
            assert answered is not None
            assert answered[0] is call.owner
        assert self.correlation.calls == 0


TestAnyInterleaving = _AnyInterleaving.TestCase
TestAnyInterleaving.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(params=json_values)
def test_no_params_raise_anything(params: bytes) -> None:
    """What stands in params is anybody's; only the envelope was checked."""
    correlation = _correlation()
    tail = b'"params":' + params + b"}"

    def message(rest: bytes) -> Message:
        return parse_line(b'{"jsonrpc":"2.0",' + rest + tail)[0]

    request = message(b'"id":1,"method":"m",')
    assert isinstance(request, Request)
    correlation.call(request, _Exchange())
    for look_at in (correlation.progress, correlation.cancel, correlation.withdraw):
        notification = message(b'"method":"m",')
        assert isinstance(notification, Notification)
        look_at(notification)
