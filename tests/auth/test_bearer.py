"""The Authorization field, byte by byte, and the challenge."""

import re
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stdio_broker.auth.bearer import MAX_TOKEN_BYTES, bearer_token, challenge
from stdio_broker.errors import Unauthenticated

#: RFC 6750, section 2.1: b64token = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="
TOKENS = st.builds(
    lambda body, padding: (body + padding).encode(),
    st.text(string.ascii_letters + string.digits + "-._~+/", min_size=1, max_size=80),
    st.text("=", max_size=3),
)

#: In any case: RFC 9110, section 11.1.
SCHEMES = st.tuples(*(st.sampled_from([char.lower(), char.upper()]) for char in "bearer")).map(
    lambda chars: "".join(chars).encode()
)


@given(scheme=SCHEMES, spaces=st.integers(1, 3), token=TOKENS)
def test_a_token_is_read_as_it_stands(scheme: bytes, spaces: int, token: bytes) -> None:
    """RFC 6750, section 2.1: credentials = "Bearer" 1*SP b64token."""
    assert bearer_token(scheme + b" " * spaces + token) == token


@given(field=st.binary(max_size=60))
@example(b"Bearer a\n")
@example(b"Bearer a b")
@example(b"Bearer =")
def test_what_is_taken_is_a_token_and_all_else_is_refused(field: bytes) -> None:
    """The grammar again, in other words."""
    try:
        token = bearer_token(field)
    except Unauthenticated:
        assert re.fullmatch(rb"(?i:bearer) +[\w.~+/-]+=*", field, re.ASCII) is None
    else:
        assert field.lower().startswith(b"bearer ")
        assert field.endswith(b" " + token)
        assert token


@pytest.mark.parametrize(
    "field",
    [
        b"Bearer",
        b"Bearer ",
        b"Bearer\tabc",
        b" Bearer abc",
        b"Bearer abc ",
        b"Bearer abc def",
        b"Bearer abc, Bearer def",
        b"Bearer abc,Bearer abc",
        b"Basic dTpw, Bearer abc",
        b"Bearer =abc",
        b"Bearer abc=def",
        b'Bearer "abc"',
        b"Bearer token=abc",
        b"Bearerabc",
        b"BEARER ab\x00c",
        b"Bearer ab\xe9c",
        "Bearer ключ".encode(),
        b"Bearer abc\r\n",
        b"Bearer " + b"a" * (MAX_TOKEN_BYTES + 1),
        b"Bearer a" + b"=" * MAX_TOKEN_BYTES,
    ],
)
def test_a_field_that_is_not_one_token_is_a_bad_proof(field: bytes) -> None:
    """Ours: two fields, white space and the like are not repaired, but refused like an unknown key."""
    with pytest.raises(Unauthenticated) as caught:
        bearer_token(field)
    assert caught.value.presented


def test_the_longest_token_is_taken() -> None:
    assert len(bearer_token(b"Bearer " + b"a" * MAX_TOKEN_BYTES)) == MAX_TOKEN_BYTES


@pytest.mark.parametrize("field", [None, b"", b"Basic dXNlcjpwYXNz", b'Digest username="u"', b"\xff"])
def test_without_a_bearer_there_is_no_proof(field: bytes | None) -> None:
    """RFC 6750, section 3.1: another scheme is a client that does not know what is expected."""
    with pytest.raises(Unauthenticated) as caught:
        bearer_token(field)
    assert not caught.value.presented


@given(field=st.binary(min_size=3, max_size=40))
def test_an_error_does_not_show_the_field(field: bytes) -> None:
    with pytest.raises(Unauthenticated) as caught:
        bearer_token(b"Bearer \xff" + field)
    assert str(caught.value) == str(Unauthenticated(presented=True))


def test_the_challenge_is_constant_and_has_an_error_only_for_a_proof() -> None:
    """RFC 6750, sections 3 and 3.1."""
    assert challenge(Unauthenticated(presented=False)) == b'Bearer realm="stdio-broker"'
    assert challenge(Unauthenticated(presented=True)) == b'Bearer realm="stdio-broker", error="invalid_token"'
