"""The queue behind a client that has no stream open."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.bridge.backlog import Backlog


def _all(backlog: Backlog) -> list[bytes]:
    messages = []
    while (oldest := backlog.oldest) is not None:
        messages.append(oldest)
        assert backlog.take() == oldest
    return messages


def test_messages_come_out_in_the_order_in_which_they_came() -> None:
    backlog = Backlog(max_messages=3, max_bytes=10)
    assert [backlog.add(message) for message in (b"1", b"2", b"3")] == [[], [], []]
    assert _all(backlog) == [b"1", b"2", b"3"]
    with pytest.raises(IndexError):
        backlog.take()


def test_what_is_put_back_is_older_than_what_came_meanwhile() -> None:
    """Our rule: a client that comes back reads on where it stopped."""
    backlog = Backlog(max_messages=9, max_bytes=99)
    backlog.add(b"3")
    assert backlog.put_back([b"1", b"2"]) == []
    assert _all(backlog) == [b"1", b"2", b"3"]


def test_a_message_that_is_too_long_by_itself_costs_no_other() -> None:
    backlog = Backlog(max_messages=9, max_bytes=5)
    backlog.add(b"123")
    assert backlog.add(b"123456") == [b"123456"]
    assert _all(backlog) == [b"123"]


@given(
    sizes=st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=40),
    max_messages=st.integers(1, 8),
    max_bytes=st.integers(1, 60),
)
def test_nothing_is_lost_without_a_word_and_the_bounds_hold(
    sizes: list[tuple[bool, int]], max_messages: int, max_bytes: int
) -> None:
    """Our bound: what went in comes out, or was given up."""
    backlog = Backlog(max_messages=max_messages, max_bytes=max_bytes)
    given_up = []
    for number, (back, size) in enumerate(sizes):
        message = b"%d:" % number + b"x" * size
        given_up += backlog.put_back([message]) if back else backlog.add(message)
    kept = _all(backlog)
    assert len(kept) <= max_messages
    assert sum(map(len, kept)) <= max_bytes
    assert len(kept) + len(given_up) == len(sizes)
    assert len({*kept, *given_up}) == len(sizes)
