"""Sessions that outlive their children: asleep, crashed, renewed, and ended where only that is honest."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import signal

import pytest

from stdio_broker.bridge import Settings as BridgeSettings
from stdio_broker.errors import (
    BridgeBroken,
    BrokerError,
    CapacityError,
    CredentialMissing,
    CredentialUnavailable,
    Draining,
    LimitReached,
    ServerFailing,
    SessionNotFound,
    SpawnError,
    StartTimeout,
)
from stdio_broker.protocol import journal as journal_module
from stdio_broker.protocol.jsonrpc import Notification, parse_body
from stdio_broker.sessions import ServerRecipe, Session, Settings
from stdio_broker.supervisor import Child, Config, ExitStatus
from stdio_broker.supervisor.restart import BreakerState, RestartPolicy
from stdio_broker.testing import FakeChild
from tests.support.fake_servers import ENDS, INITIALIZE_RESULT, SILENCE, FakeServers, Message, answer_line
from tests.support.fake_sessions import (
    ANNA,
    BERND,
    CONFIG,
    FakeSessions,
    answer_on,
    bridge_of,
    now,
    on_stream,
    sessions_of,
    settle,
    virtual,
)
from tests.support.tokens import Tokens

#: What is told of a child that has ended, besides how.
ENDED = {"reason": "server process ended", "retryable": True}

REPLAY = ["initialize", "notifications/initialized"]
TOOLS_CHANGED = "notifications/tools/list_changed"
RESOURCES_CHANGED = "notifications/resources/list_changed"
UPDATED = "notifications/resources/updated"
CHANGES = [TOOLS_CHANGED, RESOURCES_CHANGED]
NEWER: Message = {**INITIALIZE_RESULT, "serverInfo": {"name": "fake", "version": "2"}}


def answers(child: FakeChild, result: Message) -> None:
    """Let a child answer the last call that it heard."""
    calls = [json.loads(line) for line in child.stdin.lines if b"tools/call" in line]
    child.stdout.feed(answer_line(calls[-1]["id"], result))


def names_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged of a session's life."""
    return [message for message in caplog.messages if message.startswith("session.")]


# Sleep.


@virtual
async def test_an_idle_session_sleeps_and_its_next_request_wakes_it(caplog: pytest.LogCaptureFixture) -> None:
    """Issue 5, "Done when" 4: idle → no child; a request wakes one, its answer identical; listeners stay."""
    caplog.set_level(logging.INFO)
    async with sessions_of(idle_timeout=100) as rig:
        session = await rig.open()
        session_id, listener = session.id, session.bridge.listen()
        before = await rig.ask(session, name="t")
        await settle(99)
        assert (rig.servers.alive, rig.manager.statistics().asleep) == (1, 0)
        await settle(2)
        statistics = rig.manager.statistics()
        assert (rig.servers.alive, statistics.places) == (0, 0)
        assert (statistics.sessions, statistics.asleep) == (1, 1)
        assert (session.link, session.ended, listener.open) == (None, None, True)
        assert not session.busy
        assert await rig.ask(session, name="t") == before
        assert (session.id, rig.manager.find(ANNA, session_id)) == (session_id, session)
        assert rig.heard() == [*REPLAY, "tools/call"]
        assert rig.manager.statistics().asleep == 0
        # What it was told of before has not changed.
        assert await on_stream(listener) == []
    (slept,) = [vars(record) for record in caplog.records if record.message == "session.sleeps"]
    assert (slept["reason"], slept["principal"], slept["server"]) == ("idle", "anna", "fake")
    assert names_of(caplog).count("session.woken") == 1


@virtual
async def test_a_session_that_was_woken_sleeps_again() -> None:
    """Ours: each time that it is idle, not once."""
    async with sessions_of(idle_timeout=100) as rig:
        session = await rig.open()
        for slept in range(1, 5):
            await settle(101 + 30 * slept)
            assert rig.servers.alive == 0
            await rig.ask(session)
            assert rig.servers.alive == 1
        assert len(rig.servers.children) == 5


@virtual
async def test_a_session_that_sleeps_too_long_ends() -> None:
    """Settings.session_timeout: counted from its last request."""
    async with sessions_of(idle_timeout=100, session_timeout=1000) as rig:
        session, other = await rig.open(), await rig.open()
        await settle(600)
        await rig.ask(other)
        await settle(399)
        assert rig.manager.statistics().sessions == 2
        await settle(2)
        assert (session.ended, rig.manager.statistics().sessions) == ("idle", 1)
        with pytest.raises(SessionNotFound):
            rig.manager.find(ANNA, session.id)
        await settle(600)
        assert other.ended == "idle"
        assert len(rig.servers.children) == 3


@virtual
async def test_a_session_does_not_sleep_while_a_call_runs() -> None:
    """Design, 6.5: a child that owes something is never reaped as idle."""
    async with sessions_of(idle_timeout=10) as rig:
        session = await rig.open()
        del rig.servers.results["tools/call"]
        exchange = await rig.call(session)
        await settle(1000)
        assert rig.servers.alive == 1
        answers(rig.servers.child, {"n": 1})
        assert (await answer_on(exchange))["result"] == {"n": 1}
        session.bridge.release(exchange)
        await settle(9)
        assert rig.servers.alive == 1
        await settle(2)
        assert rig.servers.alive == 0


@virtual
async def test_a_session_that_is_told_of_changes_of_resources_does_not_sleep() -> None:
    """Ours: nobody would tell it. One that only listens, or is only subscribed, can."""
    async with sessions_of(idle_timeout=10) as rig:
        session = await rig.open()
        listener = session.bridge.listen()
        await settle(11)
        assert rig.servers.alive == 0
        await rig.ask(session, "resources/subscribe", uri="a:1")
        await settle(100)
        assert rig.servers.alive == 1
        session.bridge.release(listener)
        await settle(11)
        assert rig.servers.alive == 0
        # Its next child is subscribed, too, and who listens again knows that all may have changed.
        await rig.ask(session)
        assert rig.heard() == [*REPLAY, "resources/subscribe", "tools/call"]
        assert await on_stream(session.bridge.listen()) == [UPDATED]


@virtual
async def test_two_requests_wake_one_child() -> None:
    """Ours: the first who asks has it started, and the others wait for the same."""
    async with sessions_of(idle_timeout=10) as rig:
        session = await rig.open()
        await settle(11)
        rig.servers.start_seconds = 5
        answers = await asyncio.gather(*(rig.ask(session, name=str(number)) for number in range(5)))
        assert all("result" in answer for answer in answers)
        assert len(rig.servers.children) == 2
        assert rig.heard() == [*REPLAY, *["tools/call"] * 5]


@virtual
async def test_who_waits_for_a_child_may_go_away_and_the_others_get_it() -> None:
    """Ours: the start is everybody's."""
    async with sessions_of(idle_timeout=10) as rig:
        session = await rig.open()
        await settle(11)
        rig.servers.start_seconds = 5
        first, second = (asyncio.create_task(rig.ask(session)) for _ in range(2))
        await settle(1)
        first.cancel()
        assert "result" in await second
        assert len(rig.servers.children) == 2
        assert not session.bridge.busy


@virtual
async def test_a_session_is_woken_only_when_its_last_child_is_gone() -> None:
    """Ours: not two processes where there may be place for one only."""
    async with sessions_of(idle_timeout=10, max_children=1) as rig:
        session = await rig.open()
        child = rig.servers.child
        child.stdin.fill()  # so that it does not notice that it shall end
        await settle(10)
        await rig.ask(session)
        assert child.done.is_set()
        assert (rig.servers.alive, rig.manager.statistics().places) == (1, 1)


@virtual
async def test_a_session_for_whose_child_there_is_no_place_is_kept() -> None:
    """Design, 6.12: refused with Retry-After; a later request may be luckier."""
    async with sessions_of(idle_timeout=10, max_children=1, retry_after=7) as rig:
        session = await rig.open()
        await settle(11)
        other = await rig.open(BERND)
        problem = await rig.problem_of(session)
        assert isinstance(problem, LimitReached)
        assert problem.retry_after == 7
        await settle(11)
        assert other.link is None
        assert "result" in await rig.ask(session)


# A crash.


@virtual
async def test_after_a_crash_the_next_request_has_a_fresh_child_in_the_same_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Issue 5, "Done when" 2: every call answered (result or typed error), no session lost."""
    caplog.set_level(logging.INFO)
    async with sessions_of() as rig:
        session = await rig.open()
        await rig.ask(session, "logging/setLevel", level="info")
        listener = session.bridge.listen()
        del rig.servers.results["tools/call"]
        running = await rig.call(session)
        await rig.crash()
        error = (await answer_on(running))["error"]
        assert error["data"] == {**ENDED, "exitCode": 3}
        session.bridge.release(running)
        assert (len(rig.servers.children), rig.manager.statistics().places) == (1, 0)
        assert rig.manager.is_durable(session)
        rig.servers.results["tools/call"] = {"n": 1}
        assert (await rig.ask(session))["result"] == {"n": 1}
        assert rig.manager.find(ANNA, session.id) is session
        assert rig.heard() == [*REPLAY, "logging/setLevel", "tools/call"]
        assert await on_stream(listener) == CHANGES
        assert rig.manager.statistics().crashes == 1
    (lost,) = [vars(record) for record in caplog.records if record.message == "session.lost_child"]
    assert (lost["session"], lost["principal"], lost["server"]) == (session.name, "anna", "fake")


@virtual
async def test_a_crash_of_a_session_that_is_told_of_resources_is_mended_unasked() -> None:
    """Ours: its client waits, and asks nothing."""
    async with sessions_of() as rig:
        session = await rig.open()
        await rig.ask(session, "resources/subscribe", uri="a:1")
        listener = session.bridge.listen()
        await rig.crash()
        assert rig.servers.alive == 1
        assert rig.heard() == [*REPLAY, "resources/subscribe"]
        assert await on_stream(listener) == [*CHANGES, UPDATED]
        session.bridge.release(listener)
        await rig.crash()
        assert rig.servers.alive == 0


@virtual
async def test_a_crash_that_is_long_over_is_not_told_of_again() -> None:
    """Ours: a client lists everything anew whenever it is told."""
    async with sessions_of(idle_timeout=100) as rig:
        session = await rig.open()
        listener = session.bridge.listen()
        await rig.crash()
        await rig.ask(session)
        assert await on_stream(listener) == CHANGES
        await settle(101)
        assert session.link is None
        await rig.ask(session)
        assert await on_stream(listener) == []


POLICY = RestartPolicy(max_restarts=2, window=60, first_backoff=40, max_backoff=160, stable_after=300)


async def crash_in_use(rig: FakeSessions, session: Session) -> None:
    await rig.ask(session)
    await rig.crash()


@virtual
async def test_a_session_whose_children_keep_crashing_is_left_alone_for_a_while() -> None:
    """Issue 5: restart intensity bounded. The session is kept, and the server is everybody else's to use."""
    async with sessions_of(breaker=POLICY) as rig:
        session, other = await rig.open(), await rig.open(BERND)
        await rig.crash(rig.servers.children[0])
        for _ in range(2):
            await crash_in_use(rig, session)
        problem = await rig.problem_of(session)
        assert isinstance(problem, ServerFailing)
        # Of the third back-off, what has not passed.
        assert problem.retry_after == pytest.approx(160 - 1)
        assert len(rig.servers.children) == 4
        assert session.ended is None
        assert rig.manager.statistics().breaker.state is BreakerState.CLOSED
        assert "result" in await rig.ask(other)
        await settle(160)
        # One more try; it fails, and the next wait is as long as they get.
        await crash_in_use(rig, session)
        problem = await rig.problem_of(session)
        assert isinstance(problem, ServerFailing)
        assert problem.retry_after == pytest.approx(160 - 1)
        await settle(160)
        assert "result" in await rig.ask(session)


@virtual
async def test_a_child_that_lived_long_enough_is_no_crash_in_a_row() -> None:
    """RestartPolicy.stable_after."""
    async with sessions_of(breaker=dataclasses.replace(POLICY, max_restarts=0, stable_after=30)) as rig:
        session = await rig.open()
        for _ in range(3):
            await settle(31)
            await rig.crash()
            assert isinstance(await rig.problem_of(session), ServerFailing)
            await settle(40)
            await rig.ask(session)


@virtual
async def test_a_listener_does_not_wake_children_that_crash_for_ever() -> None:
    """Ours: it asks for nothing, so nobody would ever stop."""
    async with sessions_of(breaker=POLICY) as rig:
        session = await rig.open()
        await rig.ask(session, "resources/subscribe", uri="a:1")
        session.bridge.listen()
        for _ in range(5):
            if rig.servers.alive:
                await rig.crash()
        assert (len(rig.servers.children), rig.servers.alive) == (3, 0)
        assert session.ended is None


# A child that cannot be had.


@pytest.mark.parametrize(
    ("start_error", "initialize", "expected"),
    [
        pytest.param(SpawnError("fake", "no such program"), None, SpawnError, id="no such program"),
        pytest.param(None, SILENCE, StartTimeout, id="silent"),
        pytest.param(None, ENDS, BridgeBroken, id="ends at its start"),
        pytest.param(
            CapacityError("fake", "no", resource="processes", used=1, limit=1), None, CapacityError, id="full"
        ),
    ],
)
@virtual
async def test_a_child_that_does_not_start_is_a_typed_error_and_no_end(
    start_error: BrokerError | None, initialize: str | None, expected: type[BrokerError]
) -> None:
    """Ours: it is the operator's to mend, and the session is there when it is."""
    policy = RestartPolicy(max_restarts=9, first_backoff=0, max_backoff=0)
    async with sessions_of(idle_timeout=10, start_timeout=5, breaker=policy) as rig:
        session = await rig.open()
        await settle(11)
        rig.servers.start_error = start_error
        if initialize is not None:
            rig.servers.initialize = initialize
        for _ in range(2):
            assert type(await rig.problem_of(session)) is expected
            await settle()
            assert (rig.servers.alive, rig.manager.statistics().places) == (0, 0)
        failures = rig.manager.statistics().breaker.failures
        assert failures == (0 if expected is CapacityError else 2)
        assert (session.ended, session.busy) == (None, False)
        rig.servers.start_error, rig.servers.initialize = None, INITIALIZE_RESULT
        assert "result" in await rig.ask(session)
        assert rig.manager.statistics().breaker.failures == 0


@virtual
async def test_a_child_that_ends_before_it_is_used_is_no_crash_of_the_session() -> None:
    """Ours: its start has failed, which the server's breaker counts."""
    async with sessions_of(idle_timeout=10) as rig:
        session = await rig.open()
        await settle(11)
        rig.servers.initialize = ENDS
        assert isinstance(await rig.problem_of(session), BridgeBroken)
        await settle()
        assert session.breaker is None
        assert rig.manager.statistics().breaker.failures == 1


class Stillborn(FakeServers):
    """Children that end before they have read anything, or only close their stdin; see `how`.

    Attributes:
        how: Which of both; None for children that live.
    """

    how: str | None = None

    async def start(self, config: Config) -> Child:
        """Start one."""
        child = await super().start(config)
        assert isinstance(child, FakeChild)
        if self.how == "ends":
            child.exit(ExitStatus(code=5, signal=None))
        elif self.how == "is deaf":
            child.stdin.shut()
        return child


@pytest.mark.parametrize("recovery", ["end", "replay"])
@pytest.mark.parametrize(("how", "code"), [("ends", 5), ("is deaf", None)])
@virtual
async def test_a_child_that_ends_before_it_reads_is_told_with_how_it_did(
    how: str, code: int | None, recovery: str
) -> None:
    """protocol.md, 9: whether its end or our line comes first is a matter of microseconds."""
    servers = Stillborn()
    servers.how = how
    async with sessions_of(servers, recovery=recovery) as rig:
        with pytest.raises(BridgeBroken, match="before it read `initialize`") as caught:
            await rig.open()
        assert caught.value.code == code
        assert rig.manager.statistics().breaker.failures == 1
        await settle()
        assert (rig.servers.alive, rig.manager.statistics().places) == (0, 0)


@virtual
async def test_a_child_that_ends_before_it_reads_is_told_to_whoever_woke_it() -> None:
    """The same for the next one of a session."""
    servers = Stillborn()
    async with sessions_of(servers, idle_timeout=10) as rig:
        session = await rig.open()
        await settle(11)
        servers.how = "ends"
        problem = await rig.problem_of(session)
        assert isinstance(problem, BridgeBroken)
        assert problem.code == 5
        servers.how = None
        assert "result" in await rig.ask(session)


# Another answer.


@virtual
async def test_a_child_that_says_something_else_of_itself_is_used_and_the_client_lists_again() -> None:
    """Issue 5: if the replayed `initialize` answers differently, the client is told by list_changed."""
    async with sessions_of(idle_timeout=10) as rig:
        session = await rig.open()
        listener = session.bridge.listen()
        await settle(11)
        rig.servers.initialize = NEWER
        await rig.ask(session)
        assert await on_stream(listener) == CHANGES
        assert session.ended is None


@pytest.mark.parametrize(
    "answer",
    [
        {**INITIALIZE_RESULT, "protocolVersion": "2025-06-18"},
        {**INITIALIZE_RESULT, "capabilities": {"tools": {}}},
        {"code": -32602, "message": "no"},
    ],
    ids=["version", "capabilities", "refusal"],
)
@virtual
async def test_a_session_ends_where_what_was_agreed_holds_no_more(answer: Message) -> None:
    """Issue 5: or the session ends with 404 where that is the only honest answer."""
    async with sessions_of(idle_timeout=10) as rig:
        session = await rig.open()
        listener = session.bridge.listen()
        await settle(11)
        rig.servers.initialize = answer
        assert isinstance(await rig.problem_of(session), SessionNotFound)
        assert session.ended == "the server is another one by now"
        assert not listener.open
        with pytest.raises(SessionNotFound):
            rig.manager.find(ANNA, session.id)
        await settle()
        assert (rig.servers.alive, rig.manager.statistics().places) == (0, 0)
        assert rig.heard() == ["initialize"]
        # It answers, so it is not a server that fails.
        assert rig.manager.statistics().breaker.failures == 0


@virtual
async def test_a_session_whose_journal_is_incomplete_ends_with_its_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ours: what cannot be said again must not be left out in silence."""
    monkeypatch.setattr(journal_module, "MAX_SUBSCRIPTIONS", 1)
    async with sessions_of(idle_timeout=10) as rig:
        session, idle = await rig.open(), await rig.open()
        for one in (session, idle):
            for uri in ("a:1", "a:2"):
                await rig.ask(one, "resources/subscribe", uri=uri)
            assert not rig.manager.is_durable(one)
        await rig.crash(rig.servers.children[0])
        assert session.ended == "the server ended"
        await settle(10)
        assert idle.ended == "idle"


@virtual
async def test_a_session_that_does_not_outlive_its_child_ends_with_it_or_when_it_is_idle() -> None:
    """Settings.recovery: "end"."""
    async with sessions_of(recovery="end", idle_timeout=10) as rig:
        session, idle = await rig.open(), await rig.open()
        await rig.crash(rig.servers.children[0])
        assert session.ended == "the server ended"
        await settle(10)
        assert idle.ended == "idle"
        assert len(rig.servers.children) == 2


# Renewal.


def tokens_of(rig: FakeSessions) -> list[object]:
    """Return what each child was started with."""
    return [config.env["TOKEN"] for config in rig.servers.configs]


@virtual
async def test_a_rotated_credential_reaches_the_session_and_no_call_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Issue 5, "Done when" 3: the old child gone, the new one has the new value, zero failed calls."""
    caplog.set_level(logging.INFO)
    tokens = Tokens({ANNA: "old", BERND: "other"})
    async with sessions_of(tokens=tokens, refresh_interval=30) as rig:
        session, bystander = await rig.open(), await rig.open(BERND)
        listener = session.bridge.listen()
        old = rig.servers.children[0]
        del rig.servers.results["tools/call"]
        running = await rig.call(session, name="slow")
        tokens.tokens[ANNA] = "new"
        await settle(31)
        new = rig.servers.child
        assert tokens_of(rig) == ["old", "other", "new"]
        assert rig.heard() == REPLAY
        rig.servers.results["tools/call"] = {"of": "new"}
        assert (await rig.ask(session))["result"] == {"of": "new"}
        assert rig.heard(old).count("tools/call") == 1
        assert not old.exited.is_set()
        answers(old, {"of": "old"})
        assert (await answer_on(running))["result"] == {"of": "old"}
        session.bridge.release(running)
        await settle()
        assert old.done.is_set()
        assert not new.exited.is_set()
        # The client has noticed nothing, and nobody else has been touched.
        assert await on_stream(listener) == []
        assert bystander.link is not None
        assert bystander.link.child is rig.servers.children[1]
        await settle(100)
        assert len(rig.servers.children) == 3
    assert names_of(caplog).count("session.renewed") == 1
    assert "session.lost_child" not in names_of(caplog)
    assert not any(token in str(vars(record)) for record in caplog.records for token in ("'old'", "'new'"))


@virtual
async def test_a_child_that_does_not_finish_in_time_is_stopped_all_the_same() -> None:
    """Settings.drain_timeout."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30, drain_timeout=60) as rig:
        session = await rig.open()
        old = rig.servers.child
        del rig.servers.results["tools/call"]
        running = await rig.call(session)
        tokens.tokens[ANNA] = "new"
        await settle(31)
        began = now()
        assert "error" in await answer_on(running)
        assert now() - began == pytest.approx(59, abs=1)
        session.bridge.release(running)
        await settle()
        assert old.done.is_set()
        assert rig.servers.alive == 1
        assert session.ended is None


@virtual
async def test_while_a_renewal_is_under_way_the_old_child_serves() -> None:
    """Issue 5: replay, then switch over."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30) as rig:
        session = await rig.open()
        old = rig.servers.child
        rig.servers.start_seconds = 20
        tokens.tokens[ANNA] = "new"
        await settle(35)
        began = now()
        assert "result" in await rig.ask(session)
        assert now() == began
        assert rig.heard(old)[-1] == "tools/call"
        await settle(20)
        assert tokens_of(rig) == ["old", "new"]
        assert "result" in await rig.ask(session)
        assert rig.heard()[-1] == "tools/call"


@virtual
async def test_a_renewal_that_fails_is_tried_again_and_the_old_child_serves() -> None:
    """Ours: what works is not taken away before there is something better."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30) as rig:
        session = await rig.open()
        rig.servers.start_error = SpawnError("fake", "no")
        tokens.tokens[ANNA] = "new"
        await settle(31)
        assert "result" in await rig.ask(session)
        assert rig.servers.alive == 1
        rig.servers.start_error = None
        await settle(30)
        assert tokens_of(rig) == ["old", "new"]
        assert rig.servers.alive == 1
        assert session.ended is None


@virtual
async def test_a_child_that_crashes_while_its_successor_starts_costs_no_wait_for_a_third() -> None:
    """Ours: one replacement at a time."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30) as rig:
        session = await rig.open()
        rig.servers.start_seconds = 20
        tokens.tokens[ANNA] = "new"
        await settle(35)
        await rig.crash()
        assert "result" in await rig.ask(session)
        assert tokens_of(rig) == ["old", "new"]


@virtual
async def test_a_sleeping_session_takes_the_new_credential_when_it_wakes() -> None:
    """Ours: nobody is woken for it."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30, idle_timeout=10) as rig:
        session = await rig.open()
        await settle(11)
        tokens.tokens[ANNA] = "new"
        await settle(60)
        assert tokens_of(rig) == ["old"]
        await rig.ask(session)
        assert tokens_of(rig) == ["old", "new"]


@virtual
async def test_a_session_that_does_not_outlive_its_child_keeps_it() -> None:
    """Settings.recovery: "end": there is nothing to renew it with."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30, recovery="end") as rig:
        session = await rig.open()
        tokens.tokens[ANNA] = "new"
        await settle(61)
        assert tokens_of(rig) == ["old"]
        assert "result" in await rig.ask(session)


@virtual
async def test_a_source_that_does_not_answer_changes_nothing() -> None:
    """Ours: what a child has is good as far as we know. A session that sleeps is told, and kept."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30, idle_timeout=200) as rig:
        session = await rig.open()
        tokens.reachable = False
        await settle(100)
        assert "result" in await rig.ask(session)
        await settle(201)
        assert isinstance(await rig.problem_of(session), CredentialUnavailable)
        tokens.reachable = True
        assert "result" in await rig.ask(session)
        assert session.ended is None


@virtual
async def test_a_credential_that_is_withdrawn_ends_everything_at_once() -> None:
    """Issue 5: killed, not drained; the others live on."""
    tokens = Tokens({ANNA: "a", BERND: "b"})
    async with sessions_of(tokens=tokens, refresh_interval=30) as rig:
        session, other = await rig.open(), await rig.open(BERND)
        del rig.servers.results["tools/call"]
        running = await rig.call(session)
        del tokens.tokens[ANNA]
        await settle(31)
        assert "withdrawn" in (await answer_on(running))["error"]["message"]
        assert session.ended == "the credential was withdrawn"
        assert (other.ended, rig.servers.alive) == (None, 1)
        with pytest.raises(CredentialMissing):
            await rig.open()


# Another configuration.


@virtual
async def test_another_recipe_is_used_when_that_disturbs_nobody() -> None:
    """Issue 5: a changed server recipe: new sessions use it, old ones move when idle."""
    async with sessions_of() as rig:
        busy, idle = await rig.open(), await rig.open()
        del rig.servers.results["tools/call"]
        running = await rig.call(busy)
        recipe = ServerRecipe("fake", dataclasses.replace(CONFIG, cmd=["other"]))
        rig.manager.reconfigure(recipe, Settings(), BridgeSettings())
        await settle()
        assert (idle.link, rig.servers.alive) == (None, 1)
        answers(rig.servers.children[0], {"n": 1})
        assert "result" in await answer_on(running)
        busy.bridge.release(running)
        await settle()
        assert (busy.link, rig.servers.alive) == (None, 0)
        rig.servers.results["tools/call"] = {"n": 2}
        for session in (busy, idle, busy, idle):
            assert (await rig.ask(session))["result"] == {"n": 2}
            await settle()
        await rig.open()
        assert [config.cmd[0] for config in rig.servers.configs] == ["fake"] * 2 + ["other"] * 3


@virtual
async def test_another_recipe_is_used_once_by_a_session_that_was_asleep() -> None:
    """Ours: what it is woken with is new already."""
    async with sessions_of(idle_timeout=10) as rig:
        session = await rig.open()
        await settle(11)
        recipe = ServerRecipe("fake", dataclasses.replace(CONFIG, cmd=["other"]))
        rig.manager.reconfigure(recipe, Settings(idle_timeout=10), BridgeSettings())
        await settle()
        assert len(rig.servers.children) == 1
        for _ in range(2):
            await rig.ask(session)
            await settle()
            assert [config.cmd[0] for config in rig.servers.configs] == ["fake", "other"]


@virtual
async def test_the_same_recipe_again_disturbs_nobody() -> None:
    """Ours: a reload of an unchanged file."""
    async with sessions_of() as rig:
        session = await rig.open()
        rig.manager.reconfigure(ServerRecipe("fake", CONFIG), Settings(), BridgeSettings())
        await settle()
        assert session.link is not None
        assert session.link.child is rig.servers.child
        assert not session.outdated


# Ends.


@virtual
async def test_a_revoked_principal_loses_its_children_at_once() -> None:
    """Issue 5, "Done when" 5: running call ended, child gone within 1 s; others keep theirs."""
    async with sessions_of() as rig:
        session, other = await rig.open(), await rig.open(BERND)
        child = rig.servers.children[0]
        del rig.servers.results["tools/call"]
        running = await rig.call(session)
        child.stdin.fill()  # so that it does not notice when it is asked politely
        began = now()
        rig.manager.revoke(ANNA, "the key was revoked")
        assert "revoked" in (await answer_on(running))["error"]["message"]
        await child.done.wait()
        assert now() == began
        assert (other.ended, rig.servers.alive) == (None, 1)


async def waking(rig: FakeSessions, stage: str) -> tuple[Session, asyncio.Task[Message]]:
    """Return a session that is being woken, and who waits for that."""
    session = await rig.open()
    await settle(11)
    if stage == "start":
        rig.servers.start_seconds = 50
    else:
        rig.servers.initialize = SILENCE
    task = asyncio.create_task(rig.ask(session))
    await settle(1)
    assert session.busy
    return session, task


stages = pytest.mark.parametrize("stage", ["start", "handshake"])


@stages
@pytest.mark.parametrize("revoked", [False, True])
@virtual
async def test_a_session_that_ends_while_it_is_woken_leaves_nothing(stage: str, *, revoked: bool) -> None:
    """Ours: and that is no failure of the server."""
    async with sessions_of(idle_timeout=10) as rig:
        session, task = await waking(rig, stage)
        if revoked:
            rig.manager.revoke(ANNA, "revoked")
        else:
            rig.manager.end(session, "the client ended it")
        with pytest.raises((SessionNotFound, BridgeBroken)):
            await task
        await settle(60)
        assert (rig.servers.alive, rig.manager.statistics().places) == (0, 0)
        assert rig.manager.statistics().breaker.failures == 0
        assert not session.bridge.busy


@stages
@virtual
async def test_shutting_down_while_a_session_is_woken_leaves_nothing(stage: str) -> None:
    """Ours: `sessions_of` looks."""
    async with sessions_of(idle_timeout=10) as rig:
        _, task = await waking(rig, stage)
    with pytest.raises((Draining, SessionNotFound, BridgeBroken)):
        await task


@virtual
async def test_whoever_opens_a_session_while_we_shut_down_is_told_so() -> None:
    """errors.Draining: 503 and Retry-After, not 404 to a client that has named no session."""
    async with sessions_of() as rig:
        rig.servers.start_seconds = 5
        opening = asyncio.create_task(rig.open())
        await settle()
        rig.manager.end_all("the broker is shutting down")
        with pytest.raises(Draining):
            await opening


@virtual
async def test_shutting_down_while_a_session_is_renewed_leaves_nothing() -> None:
    """Ours."""
    tokens = Tokens({ANNA: "old"})
    async with sessions_of(tokens=tokens, refresh_interval=30) as rig:
        await rig.open()
        rig.servers.initialize = SILENCE
        tokens.tokens[ANNA] = "new"
        await settle(35)
        assert rig.servers.alive == 2


@virtual
async def test_nobody_waits_for_a_wake_that_is_cancelled() -> None:
    """Ours: whoever stops us may do so twice, and then nothing goes on."""
    waiters: list[asyncio.Task[Message]] = []

    async def manage() -> None:
        async with sessions_of(idle_timeout=10) as rig:
            waiters.append((await waking(rig, "start"))[1])
            await settle(1000)

    managed = asyncio.create_task(manage())
    await settle(15)
    for _ in range(2):
        managed.cancel()
        await settle(0.01)
    async with asyncio.timeout(5):
        await asyncio.wait([managed, *waiters])
    assert isinstance(waiters[0].exception(), Draining)


@virtual
async def test_a_child_that_is_being_stopped_is_killed_when_that_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ours: as every stop that is cancelled. Whoever stops us twice does not want to wait for graces."""
    children: list[FakeChild] = []

    async def manage() -> None:
        async with sessions_of() as rig:
            await rig.open()
            children.extend(rig.servers.children)
            await settle(1000)

    monkeypatch.setattr(FakeChild, "_read_eof", lambda _: None)  # it does not end by EOF
    managed = asyncio.create_task(manage())
    await settle(1)
    for _ in range(2):
        managed.cancel()
        await settle(0.01)
    (child,) = children
    assert child.signals == [signal.SIGKILL]
    async with asyncio.timeout(5):
        await asyncio.wait([managed])


@virtual
async def test_nobody_is_woken_while_we_drain() -> None:
    """errors.Draining: nothing new starts."""
    async with sessions_of(idle_timeout=10) as rig:
        session = await rig.open()
        await settle(11)
        await rig.manager.drain(1)
        assert isinstance(await rig.problem_of(session), Draining)
        assert len(rig.servers.children) == 1


@virtual
async def test_whoever_waits_for_a_child_when_a_drain_begins_is_told_so() -> None:
    """errors.Draining: nothing new starts; the call was not sent, so another node may have it."""
    async with sessions_of(idle_timeout=10) as rig:
        session = await rig.open()
        await settle(11)
        rig.servers.start_seconds = 5
        task = asyncio.create_task(rig.ask(session))
        await settle(1)
        draining = asyncio.create_task(rig.manager.drain(100))
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, Draining)
        await draining


@virtual
async def test_a_mistake_of_ours_while_a_session_is_woken_is_an_error_of_that_request() -> None:
    """Ours: an entry point; the session is as it was."""
    with pytest.raises(AssertionError, match=r"session\.not_woken"):
        async with sessions_of(idle_timeout=10) as rig:
            session = await rig.open()
            await settle(11)
            rig.servers.start_error = LookupError("a mistake")
            assert isinstance(await rig.problem_of(session), BridgeBroken)
            rig.servers.start_error = None
            assert "result" in await rig.ask(session)


@virtual
async def test_notifications_that_tell_a_fresh_child_nothing_wake_none() -> None:
    """Ours: `roots/list_changed`, for instance: it asks for the roots if it wants them."""
    async with sessions_of(idle_timeout=10) as rig:
        session = await rig.open()
        await settle(11)
        for method, alive in (("notifications/roots/list_changed", 0), ("notifications/x", 1)):
            message = parse_body(json.dumps({"jsonrpc": "2.0", "method": method}).encode())
            assert isinstance(message, Notification)
            await bridge_of(session).notify(message)
            assert rig.servers.alive == alive
