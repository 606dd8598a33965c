"""States that clients carry: what opens, and that nothing else does."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.bridge import Seal
from stdio_broker.bridge.seal import MAX_STATE_CHARS, Claims
from stdio_broker.errors import LocalProtocolError
from stdio_broker.protocol.jsonrpc import INVALID_PARAMS
from stdio_broker.protocol.modern import ModernRequest

from .modern_rig import request

OWNER = b"owner"
ARGUMENTS = b'"name":"pay","arguments":{"to":"anna","sum":1.0}'
CLAIMS = Claims(7, 100.0, call="name", round=2, inner="the server's own")


def _refused(
    seal: Seal, state: str, *, owner: bytes = OWNER, asked: ModernRequest | None = None, now: float = 99.0
) -> None:
    """Check that a state does not open, and that nobody can tell why."""
    asked = asked or request(b'"x"', params=ARGUMENTS)
    with pytest.raises(LocalProtocolError) as caught:
        seal.open(state, owner=owner, request=asked, now=now)
    assert str(caught.value) == "Invalid or expired requestState: send the request again without it"
    assert (caught.value.code, caught.value.request_id) == (INVALID_PARAMS, asked.id)
    assert caught.value.data is None


@given(
    claims=st.builds(
        Claims,
        child=st.integers(0, 2**40),
        expires=st.floats(100, 1e9),
        call=st.text(max_size=8),
        round=st.integers(0, 99),
        inner=st.one_of(st.none(), st.text(max_size=40)),
    )
)
def test_a_state_says_what_was_sealed_in_it(claims: Claims) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr: a server's own state comes back to the letter."""
    seal, asked = Seal(), request(params=ARGUMENTS)
    state = seal.seal(claims, owner=OWNER, request=asked)
    assert seal.open(state, owner=OWNER, request=asked, now=99.0) == claims


def test_a_state_fits_a_repetition_that_is_written_anew() -> None:
    """MCP 2026-07-28, basic/patterns/mrtr: a retry is a request of its own, with its own id and `_meta`."""
    seal = Seal()
    state = seal.seal(CLAIMS, owner=OWNER, request=request(b"1", params=ARGUMENTS))
    again = request(
        b"2",
        params=b'"arguments": { "sum": 1.0, "to": "anna" },"inputResponses":{},"name":"p\\u0061y"',
        progressToken=9,
    )
    assert seal.open(state, owner=OWNER, request=again, now=0.0) == CLAIMS


@pytest.mark.parametrize(
    "params",
    [
        b'"name":"pay","arguments":{"to":"anna","sum":2.0}',
        b'"name":"pay","arguments":{"to":"eve","sum":1.0}',
        b'"name":"pay","arguments":{}',
        b'"name":"pay"',
        b'"name":"PAY","arguments":{"to":"anna","sum":1.0}',
        b'"uri":"pay","arguments":{"to":"anna","sum":1.0}',
    ],
)
def test_a_state_of_another_request_is_refused(params: bytes) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "Server Requirements": bind it to the original request."""
    seal = Seal()
    _refused(
        seal, seal.seal(CLAIMS, owner=OWNER, request=request(params=ARGUMENTS)), asked=request(params=params)
    )


def test_a_state_of_another_method_is_refused() -> None:
    """The same."""
    seal = Seal()
    state = seal.seal(CLAIMS, owner=OWNER, request=request(method="prompts/get", params=ARGUMENTS))
    _refused(seal, state)


def test_a_state_of_somebody_else_is_refused() -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "Server Requirements": bind it to the principal."""
    seal = Seal()
    _refused(seal, seal.seal(CLAIMS, owner=b"other", request=request(params=ARGUMENTS)))


def test_no_owner_can_be_chosen_that_looks_like_another_with_another_request() -> None:
    """Ours: the two are bound apart."""
    seal, asked = Seal(), request(params=ARGUMENTS)
    state = seal.seal(CLAIMS, owner=OWNER + b"x", request=asked)
    _refused(seal, state, asked=request(method="x" + asked.method, params=ARGUMENTS))


def test_a_state_of_another_process_is_refused() -> None:
    """Ours: a state is good as long as the child that can use it, at most."""
    _refused(Seal(), Seal().seal(CLAIMS, owner=OWNER, request=request(params=ARGUMENTS)))


def test_a_state_ends() -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "Server Requirements": an expiry."""
    seal, asked = Seal(), request(params=ARGUMENTS)
    state = seal.seal(CLAIMS, owner=OWNER, request=asked)
    assert seal.open(state, owner=OWNER, request=asked, now=99.999) == CLAIMS
    _refused(seal, state, now=100.0)
    _refused(seal, state, now=1e9)


@given(data=st.data())
def test_a_state_that_was_touched_is_refused(data: st.DataObject) -> None:
    """MCP 2026-07-28, basic/patterns/mrtr, "Server Requirements": integrity. Flipped, cut, or longer."""
    seal = Seal()
    state = seal.seal(CLAIMS, owner=OWNER, request=request(params=ARGUMENTS))
    raw = bytearray(base64.urlsafe_b64decode(state + "=" * (-len(state) % 4)))
    way = data.draw(st.sampled_from(["flip", "cut", "longer"]))
    if way == "flip":
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif way == "cut":
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    else:
        raw += data.draw(st.binary(min_size=1, max_size=4))
    _refused(seal, base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("="))


@given(
    state=st.one_of(
        st.text(max_size=80), st.binary(max_size=80).map(lambda raw: base64.b64encode(raw).decode())
    )
)
def test_a_state_that_was_made_up_is_refused(state: str) -> None:
    """Ours: whatever it is, the answer is the same."""
    _refused(Seal(), state)


@pytest.mark.parametrize("length", [MAX_STATE_CHARS, MAX_STATE_CHARS + 1, 4 * MAX_STATE_CHARS])
def test_a_state_that_is_too_long_is_not_even_looked_at(length: int) -> None:
    """Ours: the constant says why."""
    _refused(Seal(), "A" * length)


def test_two_states_of_the_same_are_not_alike() -> None:
    """RFC 8439, 2.8: a nonce must not come again under the same key."""
    seal, asked = Seal(), request(params=ARGUMENTS)
    assert len({seal.seal(CLAIMS, owner=OWNER, request=asked) for _ in range(100)}) == 100


def test_a_state_does_not_show_what_is_in_it() -> None:
    """Ours: how many children there are, and what a server keeps in its state, is nobody's business."""
    state = Seal().seal(Claims(7, 100.0, inner="secret" * 9), owner=OWNER, request=request(params=ARGUMENTS))
    assert b"secret" not in base64.urlsafe_b64decode(state + "=" * (-len(state) % 4))
