"""How often an address may fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdio_broker.auth.failures import FailureLimit, network_of


class Bucket:
    """A token bucket in its usual form: what the limit claims to be."""

    def __init__(self, per_minute: float, burst: int) -> None:
        self.tokens = float(burst)
        self._burst = burst
        self._rate = per_minute / 60
        self._seen = 0.0

    def take(self, now: float) -> bool:
        self.tokens = min(self._burst, self.tokens + (now - self._seen) * self._rate)
        self._seen = now
        taken = self.tokens >= 1
        self.tokens -= taken
        return taken


# Halves and powers of two: no rounding, so both models agree to the last failure.
@given(
    steps=st.lists(st.integers(0, 64).map(lambda halves: halves / 2), max_size=60),
    per_minute=st.sampled_from([7.5, 15.0, 30.0, 60.0]),
    burst=st.integers(1, 6),
)
def test_the_limit_is_a_token_bucket(steps: list[float], per_minute: float, burst: int) -> None:
    limit, bucket = FailureLimit(per_minute=per_minute, burst=burst), Bucket(per_minute, burst)
    now = 0.0
    for step in steps:
        now += step
        wait = limit.take("peer", now)
        assert (wait == 0) == bucket.take(now)
        assert wait >= 0
        assert limit.wait("peer", now) <= 60 / per_minute


@given(burst=st.integers(1, 20), start=st.floats(0, 1e6))
def test_after_the_wait_the_next_failure_is_let_through(burst: int, start: float) -> None:
    limit = FailureLimit(per_minute=10, burst=burst)
    assert [limit.take("peer", start) for _ in range(burst)] == [0.0] * burst
    wait = limit.take("peer", start)
    assert 0 < wait <= 6.0 + 1e-9
    assert limit.take("peer", start + wait * 0.9) > 0
    assert limit.take("peer", start + wait + 1e-5) == 0


def test_the_default_lets_twenty_through_at_once_and_ten_a_minute_after() -> None:
    """Ours: the defaults."""
    limit = FailureLimit(per_minute=10, burst=20)
    assert sum(limit.take("peer", 0.0) == 0 for _ in range(100)) == 20
    assert sum(limit.take("peer", second / 10) == 0 for second in range(6005)) == 100


def test_peers_do_not_share_a_bucket() -> None:
    limit = FailureLimit(per_minute=10, burst=1)
    assert limit.take("one", 0.0) == 0
    assert limit.take("one", 0.0) > 0
    assert limit.take("two", 0.0) == 0


def test_to_look_takes_nothing() -> None:
    limit = FailureLimit(per_minute=10, burst=1)
    assert limit.wait("peer", 0.0) == 0
    assert limit.wait("peer", 0.0) == 0
    assert len(limit) == 0
    assert limit.take("peer", 0.0) == 0
    assert limit.wait("peer", 0.0) == pytest.approx(6.0)


@given(peers=st.lists(st.integers(0, 9), max_size=50), size=st.integers(1, 5))
def test_the_table_is_bounded_and_forgets_who_has_not_failed_for_longest(peers: list[int], size: int) -> None:
    limit = FailureLimit(per_minute=1, burst=1, max_peers=size)
    recent: list[int] = []
    for peer in peers:
        limit.take(peer, 0.0)
        recent = [*(other for other in recent if other != peer), peer][-size:]
    assert len(limit) == len(recent)
    assert {peer for peer in range(10) if limit.wait(peer, 0.0)} == set(recent)


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_an_ipv6_network_is_one_peer(peer: str, network: str) -> None:
    """Ours: a client has all addresses of its network to choose from (RFC 4291, section 2.5.1)."""
    assert network_of(peer) == network
