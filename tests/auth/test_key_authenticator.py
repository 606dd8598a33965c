"""Who has a key is its principal, until it is revoked or has expired."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine

import pytest

from stdio_broker.auth import Authenticator, KeyAuthenticator, Settings
from stdio_broker.auth.database import Database
from stdio_broker.auth.store import KeyStore
from stdio_broker.errors import StorageError, TooManyRequests, Unauthenticated
from stdio_broker.sessions import Principal
from tests.auth.fake_store import FakeStore
from tests.auth.programs import FINISH_TIMEOUT, python
from tests.support.clock import run_in_virtual_time

ALICE = Principal(issuer="keys", subject="alice")
BOB = Principal(issuer="keys", subject="bob")
PEER = "192.0.2.1"
SETTINGS = Settings(mode="keys")

#: Of the epoch, when virtual time is 0.
START = 1_800_000_000.0


def virtual(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """Run a test in virtual time."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        run_in_virtual_time(test(*args, **kwargs))

    return run


def _now() -> float:
    return START + asyncio.get_running_loop().time()


def _bearer(text: str) -> bytes:
    return f"Bearer {text}".encode()


def _told(authenticator: Authenticator) -> list[tuple[float, str]]:
    """Return a list that fills with who is told, and when."""
    told: list[tuple[float, str]] = []
    loop = asyncio.get_running_loop()
    authenticator.on_revoked(lambda principal: told.append((round(loop.time(), 2), principal.subject)))
    return told


async def _refuses(authenticator: Authenticator, authorization: bytes | None, peer: str = PEER) -> bool:
    """Return whether a proof is refused; as presented, which it is."""
    presented = authorization is not None
    try:
        await authenticator.authenticate(authorization, peer)
    except Unauthenticated as exc:
        return exc.presented == presented
    return False


@virtual
async def test_a_key_proves_its_principal_and_names_its_servers() -> None:
    """Issue 5: per key: principal, servers, expiry."""
    store = FakeStore(clock=_now)
    key = await store.create("alice", servers=frozenset({"git"}), expires_at=START + 60)
    async with KeyAuthenticator(store, SETTINGS, clock=_now) as authenticator:
        access = await authenticator.authenticate(_bearer(key.text), PEER)
    assert access.principal == ALICE
    assert access.grant == key.id
    assert access.expires == START + 60
    assert access.may_use("git")
    assert not access.may_use("forgejo")


@virtual
async def test_what_is_not_a_known_key_is_refused() -> None:
    store = FakeStore(clock=_now)
    key = await store.create("alice")
    async with KeyAuthenticator(store, SETTINGS, clock=_now) as authenticator:
        assert not await _refuses(authenticator, _bearer(key.text))
        for text in (key.text[:-1], key.text.swapcase(), key.id, f"{key.text}=", f"{key.text}, {key.text}"):
            assert await _refuses(authenticator, _bearer(text))
        assert await _refuses(authenticator, None)


@virtual
async def test_requests_do_not_ask_the_store() -> None:
    """Issue 5: one hash and one look-up a request; nothing is written either."""
    store = FakeStore(clock=_now)
    key = await store.create("alice")
    async with KeyAuthenticator(store, SETTINGS, clock=_now) as authenticator:
        for _ in range(100):
            await authenticator.authenticate(_bearer(key.text), PEER)
        await asyncio.sleep(10)
        assert store.loads == 1


@virtual
async def test_a_key_made_later_is_known_within_the_poll_interval() -> None:
    store = FakeStore(clock=_now)
    async with KeyAuthenticator(store, Settings(mode="keys", poll_interval=2), clock=_now) as authenticator:
        told = _told(authenticator)
        key = await store.create("alice")
        assert await _refuses(authenticator, _bearer(key.text))
        await asyncio.sleep(2.01)
        assert not await _refuses(authenticator, _bearer(key.text))
        assert told == []


@virtual
async def test_a_revoked_key_ends_its_principal_and_nobody_else() -> None:
    """Issue 5: a revoked principal's children are killed at once; the next request gets 401."""
    store = FakeStore(clock=_now)
    key, other = await store.create("alice"), await store.create("bob")
    async with KeyAuthenticator(store, SETTINGS, clock=_now) as authenticator:
        told = _told(authenticator)
        await asyncio.sleep(0.1)
        await store.revoke_id(key.id)
        await asyncio.sleep(1)
        assert told == [(0.25, "alice")]
        assert await _refuses(authenticator, _bearer(key.text))
        assert not await _refuses(authenticator, _bearer(other.text))


@virtual
async def test_the_end_of_one_key_ends_all_sessions_but_not_the_other_keys() -> None:
    """Ours: a principal's sessions do not depend on which of its keys is in use."""
    store = FakeStore(clock=_now)
    first, second = await store.create("alice"), await store.create("alice")
    async with KeyAuthenticator(store, SETTINGS, clock=_now) as authenticator:
        told = _told(authenticator)
        await store.revoke_id(first.id)
        await asyncio.sleep(1)
        assert told == [(0.25, "alice")]
        assert not await _refuses(authenticator, _bearer(second.text))


@virtual
async def test_a_principal_is_told_once_however_many_of_its_keys_end() -> None:
    store = FakeStore(clock=_now)
    for _ in range(3):
        await store.create("alice")
    async with KeyAuthenticator(store, SETTINGS, clock=_now) as authenticator:
        told, also_told = _told(authenticator), _told(authenticator)
        await store.revoke_principal("alice")
        await asyncio.sleep(1)
        assert told == also_told == [(0.25, "alice")]


@virtual
async def test_a_key_expires_at_its_time_between_two_looks() -> None:
    """Issue 5: by a timer, not by the next look."""
    store = FakeStore(clock=_now)
    settings = Settings(mode="keys", poll_interval=1000)
    keys = [await store.create(name, expires_at=START + at) for name, at in [("alice", 5), ("bob", 90.5)]]
    async with KeyAuthenticator(store, settings, clock=_now) as authenticator:
        told = _told(authenticator)
        await asyncio.sleep(4.9)
        assert not await _refuses(authenticator, _bearer(keys[0].text))
        await asyncio.sleep(195)
        assert told == [(5.0, "alice"), (90.5, "bob")]
        for key in keys:
            assert await _refuses(authenticator, _bearer(key.text))
        assert store.loads == 1


@virtual
async def test_a_key_that_expires_far_away_costs_no_sleep_of_its_own() -> None:
    """Ours: the timer looks at the clock on the wall once in a while, for that may be set."""
    store = FakeStore(clock=_now)
    await store.create("alice", expires_at=START + 10_000)
    ahead = 0.0
    settings = Settings(mode="keys", poll_interval=100_000)
    async with KeyAuthenticator(store, settings, clock=lambda: _now() + ahead) as authenticator:
        told = _told(authenticator)
        await asyncio.sleep(90)
        ahead = 20_000
        await asyncio.sleep(90)
        assert told == [(120.0, "alice")]


@virtual
async def test_a_key_that_expired_between_two_ticks_is_refused_at_once() -> None:
    """Ours: each request looks at the clock, whatever the timer does."""
    store = FakeStore(clock=_now)
    key = await store.create("alice", expires_at=START + 10)
    ahead = 0.0
    async with KeyAuthenticator(store, SETTINGS, clock=lambda: _now() + ahead) as authenticator:
        assert not await _refuses(authenticator, _bearer(key.text))
        ahead = 10.0
        assert await _refuses(authenticator, _bearer(key.text))


@virtual
async def test_the_log_says_why_a_key_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    """Ours: also if the clock on the wall was set, and a look at the store comes before the timer."""
    caplog.set_level(logging.INFO)
    store = FakeStore(clock=_now)
    keys = [await store.create("alice", expires_at=START + 10), await store.create("bob")]
    ahead = 0.0
    async with KeyAuthenticator(store, SETTINGS, clock=lambda: _now() + ahead):
        ahead = 10.0
        await store.revoke_id(keys[1].id)
        await asyncio.sleep(1)
    facts = [(vars(record)["key"], vars(record)["reason"]) for record in caplog.records]
    assert facts == [(keys[0].id, "expired"), (keys[1].id, "revoked")]


@virtual
async def test_a_change_by_hand_ends_the_principal_unless_it_is_only_the_note() -> None:
    """Ours: sessions were opened under what the key said before."""
    store = FakeStore(clock=_now)
    key = await store.create("alice", servers=frozenset({"git", "forgejo"}))
    async with KeyAuthenticator(store, SETTINGS, clock=_now) as authenticator:
        told = _told(authenticator)
        store.change(key.id, note="new note")
        await asyncio.sleep(1)
        assert told == []
        await asyncio.sleep(0.1)
        store.change(key.id, servers=frozenset({"git"}))
        await asyncio.sleep(1)
        assert told == [(1.25, "alice")]
        assert not (await authenticator.authenticate(_bearer(key.text), PEER)).may_use("forgejo")


@virtual
async def test_a_store_that_is_away_stops_nobody_and_is_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Issue 5: keep what is known; keys past their expiry stop nevertheless."""
    store = FakeStore(clock=_now)
    key, brief = await store.create("alice"), await store.create("bob", expires_at=START + 5)
    async with KeyAuthenticator(store, SETTINGS, clock=_now) as authenticator:
        told = _told(authenticator)
        store.is_away = True
        await asyncio.sleep(10.01)
        assert not await _refuses(authenticator, _bearer(key.text))
        assert await _refuses(authenticator, _bearer(brief.text))
        assert told == [(5.0, "bob")]
        await store.revoke_id(key.id)
        await asyncio.sleep(10)
        assert not await _refuses(authenticator, _bearer(key.text))
        store.is_away = False
        await asyncio.sleep(1)
        assert await _refuses(authenticator, _bearer(key.text))
        assert [subject for _, subject in told] == ["bob", "alice"]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["auth.storage_away", "auth.storage_back"]


@virtual
async def test_a_store_that_is_away_at_the_start_is_an_error() -> None:
    """Ours: without keys nobody can be served."""
    store = FakeStore(clock=_now)
    store.is_away = True
    with pytest.raises(StorageError):
        async with KeyAuthenticator(store, SETTINGS, clock=_now):
            pass


@virtual
async def test_too_many_bad_keys_are_too_many_requests_but_a_good_key_passes() -> None:
    """Issue 5: rate-limited failures. Ours: a good key always passes."""
    store = FakeStore(clock=_now)
    key = await store.create("alice")
    settings = Settings(mode="keys", failures_per_minute=10, failure_burst=3)
    async with KeyAuthenticator(store, settings, clock=_now) as authenticator:
        for _ in range(3):
            assert await _refuses(authenticator, b"Bearer bad")
        with pytest.raises(TooManyRequests) as caught:
            await authenticator.authenticate(b"Bearer bad", PEER)
        assert caught.value.retry_after == pytest.approx(6)
        assert not await _refuses(authenticator, _bearer(key.text))
        assert await _refuses(authenticator, b"Bearer bad", "192.0.2.2")
        await asyncio.sleep(6.01)
        assert await _refuses(authenticator, b"Bearer bad")
        with pytest.raises(TooManyRequests):
            await authenticator.authenticate(b"Bearer bad", PEER)


@virtual
async def test_who_presents_nothing_always_gets_the_challenge(caplog: pytest.LogCaptureFixture) -> None:
    """RFC 9728 and RFC 6750: the challenge is how a client learns what is expected. But it fills no log."""
    caplog.set_level(logging.INFO)
    settings = Settings(mode="keys", failure_burst=3)
    async with KeyAuthenticator(FakeStore(clock=_now), settings, clock=_now) as authenticator:
        for _ in range(50):
            assert await _refuses(authenticator, None)
        assert await _refuses(authenticator, b"Bearer bad")
    assert len([record for record in caplog.records if record.getMessage() == "auth.failed"]) == 4


@virtual
async def test_failures_are_logged_without_the_proof(caplog: pytest.LogCaptureFixture) -> None:
    """Issue 5: one line for each failure; and a last word before the peer's next ones are not logged."""
    caplog.set_level(logging.DEBUG)
    store = FakeStore(clock=_now)
    key = await store.create("alice")
    settings = Settings(mode="keys", failure_burst=2)
    async with KeyAuthenticator(store, settings, clock=_now) as authenticator:
        await authenticator.authenticate(_bearer(key.text), PEER)
        await store.revoke_id(key.id)
        await asyncio.sleep(1)
        assert await _refuses(authenticator, _bearer(key.text))
        assert await _refuses(authenticator, _bearer(key.text))
        with pytest.raises(TooManyRequests) as caught:
            await authenticator.authenticate(_bearer(key.text), PEER)
        assert "stdiob_key_" not in f"{caught.value!r}"
        assert caught.value.__suppress_context__
    facts = [(record.levelname, record.getMessage(), vars(record).get("peer")) for record in caplog.records]
    assert facts == [
        ("INFO", "auth.key_ended", None),
        ("INFO", "auth.failed", PEER),
        ("INFO", "auth.failed", PEER),
        ("WARNING", "auth.failures_limited", PEER),
    ]
    shown = "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert key.id in shown
    assert key.text not in shown
    assert key.text not in repr(vars(authenticator))


@virtual
async def test_a_callback_that_fails_does_not_go_unnoticed() -> None:
    """Ours: it must not raise; if it does, whoever serves ends instead of serving the revoked."""
    store = FakeStore(clock=_now)
    await store.create("alice")

    def fail(_principal: Principal) -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        async with KeyAuthenticator(store, SETTINGS, clock=_now) as authenticator:
            authenticator.on_revoked(fail)
            await store.revoke_principal("alice")
            await asyncio.sleep(1)
    assert caught.group_contains(ZeroDivisionError)


class SlowStore(FakeStore):
    """Never tells its revision."""

    async def revision(self) -> int:
        never: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        return await never


@virtual
async def test_the_end_does_not_wait_for_a_store_that_hangs() -> None:
    loop = asyncio.get_running_loop()
    async with KeyAuthenticator(SlowStore(clock=_now), SETTINGS, clock=_now):
        await asyncio.sleep(1)
        ended = loop.time()
    assert loop.time() - ended < 5


@virtual
async def test_the_challenge_is_that_of_the_rfc() -> None:
    async with KeyAuthenticator(FakeStore(clock=_now), SETTINGS, clock=_now) as authenticator:
        assert authenticator.challenge(Unauthenticated(presented=False)) == b'Bearer realm="stdio-broker"'


async def test_a_revocation_by_another_process_is_seen(url: str) -> None:
    """Issue 5, "Done when" 5: `key revoke` is a process of its own."""
    async with Database(url) as database:
        store = KeyStore(database)
        key, other = await store.create("alice"), await store.create("bob")
        async with KeyAuthenticator(store, SETTINGS) as authenticator:
            told: asyncio.Queue[Principal] = asyncio.Queue()
            authenticator.on_revoked(told.put_nowait)
            assert not await _refuses(authenticator, _bearer(key.text))
            with python('await store.revoke_principal("alice")', url) as program:
                program.go()
                async with asyncio.timeout(FINISH_TIMEOUT):
                    assert await told.get() == ALICE
                program.finish()
            assert await _refuses(authenticator, _bearer(key.text))
            assert not await _refuses(authenticator, _bearer(other.text))
